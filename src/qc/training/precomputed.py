"""Precomputed features: the frozen part of a model is run once, not every epoch.

Notable:
- the features take the place of the token ids in a packed dataset, so batches are cut in the same way
- above a memory budget they are memory-mapped from an unnamed file, which needs no cleaning up
- each of several processes computes a part and broadcasts it, since any of them may need any question next epoch
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
from qc.runtime.device import Precision, autocast
from qc.runtime.process_group import broadcast, is_main_process, launched_rank, world_size

MIB = 1 << 20


def cast_frozen(model: nn.Module, precision: Precision) -> None:
    """Convert frozen matrices to the precision of their products once, rather than at every use.

    Embeddings and LayerNorms stay in fp32, as under autocast.
    """
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.to(torch.bfloat16)


def precompute_frozen(
    model: nn.Module, questions: PackedDataset, precision: Precision, memory: float, folder: Path
) -> PackedDataset:
    """Replace the token ids of a split by the frozen features of a model.

    Args:
        model: A `Classifier` with a frozen part.
        questions: Token ids, on the model's device.
        precision: Of the matrix products.
        memory: MiB that the features may take in memory; above it they are memory-mapped. On a GPU they may take half
            of its free memory instead.
        folder: Folder of the memory-mapped file.

    Raises:
        QcError: The disk has no room for the memory-mapped file.
    """
    model.eval()
    cached = None
    plan = bucket_by_length(questions.lengths, evaluation_batch(questions.device))
    for first in tqdm(
        range(0, len(plan), world_size()),
        desc="frozen layers",
        unit="batch",
        leave=False,
        disable=None if is_main_process() else True,
    ):
        turn = plan[first : first + world_size()]  # one for each process; those left over repeat the last
        local = turn[min(launched_rank(), len(turn) - 1)]
        batch = questions.batch(local)
        with autocast(questions.device, precision):
            hidden = model.features(batch.inputs, batch.mask)  # (B, T', H)
        if cached is None:
            lengths = torch.ones_like(questions.lengths) if model.pools_features else questions.lengths
            values = _store(int(lengths.sum()), hidden, memory, folder)
            cached = replace(questions, values=values, lengths=lengths)
        for source, indices in enumerate(turn):
            position = torch.arange(hidden.shape[1] if indices is local else int(lengths[indices].max()))
            real = position < lengths[indices][:, None]  # (B, T')
            target = (cached.starts[indices][:, None] + position)[real]
            rows = (
                hidden[real.to(hidden.device)] if indices is local else hidden.new_empty(len(target), hidden.shape[2])
            )
            values[target.to(values.device)] = broadcast(rows, source).to(values.device)
    return cached


def _store(rows: int, like: Tensor, memory: float, folder: Path) -> Tensor:
    """Room for (rows, H) of `like`'s type: on its device, or in a file where it would take too much of that."""
    width = like.shape[-1]
    size = rows * width * like.element_size()
    if size <= (torch.cuda.mem_get_info(like.device)[0] / 2 if like.is_cuda else memory * MIB):
        return like.new_empty(rows, width)
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
