"""Scores of all models and baselines on validation and on test."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import softmax

from qc.evaluation.metrics import (
    compare_pairs,
    evaluate_accuracy,
    evaluate_calibration,
    evaluate_predictions,
    fit_temperature,
)

COMPARED = ("accuracy", "macro_f1", "loss", "ece")

Arrays = Mapping[str, np.ndarray]  # by model or baseline


def score_validation(logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays) -> dict[str, Any]:
    """Compute the content of reports/validation.json; arguments are as for `score_test`."""
    scores = {name: evaluate_predictions(softmax(each, axis=1), labels, classes) for name, each in logits.items()}
    found = {name: evaluate_accuracy(predicted, labels) for name, predicted in baselines.items()}
    return {"n_valid": len(labels), **select_compared({**scores, "baselines": found}, logits)}


def score_test(
    logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays, temperatures: Mapping[str, float]
) -> dict[str, Any]:
    """Compute the content of reports/test.json.

    Args:
        logits: (N, classes) of each model.
        labels: (N,) class numbers.
        classes: Class names in the order of their numbers.
        baselines: (N,) class numbers that each baseline predicts.
        temperatures: Softmax temperature of each model, fitted on validation.
    """
    models = {}
    for name, each in logits.items():
        calibrated = evaluate_calibration(softmax(each / (temperatures[name] or 1), axis=1), labels)
        models[name] = {
            **evaluate_predictions(softmax(each, axis=1), labels, classes),
            "calibrated": {"temperature": temperatures[name], **calibrated},
        }
    correct = {name: each.argmax(axis=1) == labels for name, each in logits.items()}
    correct |= {name: predicted == labels for name, predicted in baselines.items()}
    pairs = [*combinations(logits, 2), *(("tfidf_svm", name) for name in logits)]
    return {
        "n_test": len(labels),
        **models,
        "baselines": {name: evaluate_accuracy(predicted, labels) for name, predicted in baselines.items()},
        "comparisons": compare_pairs(correct, pairs),
    }


def select_compared(scores: Mapping[str, Any], models: Iterable[str]) -> dict[str, Any]:
    """Select the few scores that people compare: those of each model, and the accuracy of each baseline."""
    selected = {name: {key: scores[name][key] for key in COMPARED} for name in models}
    baselines = {name: {"accuracy": found["accuracy"]} for name, found in scores["baselines"].items()}
    return {**selected, "baselines": baselines}


def fit_temperatures(logits: Arrays, labels: np.ndarray) -> dict[str, float]:
    """Fit the softmax temperature of each model, see `fit_temperature`."""
    return {name: fit_temperature(each, labels) for name, each in logits.items()}
