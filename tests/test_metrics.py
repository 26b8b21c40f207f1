"""Scores, tests and tables of figures, against worked examples and other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import classification_report, log_loss

from qc.evaluation.baselines import predict_baselines, tfidf
from qc.evaluation.metrics import (
    coverage_curve,
    evaluate_accuracy,
    evaluate_calibration,
    evaluate_predictions,
    expected_calibration_error,
    mcnemar_p,
    reliability_bins,
)
from qc.evaluation.predictions import write_coverage, write_figure_tables, write_predictions
from qc.evaluation.scores import score_test, score_validation, select_compared
from qc.files import read_csv
from qc.inference.temperature import fit_temperature


def flags(*runs):
    """Booleans from (value, count) pairs."""
    return np.repeat([value for value, _ in runs], [count for _, count in runs])


@pytest.mark.parametrize(
    ("correct", "total", "interval"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_the_wilson_interval_is_that_of_newcombes_examples(correct, total, interval):
    scores = evaluate_accuracy(flags((1, correct), (0, total - correct)), np.ones(total, int))
    assert scores["accuracy"] == pytest.approx(correct / total)
    assert (scores["accuracy_low"], scores["accuracy_high"]) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (8, 2, 2 * 56 / 1024),  # 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10
        (9, 2, 0.06543),  # Fay, "Exact McNemar's Test and Matching Confidence Intervals" (R package exact2x2)
        (0, 0, 1.0),
    ],
)
def test_mcnemar_counts_the_questions_on_which_two_models_differ(only_first, only_second, p_value):
    first = flags((True, 50), (True, only_first), (False, only_second), (False, 40))
    second = flags((True, 50), (False, only_first), (True, only_second), (False, 40))
    assert mcnemar_p(first, second) == mcnemar_p(second, first) == pytest.approx(p_value, abs=5e-6)


def test_the_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    # Bins of 0.1: (0.9, 0.9) with one correct; 0.6 correct; 0.7 correct.
    by_hand = abs(0.5 - 0.9) * 2 / 4 + abs(1 - 0.6) / 4 + abs(1 - 0.7) / 4
    assert expected_calibration_error(probabilities, np.array([0, 1, 0, 1]), bins=10) == pytest.approx(by_hand)
    perfect = np.tile([0.75, 0.25], (100, 1))
    assert expected_calibration_error(perfect, np.array([0, 0, 0, 1] * 25)) == pytest.approx(0)


def test_there_are_fifteen_bins():
    probabilities = np.array([[0.64, 0.36], [0.69, 0.31]])  # (0.6, 0.667] and (0.667, 0.733]; one bin of ten
    assert [count for count, *_ in reliability_bins(probabilities, np.array([0, 0]))] == [1, 1]
    probabilities = np.array([[0.61, 0.39], [0.66, 0.34]])  # two bins of twenty
    assert [count for count, *_ in reliability_bins(probabilities, np.array([0, 0]))] == [2]


def test_the_reliability_bins_hold_every_question_once_upper_bounds_included():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.62, 0.38], [1.0, 0.0]])
    counts, confidences, accuracies = zip(*reliability_bins(probabilities, np.array([0, 1, 0, 0]), bins=5), strict=True)
    assert counts == (2, 1, 1)  # (0.4, 0.6], (0.6, 0.8], (0.8, 1]
    assert accuracies == (0.5, 1.0, 1.0)
    assert confidences == pytest.approx((0.6, 0.62, 1.0))


def test_the_brier_score_is_the_squared_distance_from_the_truth():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    by_hand = np.mean([0.2**2 + 0.1**2 + 0.1**2, 0.8**2 + 0.7**2 + 0.1**2])
    assert evaluate_calibration(probabilities, np.array([0, 0]))["brier"] == pytest.approx(by_hand)


def test_the_scores_are_those_of_scikit_learns_report():
    rng = np.random.default_rng(2)
    probabilities, labels = rng.dirichlet(np.ones(3), size=60), rng.integers(0, 3, size=60)
    scores = evaluate_predictions(probabilities, labels, ["A", "B", "C"])
    report = classification_report(labels, probabilities.argmax(axis=1), target_names=["A", "B", "C"], output_dict=True)
    assert scores["accuracy"] == pytest.approx(report["accuracy"])
    assert scores["loss"] == pytest.approx(log_loss(labels, probabilities))
    for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert scores[key] == pytest.approx({name: report[name][theirs] for name in ("A", "B", "C")})
        assert scores[f"macro_{key}"] == pytest.approx(report["macro avg"][theirs])


@pytest.mark.filterwarnings("error")
def test_a_class_without_questions_has_no_part_in_the_means():
    scores = evaluate_predictions(np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]]), np.array([0, 0]), ["A", "B", "C"])
    assert scores["f1"] == pytest.approx({"A": 2 / 3, "B": 0.0, "C": 0.0})
    means = scores["macro_precision"], scores["macro_recall"], scores["macro_f1"]
    assert means == pytest.approx((1.0, 0.5, 2 / 3))


def test_the_coverage_curve_has_the_accuracy_of_the_questions_above_each_confidence():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4], [0.45, 0.55]])
    labels = np.array([0, 0, 0, 1, 1])
    assert coverage_curve(probabilities, labels) == [
        (0.9, 0.2, 1.0), (0.8, 0.6, pytest.approx(2 / 3)), (0.6, 0.8, 0.5), (0.55, 1.0, pytest.approx(0.6))
    ]  # fmt: skip


def test_of_many_thresholds_some_are_shown_evenly_from_the_first_to_the_last():
    first = np.array([0.99, 0.9, 0.8, 0.7, 0.65, 0.6])
    curve = coverage_curve(np.stack((first, 1 - first), axis=1), np.zeros(6, int), points=4)
    assert [confidence for confidence, *_ in curve] == [0.99, 0.8, 0.7, 0.6]  # at 0, 1.67, 3.33 and 5
    first = np.linspace(0.99, 0.6, 250)
    assert len(coverage_curve(np.stack((first, 1 - first), axis=1), np.zeros(250, int))) == 100


# Two classes; a difference d of the logits is a probability of 1 / (1 + exp(-d)).
LOGITS = {
    "a": np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 2.0], [3.0, 0.0]]),
    "b": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
}
LABELS = np.array([0, 0, 1, 1])
BASELINES = {"majority": np.array([0, 0, 0, 0]), "tfidf_svm": np.array([1, 0, 1, 1])}


def loss_of(differences):
    """Mean log loss where the true class's logit is larger by each difference."""
    return sum(math.log1p(math.exp(-difference)) for difference in differences) / len(differences)


