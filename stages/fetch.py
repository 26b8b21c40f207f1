"""fetch: fetch the question files and the pretrained encoders, each verified by its hash.

Reads data/sources.yaml, data/own and the hub. Writes data/raw (train, test and corrections in their original format,
files.json) and data/encoders/NAME (the encoder's files, source.json). Files that are already correct are not fetched
again.
"""

import os
from pathlib import Path

from qc.config.settings import Settings
from qc.paths import ENCODERS, FILES, OWN_DATA, RAW
from qc.stage import load_sources, run


def main(settings: Settings) -> None:
    """Fetch the files that params.yaml names; remove all others from the two folders."""
    from qc.config.sources import encoder_name
    from qc.fetch.fetcher import fetch, prune
    from qc.fetch.http import Downloader
    from qc.fetch.hub import hub_headers
    from qc.fetch.resolve import Resolver
    from qc.files import RECORD, write_json

    config, downloader = settings.fetch, Downloader(hub_headers)
    mirror = Path(os.environ["QC_MIRROR"]) if os.environ.get("QC_MIRROR") else None
    resolver = Resolver(load_sources(), mirror, downloader)
    columns = config.columns.model_dump()
    named = {
        "train": (config.train, config.train_sha256, columns),
        "test": (config.test, config.test_sha256, columns),
        "corrections": (config.corrections, None, None),
    }
    questions = {
        key: resolver.questions(key, reference, sha256, columns, RAW)
        for key, (reference, sha256, columns) in named.items()
        if reference
    }
    encoders = [resolver.encoder(reference, ENCODERS / encoder_name(reference)) for reference in config.encoders]
    requests = [*questions.values(), *(request for found in encoders for request in found.requests)]

    for target, origin in fetch(requests, downloader).items():
        print(f"{target}: {origin}")
    write_json(FILES, {key: found.record() for key, found in questions.items()})
    for found in encoders:
        write_json(found.folder / RECORD, found.record())

    records = [FILES, *(found.folder / RECORD for found in encoders)]
    for folder in (RAW, ENCODERS):
        for path in prune(folder, [*records, *(request.target for request in requests)]):
            print(f"{path}: removed, params.yaml does not name it")
    watched = {path.resolve() for path in OWN_DATA.rglob("*")}
    for path in filter(None, (request.own_file for request in requests)):
        if path.resolve() not in watched:
            print(
                f"{path}: DVC does not watch this file; keep it in {OWN_DATA}, or run `dvc repro --force fetch` after "
                "a change"
            )


if __name__ == "__main__":
    run(main)
