"""Scores and tests, against worked examples and a second way of computing them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from qc.baselines import predict_baselines
from qc.metrics import accuracy_interval, evaluate_predictions, expected_calibration_error, mcnemar_p


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


def test_the_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # Bins of 0.1: (0.9, 0.9) right once; 0.6 right; 0.7 right.
    expected = abs(0.5 - 0.9) * 2 / 4 + abs(1 - 0.6) / 4 + abs(1 - 0.7) / 4
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)


def test_a_perfectly_calibrated_forecast_has_no_error():
    probabilities = np.tile([0.75, 0.25], (100, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1] * 25)) == pytest.approx(0)


def test_scores_of_a_model():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 2, 2])
    found = evaluate_predictions(probabilities, labels, ["A", "B", "C"])
    assert found["accuracy"] == accuracy_score(labels, probabilities.argmax(axis=1)) == 0.75
    assert found["accuracy_low"] < 0.75 < found["accuracy_high"]
    assert found["loss"] == pytest.approx(-np.mean(np.log([0.8, 0.7, 0.3, 0.8])))
    assert found["f1"] == pytest.approx({"A": 2 / 3, "B": 1.0, "C": 2 / 3})
    assert found["macro_f1"] == pytest.approx(7 / 9)


def test_a_class_never_seen_nor_predicted_counts_as_zero():
    found = evaluate_predictions(np.array([[0.9, 0.05, 0.05]]), np.array([0]), ["A", "B", "C"])
    assert found["f1"] == {"A": 1.0, "B": 0.0, "C": 0.0}


def test_the_baselines_learn_what_they_can():
    texts = ["who is it", "who was he", "where is it", "where was he", "who are they"]
    found = predict_baselines(texts, [0, 0, 1, 1, 0], ["who is she", "where is she"])
    assert found["majority"].tolist() == [0, 0]
    assert found["tfidf_svm"].tolist() == [0, 1]
