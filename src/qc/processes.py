"""Several processes that train one model: torchrun or Accelerate starts them, here they find out what each is to do.

Notable:
- the questions of a step are dealt out, none twice and none left out; gradients are averaged by the size of each share
- so the number of processes is no knob of training: batch size, steps and learning rate stay what they are
- a process alone goes the same way, with nothing to exchange
- the first process keeps states and writes outputs; the others follow it
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed.nn  # before there is a group: the one that it finds stays in its functions' defaults
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from qc.errors import QcError
from qc.launch import read_launch

SILENCE = timedelta(minutes=10)  # after which a process that answers nothing is taken for dead

Dealt = TypeVar("Dealt", list, Tensor)
Value = TypeVar("Value")


def started() -> int:
    """How many processes the launcher says it started, on all machines."""
    return read_launch().world_size


def own_rank() -> int:
    """Which of them this is, from 0."""
    return read_launch().rank


def local_device(kind: str) -> torch.device:
    """This process's own device of a kind, `cpu` or `cuda`.

    Raises:
        QcError: There are more processes on this machine than GPUs.
    """
    launch = read_launch()
    if kind == "cpu" or launch.world_size == 1:
        return torch.device(kind)
    gpus = torch.cuda.device_count()
    if launch.local_world_size > gpus:
        raise QcError(
            f"params.yaml: launcher: {launch.local_world_size} processes on this machine are not possible, it has "
            f"{gpus} GPU(s); allowed: 1 to {gpus} (--nproc-per-node=gpu is one for each), or device: cpu"
        )
    return torch.device(kind, launch.local_rank)


def local_threads(threads: int) -> int:
    """The threads that this process may take of those meant for its machine, at least one."""
    return max(1, threads // read_launch().local_world_size)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the processes that train together, on `device`; alone, just be.

    Raises:
        QcError: Another process of the run died, or cannot be reached.
    """
    if started() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=SILENCE)
        yield
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        if not isinstance(error, distributed.DistError) and "gloo" not in message:  # gloo raises no narrower type
            raise
        cause = re.sub(r"^\[[^]]*\] ", "", message).split(". ")[0]
        raise QcError(
            f"lost the other processes of this run: {cause}; run the same command again to go on from the last whole "
            "epoch"
        ) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that keeps states and writes outputs."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(things: Dealt) -> Dealt:
    """What this process has to do of `things`, dealt out one by one; perhaps nothing."""
    return things[distributed.get_rank() :: count()] if distributed.is_initialized() else things


def summed(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, which have one shape; in place."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def spread(tensor: Tensor, source: int) -> Tensor:
    """The tensor of process `source`, in place of the others', which have its shape and type."""
    if distributed.is_initialized():
        distributed.broadcast(tensor.view(torch.uint8), source)  # as bytes: gloo does not know every type
    return tensor


def of_first(value: Value) -> Value:
    """The first process's value, in every process."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def averaging_gradients(model: nn.Module) -> nn.Module:
    """The model; where there are several processes, a backward pass through it averages their gradients."""
    return DistributedDataParallel(model, forward_sync_buffers=False) if distributed.is_initialized() else model
