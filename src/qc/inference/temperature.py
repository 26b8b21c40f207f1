"""Softmax temperature: probabilities that mean what they say.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math

from torch import Tensor

COLDEST, HOTTEST = 0.05, 20.0  # bounds of the temperature
LEAST_MISTAKES = 5  # of validation; fewer say nothing about how confident a model may be
HALVINGS = 60  # of the interval between the bounds, which end at the precision of a double


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Fit the softmax temperature by minimising log loss.

    The loss is convex in 1 / T. Its slope, the mean of (expected logit - logit of the true class), is 0 at the best T.

    Args:
        logits: (N, classes) of questions that the model was not trained on.
        labels: (N,) class numbers.

    Returns:
        Above 1 for an overconfident model, below 1 for an underconfident one. None where it cannot be told: fewer than
        `LEAST_MISTAKES` mistakes, or the best T is not between `COLDEST` and `HOTTEST`.
    """
    logits = logits.double()
    if int((logits.argmax(dim=1) != labels).sum()) < LEAST_MISTAKES:
        return None
    true = logits.gather(1, labels[:, None])[:, 0]

    def slope(temperature: float) -> float:
        expected = ((logits / temperature).softmax(dim=1) * logits).sum(dim=1)
        return (expected - true).mean().item()

    low, high = math.log(COLDEST), math.log(HOTTEST)  # the slope falls as T rises
    if slope(COLDEST) <= 0 or slope(HOTTEST) >= 0:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2)
