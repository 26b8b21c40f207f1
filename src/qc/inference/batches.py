"""Packed datasets: the questions of a split in one tensor, and batches of similar length.

Notable:
- all sequences lie end to end in one tensor on the training device; a batch is one gather, without a copy per question
- a sequence holds token ids, or the precomputed features of a frozen part
- a batch is padded to its own longest with the tokenizer's padding id, and has no mask when nothing is padded
- a GPU is never waited for: row numbers go there once an epoch, shapes are known from lengths that stay on the CPU
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow

    from qc.questions.vocabulary import Vocabulary

PIECE = 65_536  # questions that are packed at a time
GPU_MULTIPLE = 8  # of the lengths of batches on a GPU: its kernels prefer it, and a compiler sees few shapes


@dataclass(frozen=True)
class Batch:
    """A batch of questions, padded to the longest.

    Attributes:
        inputs: (B, T) ids, or (B, T, H) vectors.
        mask: (B, T) bool, True where a token is real; None when nothing is padded.
        labels: (B,) class numbers.
        fine_labels: (B,) class numbers of the second task; None where there is none.
    """

    inputs: Tensor
    mask: Tensor | None
    labels: Tensor
    fine_labels: Tensor | None


@dataclass(frozen=True)
class PackedDataset:
    """A split as tensors.

    Attributes:
        values: (tokens,) ids or (tokens, H) vectors of all questions, end to end.
        labels: (N,) class numbers.
        lengths: (N,) tokens of each question; on the CPU, so that cutting batches never waits for a device.
        pad_id: The tokenizer's id of padding; None where `values` are vectors.
        fine_labels: (N,) class numbers of a second task; None for none.
        length_multiple: Batches are padded to a multiple of it, or to the longest question of all.
    """

    values: Tensor
    labels: Tensor
    lengths: Tensor
    pad_id: int | None
    fine_labels: Tensor | None = None
    length_multiple: int = 1

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """(N,) start of each question in `values`; on the CPU."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def _spans(self) -> tuple[Tensor, Tensor]:
        """Starts and lengths (N,) where `values` are."""
        return self.starts.to(self.values.device), self.lengths.to(self.values.device)

    @cached_property
    def _longest(self) -> int:
        return int(self.lengths.max())

    @property
    def device(self) -> torch.device:
        """Device of the batches; `values` may be kept elsewhere."""
        return self.labels.device

    def to(self, device: torch.device) -> "PackedDataset":
        """Copy values and labels to `device`."""
        return replace(
            self,
            values=self.values.to(device),
            labels=self.labels.to(device),
            fine_labels=None if self.fine_labels is None else self.fine_labels.to(device),
            length_multiple=GPU_MULTIPLE if device.type == "cuda" else 1,
        )

    def batches(self, plan: Sequence[Tensor]) -> Iterator[Batch]:
        """Cut out the questions at each of the row numbers (B,) in `plan`, padded to the longest of them.

        Ids are padded with `pad_id`, vectors with arbitrary finite values: every model masks them.
        """
        sizes = [len(indices) for indices in plan]
        together = torch.cat(list(plan))
        rows, places = together.to(self.device), together.to(self.values.device)
        for indices, on_device, place in zip(plan, rows.split(sizes), places.split(sizes), strict=True):
            yield self._gather(indices, on_device, place)

    def batch(self, indices: Tensor) -> Batch:
        """Cut out the questions at `indices` (B,), see `batches`."""
        return next(self.batches([indices]))

    def padded_length(self, indices: Tensor) -> int:
        """Length that the questions at `indices` (B,) are padded to."""
        longest = int(self.lengths[indices].max())
        return min(-(-longest // self.length_multiple) * self.length_multiple, self._longest)

    def padding_share(self, plan: Sequence[Tensor]) -> float:
        """Share of the padding among all tokens of the batches of `plan`, 0 to 1."""
        multiplied = sum(len(indices) * self.padded_length(indices) for indices in plan)
        return 1 - int(self.lengths.sum()) / multiplied

    def _gather(self, indices: Tensor, rows: Tensor, places: Tensor) -> Batch:
        """Cut a batch; the row numbers (B,) on the CPU, on the device, and where `values` are."""
        starts, lengths = (numbers[places][:, None] for numbers in self._spans)
        position = torch.arange(self.padded_length(indices), device=self.values.device)  # (T,)
        real = position < lengths  # (B, T)
        inputs = self.values[torch.where(real, starts + position, 0)]
        if self.pad_id is not None:
            inputs.masked_fill_(~real, self.pad_id)
        if inputs.device != self.device:
            inputs = inputs.pin_memory()
        unpadded = bool((self.lengths[indices] == len(position)).all())
        return Batch(
            inputs=inputs.to(self.device, non_blocking=True),
            mask=None if unpadded else real.to(self.device, non_blocking=True),
            labels=self.labels[rows],
            fine_labels=None if self.fine_labels is None else self.fine_labels[rows],
        )


def pack(
    vocabulary: "Vocabulary",
    input_ids: "Sequence[Sequence[int]] | pyarrow.ListArray",
    labels: Sequence[int] | np.ndarray,
    max_length: int,
    *,
    keep_special: bool,
    fine_labels: Sequence[int] | np.ndarray | None = None,
) -> PackedDataset:
    """Pack questions: put their token ids end to end.

    Args:
        vocabulary: Tells the special tokens around each question, and the id of padding.
        input_ids: The token ids of each question, special tokens included; beside those, none may be empty. A list
            column of Arrow's is read as it lies, without an object per token.
        labels: The class number of each question.
        max_length: Tokens kept of a question, special tokens not counted.
        keep_special: Whether the special tokens are kept.
        fine_labels: The class number of each question in a second task; None for none.
    """
    offsets, tokens = _lay_out(input_ids)
    before, after = vocabulary.special_counts
    kept = (offsets.diff() - before - after).clamp_max(max_length)  # (N,)
    if keep_special:
        begins, heads, lengths = offsets[:-1], kept + before, kept + before + after  # the first `heads` lie together
    else:
        begins, heads, lengths = offsets[:-1] + before, kept, kept
    ends = lengths.cumsum(0)
    values = torch.empty(int(ends[-1]), dtype=torch.long)
    for piece in torch.arange(len(kept)).split(PIECE):
        counts = lengths[piece]
        first, last = int(ends[piece[0]] - counts[0]), int(ends[piece[-1]])
        question = piece.repeat_interleave(counts)  # of each token
        place = torch.arange(first, last) - (ends - lengths)[question]  # in its question
        from_end = offsets[1:][question] - (lengths[question] - place)
        values[first:last] = tokens[torch.where(place < heads[question], begins[question] + place, from_end)].long()
    return PackedDataset(
        values=values,
        labels=torch.tensor(labels, dtype=torch.long),
        lengths=lengths,
        pad_id=vocabulary.pad_id,
        fine_labels=None if fine_labels is None else torch.tensor(fine_labels, dtype=torch.long),
    )


def _lay_out(input_ids: "Sequence[Sequence[int]] | pyarrow.ListArray") -> tuple[Tensor, Tensor]:
    """Offsets (N + 1,) of the questions, and all token ids end to end."""
    if isinstance(input_ids, Sequence):
        offsets = np.cumsum([0, *map(len, input_ids)])
        return torch.from_numpy(offsets), torch.tensor([token for ids in input_ids for token in ids])
    return torch.from_dlpack(input_ids.offsets).long(), torch.from_dlpack(input_ids.values)  # Arrow's memory: read only


def bucket_by_length(lengths: Tensor, batch_size: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Group questions of similar length into batches.

    With a generator the questions are sorted by length with noise of about one token, so that neighbours differ from
    epoch to epoch, and the batches come in random order. Without one the order is fixed: shortest first.

    Args:
        lengths: (N,) tokens of each question.
        batch_size: Questions a batch; the last one may be smaller.
        generator: Source of the randomness.

    Returns:
        Index tensors that together hold every question once.
    """
    keys = lengths.to(torch.float32)
    if generator is not None:
        keys = keys + torch.rand(len(lengths), generator=generator)
    chunks = list(torch.argsort(keys, stable=True).split(batch_size))
    if generator is None:
        return chunks
    return [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
