"""What a process sets up before it loads libraries: environment and signals."""

import atexit
import gc
import os
import signal
import sys
from types import FrameType

from qc.errors import QcError, address_space

LEAST_MEMORY = 2 << 30  # bytes of address space; with less, libraries abort while they are loaded

# Variables for arithmetic that is the same on every x86-64 processor with AVX2, of any maker; libraries read them while
# they are loaded. MKL's AVX2 mode is not enough: on Intel it gives other bits than on AMD.
PORTABLE = {
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def set_environment() -> None:
    """Switch off telemetry and frequent garbage collection; beside other experiments of DVC, spinning threads."""
    gc.set_threshold(20_000)  # libraries make a million objects that stay: going through them takes a third of a start
    atexit.register(gc.freeze)  # ... and the end nearly a second
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if "DVC_EXP_NAME" in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "600")  # by default experiments side by side are 10 times slower


def handle_signals(kept: str = "run the same command again to go on") -> None:
    """Let Ctrl-C and SIGTERM unwind the process, so that no half-written file stays; a second one ends it at once.

    The message ends with `kept`: what stays, and how to go on.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)
        os.write(2, f"\nstopped by {signal.Signals(number).name}; {kept}\n".encode())
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def check_process() -> None:
    """Raise QcError where the libraries cannot work: without docstrings, or with less memory than they need."""
    if sys.flags.optimize > 1:
        raise QcError("transformers needs docstrings, which PYTHONOPTIMIZE=2 and python -OO remove; unset it, or use 1")
    allowed = address_space()
    if allowed is not None and allowed < LEAST_MEMORY:
        raise QcError(
            f"{LEAST_MEMORY >> 20:,} MiB of memory are the least that the libraries need; raise the limit in this "
            "shell: ulimit -v unlimited"
        )
