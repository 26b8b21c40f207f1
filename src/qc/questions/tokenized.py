"""The tables of tokenized questions: what `tokenize` writes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pyarrow
from tokenizers import Tokenizer
from tqdm import tqdm

from qc.errors import QcError, listed
from qc.questions.labels import UNKNOWN, Labels
from qc.questions.reader import LabelledQuestion
from qc.questions.tables import PIECE, QUESTIONS, new_table
from qc.questions.text import model_text
from qc.questions.tokenizers import token_ids
from qc.questions.vocabulary import Vocabulary

Rows = Iterable[tuple[str, LabelledQuestion]]  # partition (`train` or `test`) and question


def take_inventory(rows: Rows) -> tuple[Labels, int, int]:
    """Find the classes; count the questions, and those without a fine label. Fine classes are those of the train file.

    Raises:
        QcError: There is only one class, or a class occurs in the test file alone.
    """
    counts = Counter((partition, question.coarse, question.fine) for partition, question in rows)
    in_train = {(coarse, fine) for partition, coarse, fine in counts if partition == "train"}
    classes = sorted({coarse for coarse, _ in in_train})
    if len(classes) < 2:
        raise QcError(f"the train file has only one class, {classes[0]}; expected two or more")
    unknown = sorted({coarse for _, coarse, _ in counts} - set(classes))
    if unknown:
        raise QcError(
            f"the test file has class {listed(unknown)}, which the train file does not have; expected {listed(classes)}"
        )
    without_fine = sum(number for (_, _, fine), number in counts.items() if not fine)
    return Labels(classes, sorted(pair for pair in in_train if pair[1])), counts.total(), without_fine


def write_tokenized(
    rows: Rows, labels: Labels, count: int, tokenizers: Sequence[tuple[Tokenizer, Vocabulary]], folder: Path
) -> None:
    """Write a table of all questions for every tokenizer, token ids with special tokens included.

    Args:
        rows: The questions; the row number becomes the id.
        labels: Their classes.
        count: Their number, for the progress bar.
        tokenizers: From `load_tokenizer`, each with its ids and the way texts are treated before it.
        folder: Where `NAME/questions.parquet` is written.
    """
    names = ("id", "official", "text", "label", "fine", "input_ids")
    numbers = {name: number for number, name in enumerate(labels.classes)}
    fine_numbers = {tuple(pair): number for number, pair in enumerate(labels.fine_classes)}
    rows, begin = iter(tqdm(rows, "tokenize", count, unit=" questions", leave=False, disable=None)), 0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(new_table(folder / vocabulary.tokenizer / QUESTIONS, labels, *names))
            for _, vocabulary in tokenizers
        ]
        while piece := list(islice(rows, PIECE)):
            questions = [question for _, question in piece]
            columns = {
                "id": range(begin, begin + len(piece)),
                "official": [partition == "test" for partition, _ in piece],
                "text": [question.text for question in questions],
                "label": [numbers[question.coarse] for question in questions],
                "fine": [fine_numbers.get((question.coarse, question.fine), UNKNOWN) for question in questions],
            }
            for writer, (tokenizer, vocabulary) in zip(writers, tokenizers, strict=True):
                fine_first = vocabulary.include_fine_label
                texts = [f"{question.fine} {question.text}" if fine_first else question.text for question in questions]
                texts = [model_text(text, vocabulary.lowercase) for text in texts]
                columns["input_ids"] = token_ids(tokenizer, texts, vocabulary)
                writer.write_table(pyarrow.Table.from_pydict(columns, schema=writer.schema))
            begin += len(piece)
