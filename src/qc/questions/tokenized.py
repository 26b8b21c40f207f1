"""The tables of tokenized questions, made with `datasets`: what `tokenize` writes.

Notable:
- a table is made batch by batch from a memory-mapped file, so memory does not grow with the number of questions
- the same questions give the same bytes
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, List, Value, disable_progress_bars
from tokenizers import Tokenizer

from qc.errors import QcError, listed
from qc.questions.labels import UNKNOWN, Labels, join_fine
from qc.questions.reader import LabelledQuestion
from qc.questions.text import model_text
from qc.questions.tokenizers import token_ids
from qc.questions.vocabulary import Vocabulary

BATCH = 16_384  # questions that are in memory at once
TREATED = "model_text"  # column of the text as the tokenizer gets it; not written
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
    counts = Counter((partition, question.coarse, question.fine) for partition, question in rows)
    classes = sorted({coarse for partition, coarse, _ in counts if partition == "train"})
    if len(classes) < 2:
        raise QcError(f"the train file has only one class, {classes[0]}; expected two or more")
    unknown = sorted({coarse for _, coarse, _ in counts} - set(classes))
    if unknown:
        raise QcError(
            f"the test file has class {listed(unknown)}, which the train file does not have; expected {listed(classes)}"
        )
    return Inventory(
        questions=counts.total(),
        labels=Labels(
            classes, sorted({(coarse, fine) for partition, coarse, fine in counts if partition == "train" and fine})
        ),
        without_fine=sum(number for (_, _, fine), number in counts.items() if not fine),
    )


def question_table(rows: Rows, labels: Labels, lowercase: bool, include_fine_label: bool, cache: Path) -> Dataset:
    """Make the table of all questions, without token ids.

    Args:
        rows: The questions; their row number becomes their id.
        labels: Class names.
        lowercase: Lower-case a text before it is tokenized.
        include_fine_label: Put the fine label before a text before it is tokenized.
        cache: Folder of the memory-mapped file.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    names = [join_fine(*pair) for pair in labels.fine_classes]
    numbers = {tuple(pair): number for number, pair in enumerate(labels.fine_classes)}
    columns = {
        "id": Value("int64"),
        "official": Value("bool"),  # in the official test file
        "text": Value("string"),
        "label": ClassLabel(names=labels.classes),
        **({"fine": ClassLabel(names=names)} if names else {}),
        TREATED: Value("string"),
    }

    def examples() -> Iterator[dict[str, object]]:
        for number, (partition, question) in enumerate(rows):
            values = (
                number,
                partition == "test",
                question.text,
                question.coarse,
                *([numbers.get((question.coarse, question.fine), UNKNOWN)] if names else []),
                model_text(question.text, lowercase, question.fine if include_fine_label else None),
            )
            yield dict(zip(columns, values, strict=True))

    return Dataset.from_generator(
        examples,
        features=Features(columns),
        cache_dir=str(cache),
        fingerprint="questions",  # given, so that nothing is pickled to compute it
        writer_batch_size=BATCH,
    )


def write_tokenized(questions: Dataset, tokenizer: Tokenizer, vocabulary: Vocabulary, path: Path) -> None:
    """Write the table of questions with the token ids of a tokenizer, special tokens included.

    Args:
        questions: From `question_table`.
        tokenizer: From `load_tokenizer`.
        vocabulary: Its ids.
        path: The Parquet file.
    """
    columns = Features({**questions.features, "input_ids": List(Value("int32"))})
    columns.pop(TREATED)
    questions.map(
        lambda texts: {"input_ids": token_ids(tokenizer, texts, vocabulary)},
        input_columns=TREATED,
        batched=True,
        batch_size=BATCH,
        writer_batch_size=BATCH,
        remove_columns=TREATED,
        features=columns,
        new_fingerprint=vocabulary.tokenizer_sha256[:32],
        cache_file_name=f"{questions.cache_files[0]['filename']}.{vocabulary.tokenizer}",
        desc=vocabulary.tokenizer,
    ).to_parquet(path)
