"""How good predictions are, and how sure one can be of it.

Standard scores come from scikit-learn and SciPy; what is here is their composition, and the calibration error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss

ECE_BINS = 15


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy (Wilson, JASA 1927): lower and upper bound, 0 to 1."""
    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(first_correct: np.ndarray, second_correct: np.ndarray) -> float:
    """Two-sided exact McNemar test that two models err equally often (McNemar, Psychometrika 1947).

    Args:
        first_correct: (N,) bool, where the first model is right.
        second_correct: (N,) bool, where the second model is right on the same questions.

    Returns:
        The p-value; 1 where the models never disagree on being right.
    """
    only_first = int(np.sum(first_correct & ~second_correct))
    only_second = int(np.sum(~first_correct & second_correct))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    The confidences of the predicted classes are put in equal-width bins (lower bound exclusive, upper inclusive); the
    gap between mean confidence and accuracy of each bin counts by the bin's share of the questions.

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        bins: Number of bins.

    Returns:
        0 (perfectly calibrated) to 1.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(correct[which == b].mean() - confidence[which == b].mean()) * np.mean(which == b) for b in set(which)]
    return float(sum(gaps))


def evaluate_predictions(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The scores of one model on the test split.

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        classes: Class names in label order.

    Returns:
        accuracy with the bounds of its 95 % interval, macro_f1, loss (mean cross-entropy in nats), ece, f1 per class.
    """
    predicted = probabilities.argmax(axis=1)
    numbers = list(range(len(classes)))
    correct = int(np.sum(predicted == labels))
    low, high = accuracy_interval(correct, len(labels))
    return {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(f1_score(labels, predicted, labels=numbers, average="macro", zero_division=0)),
        "loss": float(log_loss(labels, probabilities, labels=numbers)),
        "ece": expected_calibration_error(probabilities, labels),
        "f1": dict(
            zip(
                classes,
                f1_score(labels, predicted, labels=numbers, average=None, zero_division=0).tolist(),
                strict=True,
            )
        ),
    }
