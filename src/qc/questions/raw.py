"""The question files in data/raw, as files.json describes them.

Corrections are a table of texts and right labels that is applied to the questions of train. A text is matched as texts
are compared everywhere (`normalize_text`), so case and spaces do not matter. Every row must match a question and name a
class that the train file has: a row that does nothing would go unnoticed. The apostrophe that our CSV files have before
a formula is removed from both columns.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qc.errors import QcError, listed
from qc.files import read_json, unescape_formula
from qc.questions.reader import LabelledQuestion, label_encoding, read_questions
from qc.questions.text import normalize_text

ENCODINGS = {"ascii": "ASCII", "utf-8-sig": "UTF-8", "cp1252": "latin-1 (Windows-1252)"}
CORRECTION_COLUMNS = {"text": "text", "label": "label"}

Files = dict[str, dict[str, Any]]  # content of files.json


def load_files(path: Path) -> Files:
    """Read files.json; detect the `encoding` of each label file beside it."""
    files = read_json(path)
    for about in files.values():
        if about["file"].endswith(".label"):
            with (path.parent / about["file"]).open("rb") as file:
                about["encoding"] = label_encoding(file)
    return files


def read_raw(
    folder: Path, files: Files, corrected: Counter[str] | None = None
) -> Iterator[tuple[str, LabelledQuestion]]:
    """Read partition (`train` or `test`) and question from every file; those of train with the corrections applied.

    `corrected` counts the questions that corrections name, see `apply_corrections`.
    """
    for partition in (name for name in ("train", "test") if name in files):
        about = files[partition]
        path, name = folder / about["file"], _named(folder, about)
        with path.open("rb") as file:
            numbered = read_questions(file, path.suffix, about["columns"], name, encoding=about.get("encoding"))
            questions = (question for _, question in numbered)
            if partition == "train" and "corrections" in files:
                given = files["corrections"]
                questions = apply_corrections(folder / given["file"], _named(folder, given), questions, corrected)
            for question in questions:
                yield partition, question


def apply_corrections(
    path: Path, name: str, questions: Iterable[LabelledQuestion], corrected: Counter[str] | None = None
) -> Iterator[LabelledQuestion]:
    """Give questions the labels of a file of corrections; a changed question has no fine label.

    Args:
        path: The file, `.csv` or `.tsv`, with the columns text and label; others are left alone.
        name: Its name in messages.
        questions: The questions of train.
        corrected: Counts the questions that got another label, as `changed`, and those that had it, as `same`.

    Raises:
        QcError: A row is invalid, or two rows have the same text and different labels; at the end, where a row matches
            no question, or names a class that no question had.
    """
    rows: dict[str, tuple[str, int]] = {}  # by text: the label and the line that says so
    with path.open("rb") as file:
        for line, row in read_questions(file, path.suffix, CORRECTION_COLUMNS, name, "the format of corrections"):
            label = unescape_formula(row.coarse)
            earlier, where = rows.setdefault(normalize_text(unescape_formula(row.text)), (label, line))
            if earlier != label:
                raise QcError(
                    f"{name}:{line}: label {label!r}; expected {earlier!r}, which line {where} gives the same text; "
                    "remove one of the two"
                )
    unused, classes = dict(rows), set()
    for question in questions:
        classes.add(question.coarse)
        key = normalize_text(question.text)
        unused.pop(key, None)
        label = rows[key][0] if key in rows else question.coarse
        if corrected is not None and key in rows:
            corrected["same" if label == question.coarse else "changed"] += 1
        yield question if label == question.coarse else LabelledQuestion(label, "", question.text)
    for _, line in unused.values():
        raise QcError(f"{name}:{line}: no question of fetch.train has this text; correct or remove the row")
    for label, line in rows.values():
        if label not in classes:
            raise QcError(
                f"{name}:{line}: label {label!r}; expected a class of fetch.train: {listed(sorted(classes))}; a new "
                "class needs questions with its label in fetch.train"
            )


def _named(folder: Path, about: Mapping[str, Any]) -> str:
    """Name the file that the user can correct."""
    return about["name"] if Path(about["name"]).is_file() else str(folder / about["file"])
