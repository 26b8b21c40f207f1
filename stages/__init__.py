"""The pipeline's stages, each run as `python -m stages.NAME` from the top of the repository."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

# A copy of the repository, such as DVC makes for a queued experiment, runs its own code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from qc.errors import address_space  # as the line above has it found

# Nothing calls home.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

# Experiments may run side by side (`dvc queue start --jobs 2`), with more threads between them than there are cores: a
# thread that waits is to give its core away sooner than is OpenMP's default, with which all run at a tenth of the speed
if "DVC_EXP_NAME" in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "600")

LEAST_MEMORY = 2 << 30  # bytes of address space: with less, libraries that a stage loads abort in words of their own


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C and SIGTERM where there is nothing to put in order: one line, and the shell's status for it."""
    os.write(2, f"\nstopped by {signal.Signals(number).name}; run the same command again to go on\n".encode())
    os._exit(128 + number)


# A stage that is being started spends its first seconds importing, and is not to answer Ctrl-C with a traceback.
if sys.argv[0] == "-m":
    if (allowed := address_space() or LEAST_MEMORY) < LEAST_MEMORY:
        sys.exit(
            f"error: `ulimit -v` allows {allowed >> 20:,} MiB of memory here, and a stage needs {LEAST_MEMORY >> 20:,} "
            "to begin with; raise it in this shell: ulimit -v unlimited"
        )
    signal.signal(signal.SIGINT, end_at_once)
    signal.signal(signal.SIGTERM, end_at_once)
