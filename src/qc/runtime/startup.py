"""What a process sets up before it loads libraries: environment and signals."""

import os
import signal
from types import FrameType

from qc.errors import QcError, address_space

LEAST_MEMORY = 2 << 30  # bytes of address space; with less, libraries abort while they are loaded


def set_environment() -> None:
    """Switch off telemetry, and idle spinning of threads where DVC runs experiments side by side."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if "DVC_EXP_NAME" in os.environ:
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "600"
        )  # OpenMP's default makes experiments side by side 10 times slower


def handle_signals() -> None:
    """Let Ctrl-C and SIGTERM unwind the process, so that no half-written file stays; a second one ends it at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def check_address_space() -> None:
    """Raise QcError where `ulimit -v` allows less memory than the libraries need."""
    allowed = address_space()
    if allowed is not None and allowed < LEAST_MEMORY:
        raise QcError(
            f"{LEAST_MEMORY >> 20:,} MiB of memory are the least that the libraries need; raise the limit in this "
            "shell: ulimit -v unlimited"
        )


def _stop(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    os.write(2, f"\nstopped by {signal.Signals(number).name}; run the same command again to go on\n".encode())
    raise SystemExit(128 + number)
