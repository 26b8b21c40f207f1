"""Metrics of predictions, their intervals, a paired test and the calibration error.

Arrays: `probabilities` (N, classes) with rows that sum to 1, `labels` and `predicted` (N,). Standard scores come from
scikit-learn and SciPy; the calibration error is written here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, log_loss, precision_recall_fscore_support

ECE_BINS = 15


def mcnemar_p(first_correct: np.ndarray, second_correct: np.ndarray) -> float:
    """Test whether two models err equally often: two-sided exact McNemar test (McNemar, Psychometrika 1947).

    Takes for each question whether a model is correct, (N,) bool. Returns p; 1 where both are correct on the same ones.
    """
    only_first = int(np.sum(first_correct & ~second_correct))
    discordant = int(np.sum(first_correct != second_correct))
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def macro_scores(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Average precision, recall and F1 over the classes that have questions; classes are numbers or names."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    return float(precision), float(recall), float(f1)


def reliability_bins(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS
) -> list[tuple[int, float, float]]:
    """Bin questions by the probability of the predicted class, in bins of equal width (lower bound exclusive).

    Returns the number of questions, mean confidence and accuracy of each bin that is not empty: the points of a
    reliability diagram (Niculescu-Mizil and Caruana, ICML 2005).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.ceil(confidence * bins).clip(1, bins)
    rows = [which == number for number in np.unique(which)]
    return [(int(row.sum()), float(confidence[row].mean()), float(correct[row].mean())) for row in rows]


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Compute the expected calibration error, 0 to 1 (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    It is the mean gap between confidence and accuracy over `reliability_bins`, weighted by their number of questions.
    """
    points = reliability_bins(probabilities, labels, bins)
    return sum(count * abs(accuracy - confidence) for count, confidence, accuracy in points) / len(labels)


def evaluate_calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute loss (mean cross-entropy, nats), ece (0 to 1) and brier (0 to 2; Brier, Monthly Weather Review 1950)."""
    numbers = list(range(probabilities.shape[1]))
    return {
        "loss": float(log_loss(labels, probabilities, labels=numbers)),
        "ece": expected_calibration_error(probabilities, labels),
        "brier": float(brier_score_loss(labels, probabilities, labels=numbers, scale_by_half=False)),
    }


def evaluate_accuracy(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the accuracy, and its 95 % Wilson score interval (Wilson, JASA 1927)."""
    correct = int(np.sum(predicted == labels))
    interval = binomtest(correct, len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
    return {
        "accuracy": correct / len(labels),
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
    }


def evaluate_predictions(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute all scores of a model on a split: over all questions, averaged over classes, and by class name.

    A class without predictions has a precision of 0. One without questions has a recall of 0, and no part in the means.
    """
    predicted = probabilities.argmax(axis=1)
    macro_precision, macro_recall, macro_f1 = macro_scores(predicted, labels)
    by_class = precision_recall_fscore_support(labels, predicted, labels=list(range(len(classes))), zero_division=0)
    precision, recall, f1 = (dict(zip(classes, score.tolist(), strict=True)) for score in by_class[:3])
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
    """Score a classifier that abstains where its confidence is below a threshold, for so many thresholds at most.

    Returns threshold, coverage (share of the questions that are answered) and accuracy on these, by rising coverage.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    ranked, correct = confidence[order], np.cumsum(probabilities.argmax(axis=1)[order] == labels[order])
    counts = np.append(np.flatnonzero(np.diff(ranked)) + 1, len(ranked))  # equal confidence is answered together
    chosen = counts[np.unique(np.linspace(0, len(counts) - 1, min(points, len(counts))).round().astype(int))]
    return [(float(ranked[n - 1]), float(n / len(ranked)), float(correct[n - 1] / n)) for n in chosen]
