"""Data-parallel training in several processes, which torchrun or Accelerate starts.

Notable:
- the questions of a step are sharded, none twice and none left out; gradients are averaged by the size of each shard
- so batch size, steps and learning rate do not depend on the number of processes
- a single process takes the same path, with nothing to exchange
- the main process writes checkpoints and outputs
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed.nn  # before a group exists: its functions keep the group that they find on import
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from qc.errors import QcError
from qc.runtime.launch import read_launch

SILENCE = timedelta(minutes=10)  # after which a silent process is considered dead
Shardable = TypeVar("Shardable", list, Tensor)
Value = TypeVar("Value")


def launched_world_size() -> int:
    """Number of processes that the launcher started, on all machines."""
    return read_launch().world_size


def launched_rank() -> int:
    """Rank of this process, from 0."""
    return read_launch().rank


def local_device(kind: str) -> torch.device:
    """Device of this process, of the kind `cpu` or `cuda`.

    Raises:
        QcError: There are more processes on this machine than GPUs.
    """
    launch = read_launch()
    if kind == "cpu" or launch.world_size == 1:
        return torch.device(kind)
    gpus = torch.cuda.device_count()
    if launch.local_world_size > gpus:
        raise QcError(
            f"params.yaml: launcher: invalid value {launch.local_world_size} processes on a machine of {gpus} GPU(s); "
            f"expected 1 to {gpus} (--nproc-per-node=gpu is one for each), or device: cpu"
        )
    return torch.device(kind, launch.local_rank)


def local_threads(threads: int) -> int:
    """Share of a machine's threads for this process, at least one."""
    return max(1, threads // read_launch().local_world_size)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group; does nothing for a single process.

    Raises:
        QcError: Another process of the run died, or cannot be reached.
    """
    if launched_world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=SILENCE)
        yield
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        if not isinstance(error, distributed.DistError) and "gloo" not in message:  # gloo has no error type of its own
            raise
        cause = re.sub(r"^\[[^]]*\] ", "", message).split(". ")[0]
        raise QcError(
            f"lost the other processes of this run: {cause}; run the same command again to go on from the last whole "
            "epoch"
        ) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes in the group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes checkpoints and outputs."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def shard(things: Shardable) -> Shardable:
    """Take every `world_size`-th item, from the rank on; may be empty."""
    return things[distributed.get_rank() :: world_size()] if distributed.is_initialized() else things


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def broadcast_object(value: Value) -> Value:
    """Return the value of the main process in every process."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a model so that a backward pass averages gradients over all processes."""
    return DistributedDataParallel(model, forward_sync_buffers=False) if distributed.is_initialized() else model
