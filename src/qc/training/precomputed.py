"""Precomputed features: the frozen part of a model is run once, not every epoch.

Notable:
- the features take the place of the token ids in a packed dataset, so batches are cut in the same way
- above a memory budget they are memory-mapped from an unnamed file, which needs no cleaning up
- each of several processes fills its shard and gets the others' by a sum, since it may need any question next epoch
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qc.errors import QcError, reason
from qc.inference.batches import PackedDataset, bucket_by_length
from qc.inference.logits import evaluation_batch
from qc.models.common import Classifier
from qc.runtime.device import Precision, autocast
from qc.runtime.process_group import all_reduce_sum, is_main_process, shard

MIB = 1 << 20


class OnFeatures(nn.Module):
    """A model that takes precomputed features in the place of token ids."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Classify features (B, T or 1, H)."""
        return self.model.classify(features, mask)


def cast_frozen(model: nn.Module, precision: Precision) -> None:
    """Convert frozen matrices to the precision of their products once, rather than at every use.

    Embeddings and LayerNorms stay in fp32, as under autocast.
    """
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.to(torch.bfloat16)


def precompute_features(
    model: Classifier, questions: PackedDataset, precision: Precision, memory: float, folder: Path
) -> PackedDataset:
    """Replace the token ids of a split by the frozen features of a model.

    Args:
        model: A model with a frozen part.
        questions: Token ids, on the model's device.
        precision: Of the matrix products.
        memory: MiB that the features may take in memory; above it they are memory-mapped. On a GPU they may take half
            of its free memory instead.
        folder: Folder of the memory-mapped file.

    Raises:
        QcError: The disk has no room for the memory-mapped file.
    """
    model.eval()
    lengths = torch.ones_like(questions.lengths) if model.pools_features else questions.lengths
    cached = replace(questions, lengths=lengths, pad_id=None)
    plan = bucket_by_length(questions.lengths, evaluation_batch(questions.device))
    own = shard(plan)
    local = own or plan[:1]  # with fewer batches than processes, some run the first to know its type
    bar = tqdm(
        zip(local, questions.batches(local), strict=True),
        total=len(local),
        desc="frozen layers",
        unit="batch",
        leave=False,
        disable=None if is_main_process() else True,
    )
    values = None
    for indices, batch in bar:
        with torch.no_grad(), autocast(questions.device, precision):
            features = model.features(batch.inputs, batch.mask)  # (B, T or 1, H)
        if values is None:
            values = _zeros(int(lengths.sum()), features, memory, folder)
        if own:
            position = torch.arange(features.shape[1])
            real = position < lengths[indices][:, None]  # (B, T)
            rows = (cached.starts[indices][:, None] + position)[real]
            values[rows.to(values.device)] = features[real.to(features.device)].to(values.device)
    all_reduce_sum(values.view(torch.uint8))  # as bytes, all but one of them 0: not every backend knows every type
    return replace(cached, values=values)


def _zeros(rows: int, like: Tensor, memory: float, folder: Path) -> Tensor:
    """Zeros (rows, H) of `like`'s type: on its device, or in a file where they would take too much of its memory."""
    width = like.shape[-1]
    size = rows * width * like.element_size()
    if size <= (torch.cuda.mem_get_info(like.device)[0] / 2 if like.is_cuda else memory * MIB):
        return like.new_zeros(rows, width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="frozen-", suffix=".tmp") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash at a later write
            mapped = torch.from_file(file.name, shared=True, size=rows * width, dtype=like.dtype)
    except OSError as error:
        raise QcError(
            f"{folder}: no room for the features of the frozen layers, {size / MIB:,.0f} MiB: {reason(error)}; free "
            "some, or set cache_frozen: false in params.yaml"
        ) from None
    return mapped.view(rows, width)
