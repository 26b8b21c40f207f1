"""Groups of equal questions, and the numbers that splitting and auditing need: some 80 bytes a question.

Notable:
- questions are equal if their texts are, up to case, space and Unicode form, or if a tokenizer gives them equal ids: a
  model cannot tell them apart, so they must not be on both sides of a split
- the order of the groups is that of SHA-256(seed, text): it depends neither on the order of the rows nor on the machine
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qc.questions.parquet import read_pieces
from qc.questions.text import normalize_text
from qc.questions.tokenizers import Vocabulary

COLUMNS = ("text", "partition", "coarse", "fine", "label")


@dataclass(frozen=True)
class GroupedQuestions:
    """Questions as arrays (N,).

    Attributes:
        groups: Number of the question's group, see `group_numbers`.
        texts: Number of its text; equal for equal texts, ascending with SHA-256(seed, text).
        ids: Number of its token ids; equal where one of the tokenizers gives equal ids.
        labels: Number of the coarse class.
        fine_labels: Number of the pair of coarse and fine class.
        official: Whether it is in an official test file; bool.
        lengths: Tokens before truncation, special tokens not counted.
        first_tokens: Id of the first token that is not special.
        last_tokens: Id of the last token that is not special.
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

    def take(self, rows: np.ndarray) -> "GroupedQuestions":
        """Select questions by row number."""
        return GroupedQuestions(*(getattr(self, field.name)[rows] for field in fields(self)))


def text_keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """Hash each text with the seed: the first 128 bits of SHA-256, (N, 2) uint64."""
    return _keys(f"{seed}:{normalize_text(text)}".encode() for text in texts)


def id_keys(input_ids: Iterable[np.ndarray]) -> np.ndarray:
    """Hash the token ids (T,) of each question: the first 128 bits of SHA-256, (N, 2) uint64."""
    return _keys(ids.astype("<i8").tobytes() for ids in input_ids)


def _keys(contents: Iterable[bytes]) -> np.ndarray:
    digests = (hashlib.sha256(content).digest()[:16] for content in contents)
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def number_keys(keys: np.ndarray) -> np.ndarray:
    """Number keys (N, 2): equal for equal keys, ascending with them, without gaps."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.cumsum(np.concatenate(([False], (ordered[1:] != ordered[:-1]).any(axis=1))))
    return numbers


def group_numbers(texts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Group questions that share text or token ids, directly or through others.

    Args:
        texts: (N,) numbers of the texts, from `number_keys`.
        ids: (N,) numbers of the token ids, from `number_keys`.

    Returns:
        (N,) numbers of the groups, without gaps, ascending with the lowest text number of a group.
    """
    edges = coo_array((np.ones(len(texts), dtype=bool), (texts, ids)), shape=(texts.max() + 1, ids.max() + 1))
    nodes = sum(edges.shape)  # texts first, then ids
    links = coo_array((edges.data, (edges.row, edges.col + edges.shape[0])), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1][texts]
    lowest = np.full(nodes, len(texts), dtype=np.int64)
    np.minimum.at(lowest, component, texts)
    return np.unique(lowest[component], return_inverse=True)[1]


@dataclass(frozen=True)
class TokenizedQuestions:
    """The questions, as one tokenizer has them.

    Attributes:
        pieces: Parts of a table with the column `input_ids`, special tokens included.
        before: Number of special tokens before each question.
        after: Number of special tokens after it.
    """

    pieces: Iterable[pyarrow.RecordBatch]
    before: int
    after: int


def group_questions(
    pieces: Iterable[pyarrow.RecordBatch], tokenized: Sequence[TokenizedQuestions], seed: int
) -> GroupedQuestions:
    """Group equal questions.

    Args:
        pieces: Parts of the table of questions, with `COLUMNS`.
        tokenized: The same questions for each tokenizer in use; lengths and tokens are those of the first.
        seed: Decides the order of the groups.
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
    return GroupedQuestions(group_numbers(texts, ids), texts, ids, *others, *tokens)


def _read_ids(tokenized: TokenizedQuestions) -> Sequence[np.ndarray]:
    """Number the token ids of questions; also their lengths, first and last tokens, without special tokens."""
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
    """Concatenate the pieces of each array."""
    return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]


def read_tokenized(input_ids: Path, vocabulary: Path) -> TokenizedQuestions:
    """Open the token ids of one tokenizer, from its two files in data/tokenized."""
    return TokenizedQuestions(read_pieces(input_ids, "input_ids"), *Vocabulary.read(vocabulary).special_counts)


def add_groups(pieces: Iterable[pyarrow.Table], groups: np.ndarray) -> Iterator[pyarrow.Table]:
    """Add the column `group` to tables with a column `id`; `groups` (N,) holds the group of every id."""
    for piece in pieces:
        yield piece.append_column("group", pyarrow.array(groups[piece["id"].to_numpy()]))


def sample_groups(questions: GroupedQuestions, rows: np.ndarray, size: int) -> np.ndarray:
    """Choose at most `size` of some row numbers by the group of the row, ascending: independent of the rows' order."""
    return np.sort(rows[np.argsort(questions.groups[rows], kind="stable")[:size]])
