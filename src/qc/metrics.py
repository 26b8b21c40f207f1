"""How good predictions are, and how sure one can be of it.

Standard scores come from scikit-learn and SciPy; what is here is their composition, the calibration error and the
temperature that mends it.
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
COLDEST, HOTTEST = 0.05, 20.0  # the temperatures that are looked through


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


@dataclass(frozen=True)
class Bin:
    """Questions of like confidence: how many, their mean confidence, and the share of them that is right."""

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
        The bins that are not empty, in the order of their confidence: a reliability diagram's points (Niculescu-Mizil
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
    """Mean gap between confidence and accuracy (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    The gap between mean confidence and accuracy of each of the `reliability_bins` counts by the bin's share of the
    questions; arguments are as there.

    Returns:
        0 (perfectly calibrated) to 1.
    """
    found = reliability_bins(probabilities, labels, bins)
    return sum(abs(each.accuracy - each.confidence) * each.count for each in found) / len(labels)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number that logits are to be divided by for the lowest log loss (Guo et al., ICML 2017).

    Args:
        logits: (N, classes), of questions that the model was not trained on.
        labels: (N,) class numbers.

    Returns:
        Above 1 for a model that is too sure of itself, below 1 for one that is not sure enough; between 0.05 and 20.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded").x))


def evaluate_calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How far probabilities (N, classes) can be trusted.

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
    """Accuracy of predicted class numbers (N,) with the bounds of its 95 % interval."""
    correct = int(np.sum(predicted == labels))
    low, high = accuracy_interval(correct, len(labels))
    return {"accuracy": correct / len(labels), "accuracy_low": low, "accuracy_high": high}


def evaluate_predictions(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The scores of one model on the test split.

    Args:
        probabilities: (N, classes), rows summing to 1.
        labels: (N,) class numbers.
        classes: Class names in label order.

    Returns:
        accuracy with the bounds of its 95 % interval; macro_f1, macro_precision, macro_recall; loss, ece and brier;
        f1, precision and recall per class. A class without predictions has a precision of 0, one without questions a
        recall of 0.
    """
    predicted = probabilities.argmax(axis=1)
    numbers = list(range(len(classes)))
    found = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    precision, recall, f1 = (dict(zip(classes, map(float, each), strict=True)) for each in found[:3])
    return {
        **evaluate_accuracy(predicted, labels),
        "macro_f1": float(np.mean(found[2])),
        **evaluate_calibration(probabilities, labels),
        "macro_precision": float(np.mean(found[0])),
        "macro_recall": float(np.mean(found[1])),
        "f1": f1,
        "precision": precision,
        "recall": recall,
    }


def compare(correct: Mapping[str, np.ndarray], pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """`mcnemar_p` of pairs of models.

    Args:
        correct: (N,) bool for each model, where it is right; all on the same questions.
        pairs: Names of two models each.

    Returns:
        For each pair `SECOND_vs_FIRST`: mcnemar_p, and how many questions one of the two alone has right.
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
    """Rows of the `count` mistakes with the highest probability of the predicted class, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:count].tolist()
