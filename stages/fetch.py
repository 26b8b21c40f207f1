"""fetch: data/sources.yaml, data/own, the hub -> data/raw, data/encoders

data/raw holds train and test, in the format they came in, and files.json, which says what they are; data/encoders/NAME
an encoder's files, and source.json. Every file is proven by its hash, wherever it came from; files that are right
already are not fetched again.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers

from qc.artifacts import write_json
from qc.downloads import Downloader
from qc.fetching import Fetcher, prune
from qc.lookup import find_encoder, find_questions
from qc.references import encoder_name
from qc.settings import Settings
from qc.sources import RECORD
from stages.entry import ENCODERS, FILES, OWN, RAW, load_sources, run


def main(settings: Settings) -> None:
    """Bring the files that params.yaml names, and remove others from the two folders."""
    own, sources = settings.fetch, load_sources()
    mirror = Path(os.environ["QC_MIRROR"]) if os.environ.get("QC_MIRROR") else None
    columns = own.columns.model_dump()
    questions = {
        key: find_questions(sources, key, reference, sha256, columns, RAW)
        for key, reference, sha256 in (("train", own.train, own.train_sha256), ("test", own.test, own.test_sha256))
        if reference
    }
    encoders = [
        find_encoder(sources, reference, ENCODERS / encoder_name(reference), mirror, hub_url)
        for reference in own.encoders
    ]
    wanted = [found.wanted for found in questions.values()] + [file for found in encoders for file in found.wanted]

    hub = urlsplit(hub_url("owner/name", "file", "main")).netloc
    for target, origin in Fetcher(Downloader(headers={hub: build_hf_headers()}), mirror).fetch(wanted).items():
        print(f"{target}: {origin}")
    write_json(FILES, {key: found.record() for key, found in questions.items()})
    for found in encoders:
        write_json(found.folder / RECORD, found.record())

    records = [FILES, *(found.folder / RECORD for found in encoders)]
    for folder in (RAW, ENCODERS):
        for path in prune(folder, [*records, *(file.target for file in wanted)]):
            print(f"{path}: removed, params.yaml does not name it")
    watched = [path.resolve() for path in (OWN, *OWN.rglob("*"))]
    for path in (path for file in wanted for path in file.paths):
        if path.resolve() not in watched:
            print(
                f"{path}: DVC does not see it change; keep it in {OWN}, or run `dvc repro --force fetch` after a change"
            )


def hub_url(repository: str, file: str, revision: str) -> str:
    """The hub's address of a file; `HF_ENDPOINT` names another hub."""
    return hf_hub_url(repository, file, revision=revision)


if __name__ == "__main__":
    run(main)