def test_calibrated_scores_are_those_of_the_logits_divided_by_the_temperature():
    scores = score_test(LOGITS, LABELS, ["x", "y"], BASELINES, {"a": 2.0, "b": None})
    assert scores["a"]["loss"] == pytest.approx(loss_of([2, 4, 2, -3]))
    assert scores["a"]["calibrated"]["temperature"] == 2.0
    assert scores["a"]["calibrated"]["loss"] == pytest.approx(loss_of([1, 2, 1, -1.5]))
    assert scores["a"]["calibrated"]["brier"] != pytest.approx(scores["a"]["brier"])
    plain = {key: scores["b"][key] for key in ("loss", "ece", "brier")}
    assert scores["b"]["calibrated"] == {"temperature": None, **plain}


def test_every_pair_of_models_and_each_with_tfidf_is_compared_on_the_same_questions():
    scores = score_test(LOGITS, LABELS, ["x", "y"], BASELINES, {"a": 1.0, "b": 1.0})
    assert scores["comparisons"] == {  # correct: a 1110, b 1001, tfidf_svm 0111
        "b_vs_a": {"mcnemar_p": 1.0, "b_alone": 1, "a_alone": 2},
        "a_vs_tfidf_svm": {"mcnemar_p": 1.0, "a_alone": 1, "tfidf_svm_alone": 1},
        "b_vs_tfidf_svm": {"mcnemar_p": 1.0, "b_alone": 1, "tfidf_svm_alone": 2},
    }
    assert scores["baselines"]["tfidf_svm"]["accuracy"] == 0.75


def test_people_compare_four_scores_of_a_model_and_the_accuracy_of_a_baseline():
    scores = score_test(LOGITS, LABELS, ["x", "y"], BASELINES, {"a": 1.0, "b": 1.0})
    compared = select_compared(scores, ["a", "majority"])
    a = {key: scores["a"][key] for key in ("accuracy", "macro_f1", "loss", "ece")}
    assert compared == {"a": a, "majority": {"accuracy": 0.5}}
    assert score_validation(LOGITS, LABELS, ["x", "y"], BASELINES) == {
        "n_valid": 4,
        "a": a,
        "b": select_compared(scores, ["b"])["b"],
        "baselines": {"majority": {"accuracy": 0.5}, "tfidf_svm": {"accuracy": 0.75}},
    }


def test_predictions_and_the_tables_of_figures_hold_what_was_predicted(tmp_path):
    split = {"id": [7, 8, 9], "text": ["who ?", "=1+1", "long " * 3000], "label": [0, 0, 1]}
    probabilities = {"a": np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]])}
    columns = write_predictions(tmp_path / "p.csv", split, ["x", "y"], probabilities, np.array([0, 1, 0]))
    rows = read_csv(tmp_path / "p.csv")
    assert list(rows[0].values()) == ["7", "who ?", "x", "y", "0.6", "x"]
    assert [row["a"] for row in rows] == ["y", "y", "y"]
    assert len(rows[2]["text"]) < 11_000
    write_figure_tables(tmp_path, columns, np.array(split["label"]), probabilities, {"a": {"f1": {"x": 0.0, "y": 0.5}}})
    assert [list(row.values()) for row in read_csv(tmp_path / "f1.csv")] == [["a", "x", "0.0"], ["a", "y", "0.5"]]
    assert [list(row.values()) for row in read_csv(tmp_path / "mistakes.csv")] == [  # the most confident first
        ["a", "8", "'=1+1", "x", "y", "0.9"], ["a", "7", "who ?", "x", "y", "0.6"],
    ]  # fmt: skip
    assert [list(row.values()) for row in read_csv(tmp_path / "reliability.csv")] == [
        ["a", "1", "0.6", "0.0"], ["a", "1", "0.8", "1.0"], ["a", "1", "0.9", "0.0"],
    ]  # fmt: skip


