"""fetch: bring the question files and the pretrained encoders, each verified by its hash.

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
    from qc.config.references import encoder_name
    from qc.fetch.fetcher import Fetcher, prune
    from qc.fetch.http import Downloader
    from qc.fetch.hub import hub_headers, hub_url
    from qc.fetch.resolve import resolve_corrections, resolve_encoder, resolve_questions
    from qc.files import RECORD, write_json

    config, sources = settings.fetch, load_sources()
    mirror = Path(os.environ["QC_MIRROR"]) if os.environ.get("QC_MIRROR") else None
    columns = config.columns.model_dump()
    named = {"train": (config.train, config.train_sha256), "test": (config.test, config.test_sha256)}
    questions = {
        key: resolve_questions(sources, key, reference, sha256, columns, RAW)
        for key, (reference, sha256) in named.items()
        if reference
    }
    if config.corrections:
        questions["corrections"] = resolve_corrections(config.corrections, RAW)
    encoders = [
        resolve_encoder(sources, reference, ENCODERS / encoder_name(reference), mirror, hub_url)
        for reference in config.encoders
    ]
    requests = [found.request for found in questions.values()]
    requests += [request for found in encoders for request in found.requests]

    for target, origin in Fetcher(Downloader(headers=hub_headers()), mirror).fetch(requests).items():
        print(f"{target}: {origin}")
    write_json(FILES, {key: found.record() for key, found in questions.items()})
    for found in encoders:
        write_json(found.folder / RECORD, found.record())

    records = [FILES, *(found.folder / RECORD for found in encoders)]
    for folder in (RAW, ENCODERS):
        for path in prune(folder, [*records, *(request.target for request in requests)]):
            print(f"{path}: removed, params.yaml does not name it")
    watched = [path.resolve() for path in (OWN_DATA, *OWN_DATA.rglob("*"))]
    for path in (path for request in requests for path in request.paths):
        if path.resolve() not in watched:
            print(
                f"{path}: DVC does not watch this file; keep it in {OWN_DATA}, or run `dvc repro --force fetch` after "
                "a change"
            )


if __name__ == "__main__":
    run(main)
