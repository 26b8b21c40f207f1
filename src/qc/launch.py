"""What a launcher such as torchrun says of the processes that it started, read from the environment.

A variable alone says nothing: job schedulers and other programs set `RANK` or `WORLD_SIZE` for purposes of their own.
They count only where all of torchrun's are there and name more than one process.
"""

import os
from dataclasses import dataclass

from qc.errors import QcError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # numbers
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        world_size: How many there are, on all machines.
        local_rank: Its number among those of its machine, from 0.
        local_world_size: How many there are on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def read_launch() -> Launch:
    """The place of this process; that of a single one where no launcher started several.

    Raises:
        QcError: A launcher's variable is no number, or impossible beside the others.
    """
    if not all(name in os.environ for name in (*VARIABLES, *ADDRESS)):
        return Launch()
    given = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
    try:
        found = Launch(*(int(os.environ[name]) for name in VARIABLES))
    except ValueError:
        raise QcError(f"environment: {given} is not possible; allowed: whole numbers, as torchrun sets them") from None
    if found.world_size <= 1:
        return Launch()
    if not (0 <= found.rank < found.world_size and 0 <= found.local_rank < found.local_world_size <= found.world_size):
        raise QcError(f"environment: {given} is not possible; allowed: ranks from 0 to below their world size")
    return found
