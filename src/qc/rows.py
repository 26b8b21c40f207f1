"""What splitting and auditing know of every question: numbers, some 80 bytes of them, so that millions fit in memory.

Notable:
- questions are the same where their texts are, up to case, space and Unicode's forms, or where their token ids are:
  what a model cannot tell apart must not stand on both sides of a split
- what stands in which split is decided by SHA-256(seed, text) alone: not by the order of the rows, nor by the machine
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qc.questions import strip_invisible

COLUMNS = ("text", "partition", "coarse", "fine", "label")


@dataclass(frozen=True)
class Rows:
    """Questions, all arrays (N,).

    Attributes:
        groups: Number of the group that the question is of, see `group_numbers`.
        texts: Number of its text; the same for equal texts, ascending with SHA-256(seed, text).
        ids: Number of its token ids; the same where one of the tokenizers in use gives equal ids.
        labels: Number of the coarse class.
        fine_labels: Number of the pair of coarse and fine class.
        official: Whether it stands in an official test file; bool.
        lengths: Tokens, before any cut, special ones not counted.
        first_tokens: Id of the first token that is not special.
        last_tokens: Id of the last one.
    """

    groups: np.ndarray
    texts: np.ndarray
    ids: np.ndarray
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
    """What makes two texts the same: the text without regard to case, space and how Unicode writes it."""
    return " ".join(unicodedata.normalize("NFC", strip_invisible(text)).casefold().split())


def text_keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """The first 128 bits of SHA-256(seed, text) of each text: (N, 2) uint64."""
    return _keys(f"{seed}:{normalize(text)}".encode() for text in texts)


def id_keys(input_ids: Iterable[np.ndarray]) -> np.ndarray:
    """The first 128 bits of SHA-256 of the token ids (T,) of each question: (N, 2) uint64."""
    return _keys(ids.astype("<i8").tobytes() for ids in input_ids)


def _keys(contents: Iterable[bytes]) -> np.ndarray:
    digests = (hashlib.sha256(content).digest()[:16] for content in contents)
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def number_keys(keys: np.ndarray) -> np.ndarray:
    """Numbers (N,) of keys (N, 2): the same for equal keys, ascending with them, without gaps."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.cumsum(np.concatenate(([False], (ordered[1:] != ordered[:-1]).any(axis=1))))
    return numbers


def group_numbers(texts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Put questions together that share their text or their token ids, directly or by way of others.

    Args:
        texts: (N,) numbers of the texts, from `number_keys`.
        ids: (N,) numbers of the token ids, likewise.

    Returns:
        (N,) numbers of the groups, without gaps; they ascend with the lowest text number of a group.
    """
    edges = coo_array((np.ones(len(texts), dtype=bool), (texts, ids)), shape=(texts.max() + 1, ids.max() + 1))
    nodes = sum(edges.shape)  # texts first, then ids
    links = coo_array((edges.data, (edges.row, edges.col + edges.shape[0])), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1][texts]
    lowest = np.full(nodes, len(texts), dtype=np.int64)
    np.minimum.at(lowest, component, texts)
    return np.unique(lowest[component], return_inverse=True)[1]


@dataclass(frozen=True)
class Tokenized:
    """The questions as a tokenizer has them.

    Attributes:
        pieces: Parts of a table with the column `input_ids`, special tokens included.
        before: Number of special tokens before each question.
        after: Number of those after it.
    """

    pieces: Iterable[pyarrow.RecordBatch]
    before: int
    after: int


def read_rows(pieces: Iterable[pyarrow.RecordBatch], tokenized: Sequence[Tokenized], seed: int) -> Rows:
    """Read what is needed of a table of questions.

    Args:
        pieces: Parts of the table, with `COLUMNS`.
        tokenized: The same questions as each tokenizer in use has them; lengths and tokens are those of the first.
        seed: Another one, another order of the groups.
    """
    pairs: dict[tuple[str, str], int] = {}
    found = []
    for piece in pieces:
        column = {name: piece.column(name) for name in COLUMNS}
        names = zip(column["coarse"].to_pylist(), column["fine"].to_pylist(), strict=True)
        found.append(
            (
                text_keys(column["text"].to_pylist(), seed),
                column["label"].to_numpy().astype(np.int32),
                np.array([pairs.setdefault(pair, len(pairs)) for pair in names], dtype=np.int32),
                np.array([partition == "test" for partition in column["partition"].to_pylist()]),
            )
        )
    keys, *others = _joined(found)
    (ids, *tokens), *rest = (_read_ids(each) for each in tokenized)
    for other, *_ in rest:
        ids = group_numbers(ids, other)
    texts = number_keys(keys)
    return Rows(group_numbers(texts, ids), texts, ids, *others, *tokens)


def _read_ids(tokenized: Tokenized) -> Sequence[np.ndarray]:
    """Numbers (N,) of the token ids of questions, their lengths, first and last tokens, special ones left out."""
    found = []
    for piece in tokenized.pieces:
        column = piece.column("input_ids")
        offsets, tokens = column.offsets.to_numpy(), column.values.to_numpy()
        starts, ends = offsets[:-1] + tokenized.before, offsets[1:] - tokenized.after
        keys = id_keys(tokens[start:end] for start, end in zip(starts, ends, strict=True))
        found.append((keys, (ends - starts).astype(np.int32), tokens[starts], tokens[ends - 1]))
    keys, *others = _joined(found)
    return number_keys(keys), *others


def _joined(pieces: Iterable[Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
    """Pieces of some arrays, each put end to end."""
    return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]
