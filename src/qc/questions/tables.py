"""Tables of questions, a Parquet file each, as later stages read them.

    data/tokenized/NAME/questions.parquet              id, official, text, label, fine, input_ids
    data/split/NAME/{train,valid,test}.parquet         id, text, label, fine, input_ids, group
    vocabulary.json, in either folder                  describes the tokenizer

`label` and `fine` are `ClassLabel`s of the library datasets, so class names travel with the file, and
`load_dataset("parquet", data_files=...)` opens it. Large files are read and written in pieces of `PIECE` questions.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow
import pyarrow.parquet

from qc.files import read_errors
from qc.questions.labels import Labels, join_fine, split_fine

QUESTIONS, VOCABULARY = "questions.parquet", "vocabulary.json"
TRAIN, VALID, TEST = "train.parquet", "valid.parquet", "test.parquet"
PIECE = 16_384  # questions that are in memory at once


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
        pieces = [piece.columns for piece in read_pieces(path, *columns)]
        return cls(pyarrow.concat_tables(pieces).combine_chunks())

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
        return self._numbers("label")

    @property
    def fine_labels(self) -> np.ndarray | None:
        """(N,) numbers of the fine classes, `UNKNOWN` among them; None without fine classes."""
        return self._numbers("fine") if "fine" in self.columns.column_names else None

    @property
    def groups(self) -> np.ndarray:
        """(N,) numbers of the groups of equal questions."""
        return self._numbers("group")

    def _numbers(self, column: str) -> np.ndarray:
        return np.from_dlpack(self.columns[column].combine_chunks())  # Arrow's `to_numpy` imports pandas

    def take(self, rows: np.ndarray) -> Self:
        """Select questions by row number."""
        return type(self)(self.columns.take(rows))

    def join(self, other: Self) -> Self:
        """Append the questions of another table."""
        return type(self)(pyarrow.concat_tables([self.columns, other.columns]))


def read_pieces(path: Path, *columns: str, rows: np.ndarray | None = None) -> Iterator[QuestionTable]:
    """Read a table in pieces: all columns, or those of these names that it has.

    Args:
        path: The Parquet file.
        columns: Names of the columns.
        rows: Row numbers to read, ascending; all without.

    Raises:
        QcError: The file is missing or broken.
    """
    begin = 0
    with read_errors(path, pyarrow.ArrowException), pyarrow.parquet.ParquetFile(path) as file:
        names = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(PIECE, columns=names or None):
            piece = QuestionTable(pyarrow.Table.from_batches([batch]))
            end = begin + len(piece)
            yield piece if rows is None else piece.take(rows[slice(*np.searchsorted(rows, (begin, end)))] - begin)
            begin = end


@contextmanager
def new_table(path: Path, labels: Labels, *columns: str) -> Iterator[pyarrow.parquet.ParquetWriter]:
    """Give a writer of a table with these columns; `fine` is left out where there are no fine classes."""
    from datasets import ClassLabel, Features, List, Value  # takes a second, and training only reads

    features = {
        "id": Value("int64"),
        "official": Value("bool"),  # in the official test file
        "text": Value("string"),
        "label": ClassLabel(names=labels.classes),
        "input_ids": List(Value("int32")),
        "group": Value("int64"),
    }
    if labels.fine_classes:
        features["fine"] = ClassLabel(names=[join_fine(*pair) for pair in labels.fine_classes])
    schema = Features({name: features[name] for name in columns if name in features}).arrow_schema
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        yield writer
