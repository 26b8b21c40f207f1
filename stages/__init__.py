"""The pipeline's stages, each run as `python -m stages.NAME` from the top of the repository."""

import os
import sys
from pathlib import Path

# A copy of the repository, such as DVC makes for a queued experiment, runs its own code, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

# Nothing calls home.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
