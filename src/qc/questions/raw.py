"""The question files in data/raw, as files.json describes them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qc.questions.corrections import Corrections
from qc.questions.encodings import label_encoding
from qc.questions.formats import LabelledQuestion, parse_questions

ENCODINGS = {"ascii": "ASCII", "utf-8-sig": "UTF-8", "cp1252": "latin-1 (Windows-1252)"}
PARTITIONS = ("train", "test")

Files = Mapping[str, Mapping[str, Any]]  # content of files.json


def read_raw(folder: Path, files: Files) -> Iterator[tuple[str, LabelledQuestion]]:
    """Read partition (`train` or `test`) and question from every file; those of train with the corrections applied."""
    for partition in (name for name in PARTITIONS if name in files):
        about = files[partition]
        path = folder / about["file"]
        with path.open("rb") as file:
            questions = parse_questions(file, path.suffix, about["columns"], _named(folder, about))
            if partition == "train" and "corrections" in files:
                given = files["corrections"]
                questions = Corrections(folder / given["file"], _named(folder, given)).apply(questions)
            for question in questions:
                yield partition, question


def _named(folder: Path, about: Mapping[str, Any]) -> str:
    """Name the file that the user can correct."""
    return about["name"] if Path(about["name"]).is_file() else str(folder / about["file"])


def report_encodings(folder: Path, files: Files) -> Iterator[str]:
    """Say in which encoding each label file is read."""
    for about in files.values():
        if about["file"].endswith(".label"):
            with (folder / about["file"]).open("rb") as file:
                yield f"{about['name']}: read as {ENCODINGS[label_encoding(file)]}"
