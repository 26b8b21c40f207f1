"""The tables behind the figures of `dvc plots` and of the report: f1, mistakes, reliability and coverage in plots/."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qc.evaluation.metrics import coverage_curve, reliability_bins
from qc.evaluation.scores import Arrays, Temperatures, calibrate
from qc.files import write_csv

MISTAKES = 20  # of each model


def write_figure_tables(
    folder: Path,
    predictions: Mapping[str, Sequence[Any]],
    labels: np.ndarray,
    probabilities: Arrays,
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
    mistakes, points = [], []
    for name, table in probabilities.items():
        wrong = np.flatnonzero(table.argmax(axis=1) != labels)
        columns = [predictions[key] for key in ("id", "text", "label", name, f"{name}_probability")]
        for row in wrong[np.argsort(-table.max(axis=1)[wrong], kind="stable")][:MISTAKES]:
            mistakes.append([name, *(column[row] for column in columns)])
        points += [[name, *point] for point in reliability_bins(table, labels)]
    header = ["model", "id", "text", "label", "predicted", "probability"]
    write_csv(folder / "mistakes.csv", header, mistakes, inert=True)
    write_csv(folder / "reliability.csv", ["model", "questions", "confidence", "accuracy"], points)


def write_coverage(folder: Path, labels: np.ndarray, logits: Arrays, temperatures: Temperatures) -> None:
    """Write plots/coverage.csv: how many questions are answered above a confidence, and how well.

    Args:
        folder: Where the file goes.
        labels: (N,) class numbers of the validation split, since the curve serves to choose a confidence.
        logits: (N, classes) of each model.
        temperatures: Softmax temperature of each model; None counts as 1.
    """
    rows = [
        # Rounded down: a confidence above the question's own would not answer it.
        [name, temperatures[name], math.floor(confidence * 1e6) / 1e6, coverage, accuracy]
        for name, array in logits.items()
        for confidence, coverage, accuracy in coverage_curve(calibrate(array, temperatures[name]), labels)
    ]
    write_csv(folder / "coverage.csv", ["model", "temperature", "min_confidence", "coverage", "accuracy"], rows)
