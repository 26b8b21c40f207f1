"""Tables of questions and of token ids, made piece by piece, so that memory does not grow with their number."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import pyarrow
from datasets import Dataset
from tokenizers import Tokenizer

from qc.errors import QcError, listed
from qc.questions.labels import Labels
from qc.questions.reader import LabelledQuestion
from qc.questions.text import model_text
from qc.questions.tokenizers import Vocabulary, token_ids

PIECE = 16_384  # questions that are in memory at once
Rows = Iterable[tuple[str, LabelledQuestion]]  # partition (`train` or `test`) and question


@dataclass(frozen=True)
class Inventory:
    """Summary of the question files.

    Attributes:
        questions: Number of questions.
        labels: Class names; the fine classes are those of the train file.
        without_fine: Number of questions without a fine label.
    """

    questions: int
    labels: Labels
    without_fine: int


def take_inventory(rows: Rows) -> Inventory:
    """Count questions and classes.

    Raises:
        QcError: There is only one class, or a class occurs in the test file alone.
    """
    found = Counter((partition, question.coarse, question.fine) for partition, question in rows)
    classes = sorted({coarse for partition, coarse, _ in found if partition == "train"})
    if len(classes) < 2:
        raise QcError(f"the train file has only one class, {classes[0]}; expected two or more")
    unknown = sorted({coarse for _, coarse, _ in found} - set(classes))
    if unknown:
        raise QcError(
            f"the test file has class {listed(unknown)}, which the train file does not have; expected {listed(classes)}"
        )
    return Inventory(
        questions=found.total(),
        labels=Labels(
            classes, sorted({(coarse, fine) for partition, coarse, fine in found if partition == "train" and fine})
        ),
        without_fine=sum(number for (_, _, fine), number in found.items() if not fine),
    )


def question_tables(rows: Rows, classes: list[str]) -> Iterator[pyarrow.Table]:
    """Make tables with columns id, partition, text, coarse, fine and label, in the order of `rows`."""
    labels = {name: label for label, name in enumerate(classes)}
    numbers = count()
    rows = iter(rows)
    while piece := list(islice(rows, PIECE)):
        partitions, questions = zip(*piece, strict=True)
        table = Dataset.from_dict(
            {
                "id": [next(numbers) for _ in piece],
                "partition": partitions,
                "text": [question.text for question in questions],
                "coarse": [question.coarse for question in questions],
                "fine": [question.fine for question in questions],
                "label": [labels[question.coarse] for question in questions],
            }
        ).data.table
        yield table.replace_schema_metadata(None)  # a fingerprint of this code


def tokenize(
    pieces: Iterable[pyarrow.RecordBatch], tokenizer: Tokenizer, vocabulary: Vocabulary
) -> Iterator[pyarrow.Table]:
    """Make tables with the column `input_ids`, see `qc.questions.tokenizers`.

    Args:
        pieces: Parts of a table with columns text and fine.
        tokenizer: From `load_tokenizer`.
        vocabulary: Its ids, and how texts are treated.
    """
    for piece in pieces:
        texts = piece["text"].to_pylist()
        fine = piece["fine"].to_pylist() if vocabulary.include_fine_label else [None] * len(texts)
        treated = [model_text(text, vocabulary.lowercase, label) for text, label in zip(texts, fine, strict=True)]
        ids = token_ids(tokenizer, treated, vocabulary)
        yield pyarrow.table({"input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))})
