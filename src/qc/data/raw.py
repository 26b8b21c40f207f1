"""The question files in data/raw, as files.json describes them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qc.data.formats import LabelledQuestion, label_encoding, parse_questions

ENCODINGS = {"ascii": "ASCII", "utf-8-sig": "UTF-8", "cp1252": "latin-1 (Windows-1252)"}

Files = Mapping[str, Mapping[str, Any]]  # content of files.json


def read_raw(folder: Path, files: Files) -> Iterator[tuple[str, LabelledQuestion]]:
    """Read partition (`train` or `test`) and question from every file."""
    for partition, about in files.items():
        path = folder / about["file"]
        name = about["name"] if Path(about["name"]).is_file() else str(path)  # the file that the user can correct
        with path.open("rb") as file:
            for question in parse_questions(file, path.suffix, about["columns"], name):
                yield partition, question


def report_encodings(folder: Path, files: Files) -> Iterator[str]:
    """Say in which encoding each label file is read."""
    for about in files.values():
        if about["file"].endswith(".label"):
            with (folder / about["file"]).open("rb") as file:
                yield f"{about['name']}: read as {ENCODINGS[label_encoding(file)]}"
