"""Files of questions as tables of texts and of ids, made piece by piece: their number does not matter to memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import pyarrow
from datasets import Dataset
from tokenizers import Tokenizer

from qc.errors import QcError
from qc.questions import LabelledQuestion
from qc.texts import Vocabulary, model_text, token_ids

PIECE = 16_384  # questions that are in memory at once

Rows = Iterable[tuple[str, LabelledQuestion]]  # partition, `train` or `test`, and question


@dataclass(frozen=True)
class Inventory:
    """What files of questions hold.

    Attributes:
        questions: How many.
        classes: Names of the coarse classes, in label order.
        fine_classes: The fine classes that the train file holds, each as (coarse, fine); none if it has no fine labels.
        without_fine: How many questions have no fine label.
    """

    questions: int
    classes: list[str]
    fine_classes: list[tuple[str, str]]
    without_fine: int

    def labels(self) -> dict[str, list]:
        """The classes, for labels.json."""
        return {"classes": self.classes, "fine_classes": [list(pair) for pair in self.fine_classes]}


def take_inventory(rows: Rows) -> Inventory:
    """Count what files of questions hold.

    Raises:
        QcError: There is but one class, or one stands in the test file alone: no model could learn it.
    """
    found = Counter((partition, question.coarse, question.fine) for partition, question in rows)
    classes = sorted({coarse for partition, coarse, _ in found if partition == "train"})
    if len(classes) < 2:
        raise QcError(f"the train file has one class alone, {classes[0]}; two are the least that can be told apart")
    unknown = sorted({coarse for _, coarse, _ in found} - set(classes))
    if unknown:
        raise QcError(
            f"the test file has class {', '.join(unknown)}, which does not stand in the train file; known: "
            f"{', '.join(classes)}"
        )
    return Inventory(
        questions=found.total(),
        classes=classes,
        fine_classes=sorted({(coarse, fine) for partition, coarse, fine in found if partition == "train" and fine}),
        without_fine=sum(number for (_, _, fine), number in found.items() if not fine),
    )


def question_tables(rows: Rows, classes: list[str]) -> Iterator[Dataset]:
    """Lay out questions as tables with columns id, partition, text, coarse, fine and label, in the order of `rows`."""
    labels = {name: label for label, name in enumerate(classes)}
    numbers = count()
    rows = iter(rows)
    while piece := list(islice(rows, PIECE)):
        partitions, questions = zip(*piece, strict=True)
        yield Dataset.from_dict(
            {
                "id": [next(numbers) for _ in piece],
                "partition": partitions,
                "text": [question.text for question in questions],
                "coarse": [question.coarse for question in questions],
                "fine": [question.fine for question in questions],
                "label": [labels[question.coarse] for question in questions],
            }
        )


def tokenize(
    pieces: Iterable[pyarrow.RecordBatch],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    lowercase: bool,
    include_fine_label: bool,
) -> Iterator[pyarrow.Table]:
    """Turn questions into a table with the column `input_ids`, see `qc.texts`.

    Args:
        pieces: Parts of a table with columns text and fine.
        tokenizer: From `load_tokenizer`.
        vocabulary: What its ids are.
        lowercase: Lower-case the text first.
        include_fine_label: Put the fine label before the question.
    """
    for piece in pieces:
        texts = piece["text"].to_pylist()
        fine = piece["fine"].to_pylist() if include_fine_label else [None] * len(texts)
        treated = [model_text(text, lowercase, label) for text, label in zip(texts, fine, strict=True)]
        ids = token_ids(tokenizer, treated, vocabulary)
        yield pyarrow.table({"input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))})
