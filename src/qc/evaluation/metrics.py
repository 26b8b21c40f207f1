"""Metrics of predictions, their intervals, paired tests and calibration.

Standard scores come from scikit-learn and SciPy; the calibration error and temperature scaling are written here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, log_loss, precision_recall_fscore_support

ECE_BINS = 15
COLDEST, HOTTEST = 0.05, 20.0  # bounds of the temperature


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval of an accuracy (Wilson, JASA 1927): two bounds, 0 to 1."""
    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(first_correct: np.ndarray, second_correct: np.ndarray) -> float:
    """Test whether two models err equally often: two-sided exact McNemar test (McNemar, Psychometrika 1947).

    Args:
        first_correct: (N,) bool, where the first model is correct.
        second_correct: (N,) bool, where the second model is correct on the same questions.

    Returns:
        The p-value; 1 where both are always correct on the same questions.
    """
    only_first = int(np.sum(first_correct & ~second_correct))
    only_second = int(np.sum(~first_correct & second_correct))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


@dataclass(frozen=True)
class Bin:
    """Questions of similar confidence: their number, mean confidence and accuracy."""

    count: int
    confidence: float
    accuracy: float


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> list[Bin]:
    """Put the confidences of the predicted classes in equal-width bins (lower bound exclusive, upper inclusive).

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        bins: Number of bins between 0 and 1.

    Returns:
        The bins that are not empty, in the order of confidence: the points of a reliability diagram (Niculescu-Mizil
        and Caruana, ICML 2005).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        Bin(int(np.sum(which == b)), float(confidence[which == b].mean()), float(correct[which == b].mean()))
        for b in np.unique(which)
    ]


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Compute the expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    It is the mean gap between confidence and accuracy over the `reliability_bins`, weighted by their share of the
    questions; arguments are as there.

    Returns:
        0 (perfectly calibrated) to 1.
    """
    found = reliability_bins(probabilities, labels, bins)
    return sum(abs(each.accuracy - each.confidence) * each.count for each in found) / len(labels)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the softmax temperature by minimising log loss (Guo et al., ICML 2017).

    Args:
        logits: (N, classes), of questions that the model was not trained on.
        labels: (N,) class numbers.

    Returns:
        Above 1 for an overconfident model, below 1 for an underconfident one; between 0.05 and 20.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded").x))


def evaluate_calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score the calibration of probabilities (N, classes).

    Returns:
        loss: mean cross-entropy in nats; ece: expected calibration error, 0 to 1; brier: mean squared distance from the
        truth, 0 to 2 (Brier, Monthly Weather Review 1950).
    """
    numbers = list(range(probabilities.shape[1]))
    return {
        "loss": float(log_loss(labels, probabilities, labels=numbers)),
        "ece": expected_calibration_error(probabilities, labels),
        "brier": float(brier_score_loss(labels, probabilities, labels=numbers, scale_by_half=False)),
    }


def evaluate_accuracy(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the accuracy of predicted class numbers (N,) and the bounds of its 95 % interval."""
    correct = int(np.sum(predicted == labels))
    low, high = accuracy_interval(correct, len(labels))
    return {"accuracy": correct / len(labels), "accuracy_low": low, "accuracy_high": high}


def evaluate_predictions(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute the scores of one model on a split.

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        classes: Class names in label order.

    Returns:
        accuracy with the bounds of its 95 % interval; macro_f1, macro_precision, macro_recall; loss, ece and brier;
        f1, precision and recall per class. A class without predictions has a precision of 0, one without questions a
        recall of 0, and no part in the three means.
    """
    predicted = probabilities.argmax(axis=1)
    numbers = list(range(len(classes)))
    found = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    macro_precision, macro_recall, macro_f1 = (float(np.mean(each[found[3] > 0])) for each in found[:3])
    precision, recall, f1 = (dict(zip(classes, map(float, each), strict=True)) for each in found[:3])
    return {
        **evaluate_accuracy(predicted, labels),
        "macro_f1": macro_f1,
        **evaluate_calibration(probabilities, labels),
        "macro_precision": macro_precision,
        "macro_recall": macro_recall,
        "f1": f1,
        "precision": precision,
        "recall": recall,
    }


def coverage_curve(
    probabilities: np.ndarray, labels: np.ndarray, points: int = 100
) -> list[tuple[float, float, float]]:
    """Score a classifier that abstains where its confidence is below a threshold.

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        points: Thresholds at most.

    Returns:
        Threshold, coverage (share of the questions that are answered) and accuracy on these, by rising coverage.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    ranked, correct = confidence[order], np.cumsum(probabilities.argmax(axis=1)[order] == labels[order])
    counts = np.append(np.flatnonzero(np.diff(ranked)) + 1, len(ranked))  # equal confidence is answered together
    chosen = counts[np.unique(np.linspace(0, len(counts) - 1, min(points, len(counts))).round().astype(int))]
    return [(float(ranked[n - 1]), float(n / len(ranked)), float(correct[n - 1] / n)) for n in chosen]


def compare_pairs(correct: Mapping[str, np.ndarray], pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Compare pairs of models by `mcnemar_p`.

    Args:
        correct: (N,) bool for each model, where it is correct; all on the same questions.
        pairs: Names of two models each.

    Returns:
        For each pair `SECOND_vs_FIRST`: mcnemar_p, and on how many questions only one of the two is correct.
    """
    return {
        f"{second}_vs_{first}": {
            "mcnemar_p": mcnemar_p(correct[first], correct[second]),
            f"{second}_alone": int(np.sum(correct[second] & ~correct[first])),
            f"{first}_alone": int(np.sum(correct[first] & ~correct[second])),
        }
        for first, second in pairs
    }


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Find the rows of the `count` most confident mistakes, by the probability of the predicted class."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:count].tolist()
