"""Tables of predictions: one row a question, and what the figures of `dvc plots` and of the report are drawn from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qc.evaluation.metrics import coverage_curve, reliability_bins
from qc.evaluation.scores import Arrays, Temperatures, calibrate
from qc.files import truncate_text, write_csv

MISTAKES = 20  # of each model


def write_predictions(
    path: Path, split: Mapping[str, Sequence[Any]], classes: Sequence[str], probabilities: Arrays, tfidf_svm: np.ndarray
) -> dict[str, list[Any]]:
    """Write id, text and label of each question, and what each model and the TF-IDF baseline predict.

    Takes the columns id, text and label of the split, the (N, classes) probabilities of each model, and the (N,) class
    numbers of the baseline. Returns the written columns.
    """
    columns = {
        "id": list(split["id"]),
        "text": [truncate_text(text) for text in split["text"]],
        "label": [classes[number] for number in split["label"]],
    }
    for name, table in probabilities.items():
        columns[name] = [classes[number] for number in table.argmax(axis=1)]
        columns[f"{name}_probability"] = table.max(axis=1).tolist()
    columns["tfidf_svm"] = [classes[number] for number in tfidf_svm]
    write_csv(path, list(columns), zip(*columns.values(), strict=True))
    return columns


def write_figure_tables(
    folder: Path,
    predictions: Mapping[str, Sequence[Any]],
    labels: np.ndarray,
    probabilities: Arrays,
    scores: Mapping[str, Any],
) -> None:
    """Write F1 by class, the most confident mistakes and the reliability of each model.

    `predictions` are the columns of `write_predictions` for the same questions, `scores` those of reports/test.json.
    """
    f1 = ([name, *row] for name in probabilities for row in scores[name]["f1"].items())
    write_csv(folder / "f1.csv", ["model", "class", "f1"], f1, inert=True)
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
    """Write plots/coverage.csv: how many questions of validation are answered above a confidence, and how well.

    It is of validation, since it serves to choose a confidence.
    """
    rows = [
        # Rounded down: a confidence above the question's own would not answer it.
        [name, temperatures[name], math.floor(confidence * 1e6) / 1e6, coverage, accuracy]
        for name, array in logits.items()
        for confidence, coverage, accuracy in coverage_curve(calibrate(array, temperatures[name]), labels)
    ]
    write_csv(folder / "coverage.csv", ["model", "temperature", "min_confidence", "coverage", "accuracy"], rows)
