"""Scores and tests, against worked examples and a second way of computing them."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, classification_report

from qc.evaluation.baselines import predict_baselines
from qc.evaluation.metrics import (
    accuracy_interval,
    compare_pairs,
    confident_mistakes,
    coverage_curve,
    evaluate_accuracy,
    evaluate_calibration,
    evaluate_predictions,
    expected_calibration_error,
    fit_temperature,
    mcnemar_p,
    reliability_bins,
)


def test_the_wilson_interval_is_that_of_newcombes_example():
    # Newcombe, Statistics in Medicine 1998, table I, method 3: 81 of 263.
    assert accuracy_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert accuracy_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_mcnemar_counts_the_questions_on_which_two_models_differ():
    first = np.array([True] * 50 + [True] * 8 + [False] * 2 + [False] * 40)
    second = np.array([True] * 50 + [False] * 8 + [True] * 2 + [False] * 40)
    # 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10
    assert mcnemar_p(first, second) == pytest.approx(2 * 56 / 1024)
    assert mcnemar_p(first, first) == 1.0


def test_mcnemar_is_exact_as_in_fays_example():
    # Fay, "Exact McNemar's Test and Matching Confidence Intervals" (R package exact2x2): 9 and 2 discordant pairs.
    first = np.array([True] * 21 + [True] * 9 + [False] * 2 + [False] * 12)
    second = np.array([True] * 21 + [False] * 9 + [True] * 2 + [False] * 12)
    assert mcnemar_p(first, second) == pytest.approx(0.06543, abs=5e-6)


def test_a_pair_of_models_is_compared_on_the_questions_one_alone_has_right():
    correct = {"a": np.array([True, True, True, False]), "b": np.array([True, False, False, True])}
    assert compare_pairs(correct, [("a", "b")]) == {"b_vs_a": {"mcnemar_p": 1.0, "b_alone": 1, "a_alone": 2}}


def test_the_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # Bins of 0.1: (0.9, 0.9) right once; 0.6 right; 0.7 right.
    expected = abs(0.5 - 0.9) * 2 / 4 + abs(1 - 0.6) / 4 + abs(1 - 0.7) / 4
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)


def test_a_perfectly_calibrated_forecast_has_no_error():
    probabilities = np.tile([0.75, 0.25], (100, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1] * 25)) == pytest.approx(0)


def test_the_reliability_bins_hold_every_question_once_upper_bounds_included():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.62, 0.38], [1.0, 0.0]])
    bins = reliability_bins(probabilities, np.array([0, 1, 0, 0]), bins=5)
    assert [each.count for each in bins] == [2, 1, 1]  # (0.4, 0.6], (0.6, 0.8], (0.8, 1]
    assert [each.accuracy for each in bins] == [0.5, 1.0, 1.0]
    assert [each.confidence for each in bins] == pytest.approx([0.6, 0.62, 1.0])


def test_the_brier_score_is_the_squared_distance_from_the_truth():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    by_hand = np.mean([0.2**2 + 0.1**2 + 0.1**2, 0.8**2 + 0.7**2 + 0.1**2])
    assert evaluate_calibration(probabilities, np.array([0, 0]))["brier"] == pytest.approx(by_hand)


def drawn(temperature, count=4000):
    """Logits, and labels that follow softmax(logits / temperature)."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(count, 4))
    return logits, np.array([rng.choice(4, p=row) for row in softmax(logits / temperature, axis=1)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_has_a_lower_loss():
    logits, labels = drawn(2.0, count=200)
    best = fit_temperature(logits, labels)
    losses = {
        t: evaluate_calibration(softmax(logits / t, axis=1), labels)["loss"] for t in (best, best / 1.05, best * 1.05)
    }
    assert min(losses, key=losses.get) == best


def test_for_two_classes_the_temperature_is_that_of_a_logistic_regression():
    logits, labels = drawn(2.0)
    logits, labels = logits[labels < 2][:, :2], labels[labels < 2]
    slope = LogisticRegression(C=np.inf, fit_intercept=False).fit((logits[:, 1] - logits[:, 0])[:, None], labels).coef_
    assert fit_temperature(logits, labels) == pytest.approx(1 / slope.item(), rel=1e-3)


def test_the_mistakes_come_with_the_most_confident_first():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.95, 0.05]])
    labels = np.array([0, 1, 0, 0, 1])
    assert confident_mistakes(probabilities, labels, 20) == [4, 3, 2, 1]
    assert confident_mistakes(probabilities, labels, 2) == [4, 3]


