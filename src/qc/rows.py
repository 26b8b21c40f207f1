"""What splitting and auditing know of every question: numbers, some 60 bytes of them, so that millions fit in memory.

Notable:
- questions are the same where their texts are, up to case and space
- what stands in which split is decided by SHA-256(seed, text) alone: not by the order of the rows, nor by the machine
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import pyarrow

COLUMNS = ("text", "partition", "coarse", "fine", "label", "input_ids")


@dataclass(frozen=True)
class Rows:
    """Questions, all arrays (N,).

    Attributes:
        groups: Number of the question's text; the same for equal texts, ascending with SHA-256(seed, text).
        labels: Number of the coarse class.
        fine_labels: Number of the pair of coarse and fine class.
        official: Whether it stands in an official test file; bool.
        lengths: Tokens, before any cut.
        first_tokens: Id of the first token.
        last_tokens: Id of the last token.
    """

    groups: np.ndarray
    labels: np.ndarray
    fine_labels: np.ndarray
    official: np.ndarray
    lengths: np.ndarray
    first_tokens: np.ndarray
    last_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, rows: np.ndarray) -> "Rows":
        """The questions of these row numbers."""
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))


def normalize(text: str) -> str:
    """What makes two questions the same: the text without regard to case and space."""
    return " ".join(text.casefold().split())


def text_keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """The first 128 bits of SHA-256(seed, text) of each text: (N, 2) uint64."""
    digests = (hashlib.sha256(f"{seed}:{normalize(text)}".encode()).digest()[:16] for text in texts)
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def number_keys(keys: np.ndarray) -> np.ndarray:
    """Numbers (N,) of keys (N, 2): the same for equal keys, ascending with them, without gaps."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.cumsum(np.concatenate(([False], (ordered[1:] != ordered[:-1]).any(axis=1))))
    return numbers


def read_rows(pieces: Iterable[pyarrow.RecordBatch], seed: int) -> Rows:
    """Read what is needed of a table of questions.

    Args:
        pieces: Parts of the table, with `COLUMNS`.
        seed: Another one, another order of the groups.
    """
    pairs: dict[tuple[str, str], int] = {}
    found: list[tuple[np.ndarray, ...]] = []
    for piece in pieces:
        column = {name: piece.column(name) for name in COLUMNS}
        starts = column["input_ids"].offsets.to_numpy()
        tokens = column["input_ids"].values.to_numpy()
        names = zip(column["coarse"].to_pylist(), column["fine"].to_pylist(), strict=True)
        found.append(
            (
                text_keys(column["text"].to_pylist(), seed),
                column["label"].to_numpy().astype(np.int32),
                np.array([pairs.setdefault(pair, len(pairs)) for pair in names], dtype=np.int32),
                np.array([partition == "test" for partition in column["partition"].to_pylist()]),
                np.diff(starts).astype(np.int32),
                tokens[starts[:-1]].astype(np.int32),
                tokens[starts[1:] - 1].astype(np.int32),
            )
        )
    keys, *others = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Rows(number_keys(keys), *others)
