"""Tables of questions, a Parquet file each, as later stages read them.

    data/tokenized/NAME/questions.parquet              id, official, text, label, fine, input_ids
    data/split/NAME/{train,valid,test}.parquet         id, text, label, fine, input_ids, group
    vocabulary.json, in either folder                  describes the tokenizer

`label` and `fine` are `ClassLabel`s of the library datasets, so class names travel with the file, and
`load_dataset("parquet", data_files=...)` opens it.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow
import pyarrow.parquet

from qc.errors import QcError
from qc.questions.labels import Labels, split_fine

QUESTIONS, VOCABULARY = "questions.parquet", "vocabulary.json"
TRAIN, VALID, TEST = "train.parquet", "valid.parquet", "test.parquet"


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
