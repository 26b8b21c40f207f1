"""The tables behind the figures of `dvc plots` and of the report: f1, mistakes, reliability and coverage in plots/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qc.evaluation.metrics import confident_mistakes, coverage_curve, reliability_bins
from qc.files import write_csv

MISTAKES = 20  # of each model


def write_figure_tables(
    folder: Path,
    predictions: Mapping[str, Sequence[Any]],
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    scores: Mapping[str, Any],
) -> None:
    """Write F1 by class, the most confident mistakes and the reliability of each model.

    Args:
        folder: Where the files go.
        predictions: Columns of metrics/predictions.csv.
        labels: (N,) class numbers.
        probabilities: (N, classes) of each model.
        scores: Content of reports/test.json.
    """
    write_csv(
        folder / "f1.csv",
        ["model", "class", "f1"],
        ([name, *row] for name in probabilities for row in scores[name]["f1"].items()),
        inert=True,
    )
    write_csv(
        folder / "mistakes.csv",
        ["model", "id", "text", "label", "predicted", "probability"],
        (
            [name, *(predictions[key][row] for key in ("id", "text", "label", name, f"{name}_probability"))]
            for name, table in probabilities.items()
            for row in confident_mistakes(table, labels, MISTAKES)
        ),
        inert=True,
    )
    write_csv(
        folder / "reliability.csv",
        ["model", "questions", "confidence", "accuracy"],
        (
            [name, found.count, found.confidence, found.accuracy]
            for name, table in probabilities.items()
            for found in reliability_bins(table, labels)
        ),
    )


def write_coverage(folder: Path, labels: np.ndarray, probabilities: Mapping[str, np.ndarray]) -> None:
    """Write plots/coverage.csv: how many questions are answered above a confidence, and how well.

    Args:
        folder: Where the file goes.
        labels: (N,) class numbers of the validation split, since the curve serves to choose a confidence.
        probabilities: Calibrated, (N, classes) of each model.
    """
    write_csv(
        folder / "coverage.csv",
        ["model", "min_confidence", "coverage", "accuracy"],
        ([name, *point] for name, table in probabilities.items() for point in coverage_curve(table, labels)),
    )
