"""What training never changes, run once instead of every epoch.

Notable:
- the outputs take the place of the token ids, end to end in one tensor, so batches are cut from them as from ids
- past a budget of memory they are memory-mapped from a file without a name, which nothing needs to clean up
- several processes run a part each and tell the others, since any of them may need any question in the next epoch
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qc.batching import Questions, plan_batches
from qc.errors import QcError, reason
from qc.processes import count, is_first, own_rank, spread
from qc.training import EVALUATION_BATCH, Precision, autocast

MIB = 1 << 20


def lower_frozen(model: nn.Module, precision: Precision) -> None:
    """Keep frozen matrices in the precision they are multiplied in, rather than convert them at every use.

    What is added and normalized, embeddings and LayerNorms, stays in fp32, as autocast has it.
    """
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.to(torch.bfloat16)


def cache_frozen(
    model: nn.Module, questions: Questions, precision: Precision, memory: float, folder: Path
) -> Questions:
    """Run `model.frozen` once over a split; the outputs replace the token ids.

    Args:
        model: Has `frozen(inputs, mask) -> (B, T', H)`, T' being T, or 1 where it pools.
        questions: Token ids, on the model's device.
        precision: What the matrices are multiplied in.
        memory: MiB that the outputs may take on the device; where they take more, they are memory-mapped.
        folder: Where the mapped file is, while there is one.

    Raises:
        QcError: The outputs are to be mapped, and the disk has no room for them.
    """
    model.eval()
    cached = None
    plan = plan_batches(questions.lengths, EVALUATION_BATCH)
    for first in tqdm(
        range(0, len(plan), count()),
        desc="frozen layers",
        unit="batch",
        leave=False,
        disable=None if is_first() else True,
    ):
        turn = plan[first : first + count()]  # one for each process; who has none repeats the last
        own = turn[min(own_rank(), len(turn) - 1)]
        batch = questions.batch(own)
        with autocast(questions.device, precision):
            hidden = model.frozen(batch.inputs, batch.mask)  # (B, T', H)
        if cached is None:
            lengths = torch.ones_like(questions.lengths) if hidden.shape[1] == 1 else questions.lengths
            values = _store(int(lengths.sum()), hidden, memory, folder)
            cached = replace(questions, values=values, lengths=lengths)
        for source, indices in enumerate(turn):
            position = torch.arange(int(lengths[indices].max()))
            real = position < lengths[indices][:, None]  # (B, T')
            target = (cached.starts[indices][:, None] + position)[real]
            rows = hidden[real.to(hidden.device)] if indices is own else hidden.new_empty(len(target), hidden.shape[2])
            values[target.to(values.device)] = spread(rows, source).to(values.device)
    return cached


def _store(rows: int, like: Tensor, memory: float, folder: Path) -> Tensor:
    """Room for (rows, H) of `like`'s type: on its device, or in a file if that would take more than `memory` MiB."""
    width = like.shape[-1]
    size = rows * width * like.element_size()
    if size <= memory * MIB:
        return like.new_empty(rows, width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="frozen-", suffix=".tmp") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash at a later write
            mapped = torch.from_file(file.name, shared=True, size=rows * width, dtype=like.dtype)
    except OSError as error:
        raise QcError(
            f"{folder}: no room for the frozen layers' outputs, {size / MIB:,.0f} MiB: {reason(error)}; free some, or "
            "set cache_frozen: false in params.yaml"
        ) from None
    return mapped.view(rows, width)