def test_the_scores_per_class_are_those_of_scikit_learns_report():
    rng = np.random.default_rng(2)
    probabilities, labels = rng.dirichlet(np.ones(3), size=60), rng.integers(0, 3, size=60)
    found = evaluate_predictions(probabilities, labels, ["A", "B", "C"])
    report = classification_report(labels, probabilities.argmax(axis=1), target_names=["A", "B", "C"], output_dict=True)
    for name in ("A", "B", "C"):
        scores = [found[key][name] for key in ("precision", "recall", "f1")]
        assert scores == pytest.approx([report[name][key] for key in ("precision", "recall", "f1-score")])
    assert found["macro_precision"] == pytest.approx(report["macro avg"]["precision"])
    assert found["macro_recall"] == pytest.approx(report["macro avg"]["recall"])
    assert evaluate_accuracy(probabilities.argmax(axis=1), labels)["accuracy"] == pytest.approx(report["accuracy"])


def test_scores_of_a_model():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 2, 2])
    found = evaluate_predictions(probabilities, labels, ["A", "B", "C"])
    assert found["accuracy"] == accuracy_score(labels, probabilities.argmax(axis=1)) == 0.75
    assert found["accuracy_low"] < 0.75 < found["accuracy_high"]
    assert found["loss"] == pytest.approx(-np.mean(np.log([0.8, 0.7, 0.3, 0.8])))
    assert found["f1"] == pytest.approx({"A": 2 / 3, "B": 1.0, "C": 2 / 3})
    assert found["macro_f1"] == pytest.approx(7 / 9)


def test_a_class_without_questions_has_no_part_in_the_means():
    found = evaluate_predictions(np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]]), np.array([0, 0]), ["A", "B", "C"])
    assert found["f1"] == pytest.approx({"A": 2 / 3, "B": 0.0, "C": 0.0})
    means = found["macro_precision"], found["macro_recall"], found["macro_f1"]
    assert means == pytest.approx((1.0, 0.5, 2 / 3))


def test_the_baselines_learn_what_they_can():
    texts = ["who is it", "who was he", "where is it", "where was he", "who are they"]
    valid, test = predict_baselines(texts, [0, 0, 1, 1, 0], ["where is it"], ["who is she", "where is she"])
    assert [found["majority"].tolist() for found in (valid, test)] == [[0], [0, 0]]
    assert [found["tfidf_svm"].tolist() for found in (valid, test)] == [[1], [0, 1]]


def test_the_coverage_curve_has_the_accuracy_of_the_questions_above_each_confidence():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4], [0.45, 0.55]])
    labels = np.array([0, 0, 0, 1, 1])
    assert coverage_curve(probabilities, labels) == [
        (0.9, 0.2, 1.0), (0.8, 0.6, pytest.approx(2 / 3)), (0.6, 0.8, 0.5), (0.55, 1.0, pytest.approx(0.6))
    ]  # fmt: skip
    some = coverage_curve(probabilities, labels, points=2)
    assert [point[1] for point in some] == [0.2, 1.0]


def test_balanced_class_weights_make_the_baseline_answer_with_a_rare_class():
    texts, labels = ["who"] * 40 + ["where"] * 50 + ["who"] * 10, [0] * 90 + [1] * 10
    for weights, expected in ((None, [0, 0]), ("balanced", [1, 0])):
        [found] = predict_baselines(texts, labels, ["who", "where"], class_weights=weights)
        assert found["tfidf_svm"].tolist() == expected
        assert found["majority"].tolist() == [0, 0]