def test_a_threshold_in_the_coverage_table_is_never_above_the_confidence(tmp_path):
    difference = math.log(0.7654329 / (1 - 0.7654329))
    logits = {"a": np.array([[2 * difference, 0.0]]), "b": np.array([[difference, 0.0]])}
    write_coverage(tmp_path, np.array([0]), logits, {"a": 2.0, "b": None})
    assert [list(row.values()) for row in read_csv(tmp_path / "coverage.csv")] == [
        ["a", "2.0", "0.765432", "1.0", "1.0"],
        ["b", "", "0.765432", "1.0", "1.0"],
    ]


def test_the_baselines_learn_what_they_can():
    texts = ["who is it", "who was he", "where is it", "where was he", "who are they"]
    valid, test = predict_baselines(texts, [0, 0, 1, 1, 0], ["where is it"], ["who is she", "where is she"])
    assert [numbers["majority"].tolist() for numbers in (valid, test)] == [[0], [0, 0]]
    assert [numbers["tfidf_svm"].tolist() for numbers in (valid, test)] == [[1], [0, 1]]


def test_balanced_class_weights_make_the_baseline_answer_with_a_rare_class():
    texts, labels = ["who"] * 40 + ["where"] * 50 + ["who"] * 10, [0] * 90 + [1] * 10
    for weights, expected in ((None, [0, 0]), ("balanced", [1, 0])):
        [numbers] = predict_baselines(texts, labels, ["who", "where"], class_weights=weights)
        assert numbers["tfidf_svm"].tolist() == expected
        assert numbers["majority"].tolist() == [0, 0]


def test_tfidf_weighs_words_pairs_and_up_to_five_characters_by_the_logarithm_of_their_count():
    text = "go go go stop"
    features = tfidf().fit([text])
    weights = dict(zip(features.get_feature_names_out(), features.transform([text]).toarray()[0].tolist(), strict=True))
    words, characters = (
        {name.partition("__")[2]: weight for name, weight in weights.items() if name.startswith(f"tfidfvectorizer-{n}")}
        for n in (1, 2)
    )
    by_hand = {"go": 1 + math.log(3), "go go": 1 + math.log(2), "stop": 1.0, "go stop": 1.0}
    length = math.hypot(*by_hand.values())
    assert words == pytest.approx({name: weight / length for name, weight in by_hand.items()})
    assert {len(name) for name in characters} == {1, 2, 3, 4, 5}
    assert characters["go"] / characters["stop"] == pytest.approx(1 + math.log(3))


@pytest.mark.parametrize("words", [("a", "b"), ("+ 1", "- 1"), ("?", "!")])
def test_texts_without_a_word_of_two_letters_are_no_error(words):
    texts = list(words) * 5
    [numbers] = predict_baselines(texts, [0, 1] * 5, words)
    assert numbers["tfidf_svm"].tolist() == [0, 1]


def test_the_temperature_is_that_of_the_lowest_log_loss():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 4))
    labels = np.array([rng.choice(4, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    for sharpness in (0.5, 1.0, 3.0):
        given_logits = logits * sharpness

        def loss(temperature, given_logits=given_logits):
            return -log_softmax(given_logits / temperature, axis=1)[np.arange(300), labels].mean()

        expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
        assert fit_temperature(torch.tensor(given_logits), torch.tensor(labels)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("difference", "mistakes", "temperature"),
    [
        # Of 50 answers 5 are wrong, a share of 1 / (1 + 9): the best T makes it that of exp(-difference / T), 1 / 9.
        (2.0, 5, 2.0 / np.log(9)),
        (0.12, 5, 0.12 / np.log(9)),
        (0.10, 5, None),  # 0.046, below the bound of 0.05
        (43.0, 5, 43.0 / np.log(9)),
        (45.0, 5, None),  # 20.5, above the bound of 20
        (2.0, 25, None),  # as often wrong: an infinite one
        (2.0, 4, None),  # fewer than five mistakes say nothing
        (2.0, 0, None),
    ],
)
def test_a_temperature_is_fitted_within_bounds_and_on_five_mistakes_or_more(difference, mistakes, temperature):
    logits = torch.tensor([[difference, 0.0]] * 50)
    fitted = fit_temperature(logits, torch.tensor([1] * mistakes + [0] * (50 - mistakes)))
    assert fitted == (temperature if temperature is None else pytest.approx(temperature))


def test_mistakes_are_counted_question_by_question():
    logits = torch.tensor([[2.0, 0.0]] * 25 + [[0.0, 2.0]] * 25)
    labels = [0] * 25 + [1] * 25
    assert fit_temperature(logits, torch.tensor([1] * 2 + labels[2:-2] + [0] * 2)) is None
    assert fit_temperature(logits, torch.tensor([1] * 3 + labels[3:-2] + [0] * 2)) == pytest.approx(2.0 / np.log(9))
