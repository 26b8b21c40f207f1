"""Text classification with three models, trained, compared and kept honest by DVC.

from qc import load
load("models/distilbert").predict(["Who wrote Hamlet ?"])
"""

import importlib
from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load`, and with it torch, only where it is used."""
    if name == "load":
        return importlib.import_module("qc.inference.predictor").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
