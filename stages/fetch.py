"""fetch: fetch the question files and the pretrained encoders, each verified by its hash.

Reads data/sources.yaml, data/own and the hub. Writes data/raw (train, test and corrections in their original format,
files.json) and data/encoders/NAME (the encoder's files, source.json). Files that are already correct are not fetched
again.
"""

import os
import sys
from pathlib import Path

from qc.config.settings import Settings
from qc.paths import ENCODERS, FILES, OWN_DATA, RAW
from qc.stage import load_sources, run


def main(settings: Settings) -> None:
    """Fetch the files that params.yaml names; remove all others from the two folders."""
    from qc.fetch.fetcher import fetch, prune
    from qc.fetch.http import Downloader
    from qc.fetch.hub import read_licence
    from qc.fetch.resolve import resolve_encoder, resolve_questions
    from qc.files import CARD, RECORD, write_json

    config, sources, downloader = settings.fetch, load_sources(), Downloader()
    mirror = Path(os.environ["QC_MIRROR"]) if os.environ.get("QC_MIRROR") else None
    used = [key for key in ("train", "test", "corrections") if getattr(config, key)]
    questions = {key: resolve_questions(key, config, sources, FILES) for key in used}
    encoders = {
        ENCODERS / name: resolve_encoder(reference, sources, ENCODERS / name, mirror, downloader)
        for name, reference in zip(config.encoder_names(), config.encoders, strict=True)
    }
    requests = [request for request, _ in questions.values()]
    requests += [request for files, _ in encoders.values() for request in files]

    for target, origin in fetch(requests, downloader, mirror).items():
        print(f"{target}: {origin}")
    records = {
        key: {"file": file.target.name, "name": file.name, **file.pin(), **about}
        for key, (file, about) in questions.items()
    }
    write_json(FILES, records)
    for folder, (files, about) in encoders.items():
        licence = about["licence"] or read_licence(folder / CARD)
        pins = {file.target.name: file.pin() for file in files}
        write_json(folder / RECORD, about | {"licence": licence, "files": pins})

    keep = {FILES, *(folder / RECORD for folder in encoders), *(request.target for request in requests)}
    for folder in (RAW, ENCODERS):
        for path in prune(folder, keep):
            print(f"{path}: removed, params.yaml does not name it")
    for request in requests:
        if request.own and not request.own.exists():
            print(f"warning: {request.own} is not here; {request.target}, its copy, stays", file=sys.stderr)
        elif request.own and not request.own.is_relative_to(OWN_DATA):
            print(
                f"{request.own}: DVC does not watch this file; keep it in {OWN_DATA}, or run `dvc repro --force fetch` "
                "after a change"
            )


if __name__ == "__main__":
    run(main)
