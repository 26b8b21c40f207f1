"""Question classification: the library behind the stages.

from qc import load
load("models/distilbert").predict(["Who wrote Hamlet ?"])
"""

import importlib
from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import what `load` takes only where it is asked for: no stage needs it."""
    if name == "load":
        return importlib.import_module("qc.prediction").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
