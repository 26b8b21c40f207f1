"""How tables and lines name and format things, for cards, the report and the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from qc.models.registry import MODELS

BASELINES = {"tfidf_svm": "TF-IDF + LinearSVC", "majority": "majority class"}
NOT_CALIBRATED = "not calibrated (T = 1, none could be fitted on validation)"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table; cells stay as they are."""
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True)


def title(name: str) -> str:
    """Return the full name of a model or baseline."""
    return MODELS[name].title if name in MODELS else BASELINES[name]


def temperature_text(temperature: float | None) -> str:
    """Format a softmax temperature; None where none could be fitted."""
    return NOT_CALIBRATED if temperature is None else f"{temperature:.2f}"


def accuracy_lines(scores: Mapping[str, Any]) -> str:
    """List the test accuracy of every model and baseline, a line each."""
    named = {name: scores[name] for name in MODELS} | scores["baselines"]
    return "\n".join(
        f"{name:<12} {score['accuracy']:.3f}  ({score['accuracy_low']:.3f} to {score['accuracy_high']:.3f})"
        for name, score in named.items()
    )
