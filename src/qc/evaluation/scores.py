"""Scores of all models and baselines on validation and on test."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import softmax

from qc.evaluation.metrics import evaluate_accuracy, evaluate_calibration, evaluate_predictions, mcnemar_p

COMPARED = ("accuracy", "macro_f1", "loss", "ece")  # the scores in metrics/

Arrays = Mapping[str, np.ndarray]  # by model or baseline
Temperatures = Mapping[str, float | None]  # by model; None where none could be fitted


def score_validation(logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays) -> dict[str, Any]:
    """Compute the content of reports/validation.json; arguments are as for `score_test`."""
    scores = {name: evaluate_predictions(softmax(array, axis=1), labels, classes) for name, array in logits.items()}
    scores["baselines"] = {name: evaluate_accuracy(predicted, labels) for name, predicted in baselines.items()}
    return {
        "n_valid": len(labels),
        **select_compared(scores, logits),
        "baselines": select_compared(scores, baselines),
    }


def score_test(
    logits: Arrays, labels: np.ndarray, classes: Sequence[str], baselines: Arrays, temperatures: Temperatures
) -> dict[str, Any]:
    """Compute the content of reports/test.json.

    Args:
        logits: (N, classes) of each model.
        labels: (N,) class numbers.
        classes: Class names in the order of their numbers.
        baselines: (N,) class numbers that each baseline predicts.
        temperatures: Softmax temperature of each model; None counts as 1.
    """
    models = {}
    for name, array in logits.items():
        temperature = temperatures[name]
        calibrated = evaluate_calibration(calibrate(array, temperature), labels)
        models[name] = {
            **evaluate_predictions(softmax(array, axis=1), labels, classes),
            "calibrated": {"temperature": temperature, **calibrated},
        }
    correct = {name: array.argmax(axis=1) == labels for name, array in logits.items()}
    correct |= {name: predicted == labels for name, predicted in baselines.items()}
    pairs = [*combinations(logits, 2), *(("tfidf_svm", name) for name in logits)]
    return {
        "n_test": len(labels),
        **models,
        "baselines": {name: evaluate_accuracy(predicted, labels) for name, predicted in baselines.items()},
        "comparisons": {
            f"{second}_vs_{first}": {
                "mcnemar_p": mcnemar_p(correct[first], correct[second]),
                f"{second}_alone": int(np.sum(correct[second] & ~correct[first])),
                f"{first}_alone": int(np.sum(correct[first] & ~correct[second])),
            }
            for first, second in pairs
        },
    }


def calibrate(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Divide logits (N, classes) by a temperature (Guo et al., ICML 2017), and take the softmax."""
    return softmax(logits / (temperature or 1.0), axis=1)


def select_compared(scores: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Select the few scores that people compare of models or baselines; a baseline has its accuracy alone."""
    found = {**scores, **scores["baselines"]}
    return {name: {key: found[name][key] for key in COMPARED if key in found[name]} for name in names}
