"""Environment variables of a launcher such as torchrun.

They count only where all of them are set and name more than one process: job schedulers set `RANK` or `WORLD_SIZE` for
purposes of their own.
"""

import os
from dataclasses import dataclass

from qc.errors import QcError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # whole numbers, in the order of Launch
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Rank and world size of this process, on all machines and on its own; ranks begin at 0."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def read_launch() -> Launch:
    """Read rank and world size; those of a single process where no launcher started several.

    Raises:
        QcError: A variable is no number, or contradicts another.
    """
    if not all(name in os.environ for name in (*VARIABLES, *ADDRESS)):
        return Launch()
    given = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
    try:
        launch = Launch(*(int(os.environ[name]) for name in VARIABLES))
    except ValueError:
        raise QcError(f"environment: invalid value {given}; expected whole numbers, as torchrun sets them") from None
    if launch.world_size <= 1:
        return Launch()
    if not (0 <= launch.rank < launch.world_size and 0 <= launch.local_rank < launch.local_world_size):
        raise QcError(f"environment: invalid value {given}; expected ranks from 0 to below their world size")
    return launch
