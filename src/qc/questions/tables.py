"""Tables of questions, a Parquet file each: made with `datasets`, read with Arrow.

    id, official, text, label, fine, input_ids      and, once they are split, group

Notable:
- `label` and `fine` are `ClassLabel`s, so class names travel with the file: `load_dataset("parquet", ...)` opens it
- a table is made batch by batch from a memory-mapped file, so memory does not grow with the number of questions
- the same questions give the same bytes
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

from qc.errors import QcError, listed
from qc.questions.formats import LabelledQuestion
from qc.questions.labels import UNKNOWN, Labels, join_fine, split_fine
from qc.questions.text import model_text
from qc.questions.tokenizers import Vocabulary, token_ids

if TYPE_CHECKING:  # it takes a second to import, and only the two stages that write tables need it
    from datasets import Dataset

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


def question_table(rows: Rows, labels: Labels, lowercase: bool, include_fine_label: bool, cache: Path) -> "Dataset":
    """Make the table of all questions, without token ids.

    Args:
        rows: The questions; their row number becomes their id.
        labels: Class names.
        lowercase: Lower-case a text before it is tokenized.
        include_fine_label: Put the fine label before a text before it is tokenized.
        cache: Folder of the memory-mapped file.
    """
    from datasets import ClassLabel, Dataset, Features, Value, disable_progress_bars

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


def write_tokenized(questions: "Dataset", tokenizer: Tokenizer, vocabulary: Vocabulary, path: Path) -> None:
    """Write the table of questions with the token ids of a tokenizer, special tokens included.

    Args:
        questions: From `question_table`.
        tokenizer: From `load_tokenizer`.
        vocabulary: Its ids.
        path: The Parquet file.
    """
    from datasets import Features, List, Value

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


def write_split(questions: "QuestionTable", rows: np.ndarray, groups: np.ndarray, path: Path) -> None:
    """Write some questions, with the number of the group (N,) of each."""
    from datasets import Dataset

    chosen = Dataset(questions.take(rows).columns.drop_columns("official"))
    chosen.add_column("group", groups).to_parquet(path)


@dataclass(frozen=True)
class QuestionTable:
    """Questions read from a Parquet file.

    Attributes:
        columns: The Arrow table, or some of its rows.
    """

    columns: pyarrow.Table

    @classmethod
    def read(cls, path: Path, *columns: str) -> Self:
        """Read all columns, or those of these names that it has; QcError where the file is missing or broken."""
        try:
            names = [name for name in columns if name in pyarrow.parquet.read_schema(path).names]
            return cls(pyarrow.parquet.read_table(path, columns=names or None).combine_chunks())
        except (OSError, pyarrow.ArrowException) as error:
            raise QcError(f"{path}: cannot be read: {error}; run `dvc repro` to recreate it") from None

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def class_names(self) -> Labels:
        """Names of the classes."""
        features = json.loads(self.columns.schema.metadata[b"huggingface"])["info"]["features"]
        fine = features["fine"]["names"] if "fine" in features else []
        return Labels(features["label"]["names"], [split_fine(name) for name in fine])

    @property
    def input_ids(self) -> pyarrow.ListArray:
        """(N,) lists of token ids, special tokens included."""
        return self.columns["input_ids"].combine_chunks()

    @property
    def texts(self) -> list[str]:
        """(N,) texts."""
        return self.columns["text"].to_pylist()

    @property
    def labels(self) -> np.ndarray:
        """(N,) numbers of the coarse classes."""
        return self.columns["label"].to_numpy()

    @property
    def fine_labels(self) -> np.ndarray | None:
        """(N,) numbers of the fine classes, `UNKNOWN` among them; None without fine classes."""
        return self.columns["fine"].to_numpy() if "fine" in self.columns.column_names else None

    @property
    def groups(self) -> np.ndarray:
        """(N,) numbers of the groups of equal questions."""
        return self.columns["group"].to_numpy()

    def take(self, rows: np.ndarray) -> Self:
        """Select questions by row number."""
        return type(self)(self.columns.take(rows))

    def join(self, other: Self) -> Self:
        """Append the questions of another table."""
        return type(self)(pyarrow.concat_tables([self.columns, other.columns]))
