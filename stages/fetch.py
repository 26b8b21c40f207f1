"""fetch: data/sources.yaml -> data/raw/{train,test}.label, data/encoders/NAME/

Every file is proven by its SHA-256, wherever it came from; files that are right already are not fetched again.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers

from qc.downloads import Downloader
from qc.fetching import Fetcher, prune, wanted_encoder_files, wanted_label_file
from qc.settings import Settings
from stages.entry import ENCODERS, RAW, load_sources, run


def main(settings: Settings) -> None:
    """Bring the files that params.yaml names, and remove others from the two folders."""
    sources = load_sources()
    wanted = [wanted_label_file(sources, settings.fetch.train, RAW / "train.label")]
    if settings.fetch.test:
        wanted.append(wanted_label_file(sources, settings.fetch.test, RAW / "test.label"))
    for name in settings.fetch.encoders:
        wanted += wanted_encoder_files(sources, name, ENCODERS / name, hub_url)

    hub = urlsplit(hub_url("owner/name", "file", "main")).netloc
    mirror = os.environ.get("QC_MIRROR")
    fetcher = Fetcher(Downloader(headers={hub: build_hf_headers()}), Path(mirror) if mirror else None)
    for target, origin in fetcher.fetch(wanted).items():
        print(f"{target}: {origin}")

    for folder in (RAW, ENCODERS):
        for path in prune(folder, [file.target for file in wanted]):
            print(f"{path}: removed, params.yaml does not name it")


def hub_url(repository: str, file: str, revision: str) -> str:
    """The hub's address of a file; `HF_ENDPOINT` names another hub."""
    return hf_hub_url(repository, file, revision=revision)


if __name__ == "__main__":
    run(main)
