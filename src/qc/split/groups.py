"""Groups of equal questions, and the numbers that splitting and auditing need.

Notable:
- questions are equal if their texts are, up to case, space and Unicode form, or if a model reads them as equal: the
  same token ids after its own `max_length`; that model cannot tell them apart, so they must not be on both sides of a
  split
- the order of the groups is that of SHA-256(seed, text): it depends neither on the order of the rows nor on the machine
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qc.questions.tables import QuestionTable, read_pieces
from qc.questions.text import normalize_text
from qc.questions.vocabulary import Vocabulary


@dataclass(frozen=True)
class GroupedQuestions:
    """Questions as arrays (N,).

    Attributes:
        groups: Number of the question's group, see `group_numbers`.
        texts: Number of its text; equal for equal texts, ascending with SHA-256(seed, text).
        ids: Number of its token ids; equal where a model reads equal ids.
        labels: Number of the coarse class.
        fine_labels: Number of the fine class; `UNKNOWN` where it has none.
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

    def take(self, rows: np.ndarray) -> Self:
        """Select questions by row number."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Reading:
    """What a model reads of the questions: one tokenizer's ids, the first `max_length` that are not special.

    Attributes:
        table: The table of that tokenizer.
        vocabulary: The tokenizer.
        max_length: Tokens kept, special tokens not counted.
    """

    table: Path
    vocabulary: Vocabulary
    max_length: int

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Keys (N, 2) of the ids that the model reads; lengths (N,), first and last tokens (N,) before truncation."""
        before, after = self.vocabulary.special_counts
        pieces = []
        for piece in read_pieces(self.table, "input_ids"):
            tokens, offsets = piece.input_ids.values.to_numpy(), piece.input_ids.offsets.to_numpy()
            starts, ends = offsets[:-1] + before, offsets[1:] - after
            cut = np.minimum(ends, starts + self.max_length)
            keys = hash_keys(tokens[start:end].tobytes() for start, end in zip(starts, cut, strict=True))
            pieces.append((keys, ends - starts, tokens[starts], tokens[ends - 1]))
        return tuple(map(np.concatenate, zip(*pieces, strict=True)))


def group_questions(readings: Sequence[Reading], seed: int) -> GroupedQuestions:
    """Group the questions that a model in use cannot tell apart.

    Args:
        readings: What each model reads of the same questions; lengths and tokens are those of the first.
        seed: Decides the order of the groups.
    """
    keys, lengths, first_tokens, last_tokens = readings[0].arrays()
    ids = number_keys(keys)
    for other in readings[1:]:
        ids = group_numbers(ids, number_keys(other.arrays()[0]))
    path = readings[0].table
    texts = number_keys(np.concatenate([text_keys(piece.texts, seed) for piece in read_pieces(path, "text")]))
    questions = QuestionTable.read(path, "label", "fine", "official")
    fine_labels = questions.fine_labels
    return GroupedQuestions(
        groups=group_numbers(texts, ids),
        texts=texts,
        ids=ids,
        labels=questions.labels,
        fine_labels=np.zeros_like(questions.labels) if fine_labels is None else fine_labels,
        official=questions.columns["official"].to_numpy(),
        lengths=lengths,
        first_tokens=first_tokens,
        last_tokens=last_tokens,
    )


def text_keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """Hash each text with the seed."""
    return hash_keys(f"{seed}:{normalize_text(text)}".encode() for text in texts)


def hash_keys(contents: Iterable[bytes]) -> np.ndarray:
    """Hash bytes: the first 128 bits of SHA-256, (N, 2) uint64."""
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
    nodes = texts.max() + 1 + ids.max() + 1  # texts first, then ids
    links = coo_array((np.ones(len(texts), dtype=bool), (texts, ids + texts.max() + 1)), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1][texts]
    lowest = np.full(nodes, len(texts), dtype=np.int64)
    np.minimum.at(lowest, component, texts)
    return np.unique(lowest[component], return_inverse=True)[1]
