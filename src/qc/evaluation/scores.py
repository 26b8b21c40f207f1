"""Scores of all models and baselines on validation and on test.

Arrays: `logits` (N, classes) of each model, `labels` (N,) class numbers, `baselines` (N,) class numbers that each
baseline predicts.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import softmax

from qc.evaluation.metrics import evaluate_accuracy, evaluate_calibration, evaluate_predictions, mcnemar_p

COMPARED = ("accuracy", "macro_f1", "loss", "ece")  # the scores in metrics/

Arrays = Mapping[str, np.ndarray]  # by model or baseline
Temperatures = Mapping[str, float | None]  # by model; None where none could be fitted


def score_split(logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays) -> dict[str, Any]:
    """Compute the scores of every model, and under `baselines` the accuracies of every baseline."""
    scores = {name: evaluate_predictions(softmax(array, axis=1), labels, classes) for name, array in logits.items()}
    return scores | {"baselines": {name: evaluate_accuracy(numbers, labels) for name, numbers in baselines.items()}}


def score_validation(logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays) -> dict[str, Any]:
    """Compute the content of reports/validation.json."""
    scores = score_split(logits, labels, classes, baselines)
    models = select_compared(scores, logits)
    return {"n_valid": len(labels), **models, "baselines": select_compared(scores, baselines)}


def score_test(
    logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays, temperatures: Temperatures
) -> dict[str, Any]:
    """Compute the content of reports/test.json; a temperature of None counts as 1."""
    scores = score_split(logits, labels, classes, baselines)
    for name, array in logits.items():
        calibrated = evaluate_calibration(calibrate(array, temperatures[name]), labels)
        scores[name]["calibrated"] = {"temperature": temperatures[name], **calibrated}
    correct = {name: array.argmax(axis=1) == labels for name, array in logits.items()}
    correct |= {name: numbers == labels for name, numbers in baselines.items()}
    pairs = [*combinations(logits, 2), *(("tfidf_svm", name) for name in logits)]
    comparisons = {
        f"{second}_vs_{first}": {
            "mcnemar_p": mcnemar_p(correct[first], correct[second]),
            f"{second}_alone": int(np.sum(correct[second] & ~correct[first])),
            f"{first}_alone": int(np.sum(correct[first] & ~correct[second])),
        }
        for first, second in pairs
    }
    return {"n_test": len(labels), **scores, "comparisons": comparisons}


def calibrate(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Divide logits (N, classes) by a temperature (Guo et al., ICML 2017), and take the softmax."""
    return softmax(logits / (temperature or 1.0), axis=1)


def select_compared(scores: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Select the few scores that people compare of models or baselines; a baseline has its accuracy alone."""
    every = {**scores, **scores["baselines"]}
    return {name: {key: every[name][key] for key in COMPARED if key in every[name]} for name in names}
