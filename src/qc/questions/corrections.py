"""Corrected labels: a table of texts and their right labels, applied to the questions of the train file.

A text is matched as texts are compared everywhere (`normalize_text`), so case and spaces do not matter. Every row must
match a question and name a class that the train file has: a row that does nothing would go unnoticed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qc.errors import QcError, listed
from qc.files import unescape_formula
from qc.questions.formats import LabelledQuestion, numbered_questions
from qc.questions.text import normalize_text

COLUMNS = {"text": "text", "label": "label"}


@dataclass(frozen=True)
class Correction:
    """The right label of a text, and the line that says so."""

    label: str
    line: int


class Corrections:
    """The rows of a file of corrections.

    Args:
        path: The file, `.csv` or `.tsv`, with the columns text and label; others are left alone.
        name: Its name in messages.

    Raises:
        QcError: A row is invalid, or two rows have the same text and different labels.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.rows: dict[str, Correction] = {}
        with path.open("rb") as file:
            for line, row in numbered_questions(file, path.suffix, COLUMNS, name, "the format of corrections"):
                earlier = self.rows.setdefault(_key(row.text), Correction(row.coarse, line))
                if earlier.label != row.coarse:
                    raise QcError(
                        f"{name}:{line}: label {row.coarse!r}; expected {earlier.label!r}, which line {earlier.line} "
                        "gives the same text; remove one of the two"
                    )

    def apply(self, questions: Iterable[LabelledQuestion]) -> Iterator[LabelledQuestion]:
        """Give the questions the right labels; a changed one has no fine label.

        Raises:
            QcError: At the end, where a row matches no question, or names a class that no question had.
        """
        left, classes = dict(self.rows), set()
        for question in questions:
            classes.add(question.coarse)
            key = _key(question.text)
            left.pop(key, None)
            label = self.rows[key].label if key in self.rows else question.coarse
            yield question if label == question.coarse else LabelledQuestion(label, "", question.text)
        for row in left.values():
            raise QcError(
                f"{self.name}:{row.line}: no question of fetch.train has this text; correct or remove the row"
            )
        for row in self.rows.values():
            if row.label not in classes:
                raise QcError(
                    f"{self.name}:{row.line}: label {row.label!r}; expected a class of fetch.train: "
                    f"{listed(sorted(classes))}"
                )


def _key(text: str) -> str:
    return normalize_text(unescape_formula(text))
