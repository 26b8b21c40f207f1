"""`qc labels`: planted faults are found, by models that have not seen the question, and the test split has no part."""

import random
from argparse import Namespace
from collections import Counter

import numpy as np
import pytest

from qc.commands import labels as command
from qc.commands.cross_validation import make_folds, read_train_and_valid
from qc.commands.labels import conflicting, find_suspects, predict_linear
from qc.errors import QcError
from qc.files import file_sha256, read_csv, read_json
from qc.paths import Folders
from qc.stage import load_settings
from tests.conftest import CLASSES, label_lines, outputs

SPLITS = ("train", "valid")
QUESTIONS, SHARE = 400, 0.05
DUPLICATE = "=1+1 is many"  # in train, by its hash
ESCAPE = "\x1b"  # what follows it commands a terminal


def flipped(seed):
    """Lines of a label file, and the texts of those whose label is wrong."""
    rng = random.Random(seed)
    lines = list(dict.fromkeys(label_lines(QUESTIONS, seed)))
    wrong = set()
    for row in rng.sample(range(len(lines)), round(SHARE * len(lines))):
        label, _, text = lines[row].partition(" ")
        other = rng.choice([name for name in CLASSES if name != label.partition(":")[0]])
        lines[row] = f"{other}:fine0 {text} {ESCAPE}"
        wrong.add(f"{text} {ESCAPE}")
    return lines, wrong


@pytest.fixture(scope="module")
def judged(finished, tmp_path_factory):
    """A project on questions of which 5 % have a wrong label, after `qc labels`; what it printed; the wrong texts."""
    project = finished.clone(tmp_path_factory.mktemp("labels") / "project")
    lines, wrong = flipped(seed=3)
    lines += [f"NUM:fine0 {DUPLICATE}"] * 3 + [f"HUM:fine0 {DUPLICATE.upper()}"]
    (project.root / "data/own/flipped.label").write_text("".join(f"{line}\n" for line in lines))
    project.set("fetch.train", "data/own/flipped.label")
    for key, value in {"epochs": 12, "learning_rate": "1e-2", "dropout": 0.1}.items():
        project.set(f"train_scratch.{key}", value)
    for stage in ("fetch", "tokenize", "split"):
        project.stage(stage)
    (project.root / "data/split/tiny-bert/test.parquet").rename(project.root / "test.parquet")  # not read
    before = outputs(project)
    printed = project.run("qc", "labels", "--models", "scratch", "--folds", "4")
    made = {path: pin for path, pin in outputs(project).items() if before.get(path) != pin}
    assert set(made) == {"reports/labels.csv", "reports/labels.json"}
    assert before.items() <= outputs(project).items()
    return project, printed, wrong


def known(project):
    """Texts of train and validation."""
    return [row for name in SPLITS for row in project.questions(f"data/split/tiny-bert/{name}.parquet")]


def test_planted_faults_are_found(judged):
    project, _, wrong = judged
    named = {row["text"] for row in read_csv(project.root / "reports/labels.csv")} - {f"'{DUPLICATE}"}
    planted = wrong & {row["text"] for row in known(project)}
    assert len(planted) >= 15
    assert len(named & planted) / len(planted) >= 0.8, "recall"
    assert len(named & planted) / len(named) >= 0.8, "precision"


def test_a_row_tells_what_the_label_is_and_what_it_should_be(judged):
    project, printed, wrong = judged
    rows = read_csv(project.root / "reports/labels.csv")
    assert list(rows[0]) == ["id", "text", "label", "suggested", "confidence", "agreeing"]
    by_id = {str(row["id"]): row for row in known(project)}
    for row in rows:
        assert by_id[row["id"]]["text"] == row["text"].removeprefix("'")
        assert by_id[row["id"]]["coarse"] == row["label"] != row["suggested"]
        assert set(row["agreeing"].split()) <= {"scratch", "tfidf"}
    right = [row for row in rows if row["text"] in wrong and CLASSES[row["suggested"]] in row["text"].split()]
    assert len(right) > 0.8 * len([row for row in rows if row["text"] in wrong])
    assert "scratch, fold 4 of 4 (4 of 4 models)\n" in printed
    assert f"{rows[0]['label']} -> {rows[0]['suggested']} (" in printed
    assert r"\x1b" in printed and ESCAPE not in printed
    assert f"reports/labels.csv: {len(rows)} of {len(known(project))} labels look wrong; 1 questions occur" in printed


def test_the_summary_counts_confusions_and_names_equal_questions_with_different_labels(judged):
    project, _, _ = judged
    rows, summary = read_csv(project.root / "reports/labels.csv"), read_json(project.root / "reports/labels.json")
    assert (summary["models"], summary["folds"]) == (["scratch", "tfidf"], 4)
    assert (summary["suspects"], summary["questions"]) == (len(rows), len(known(project)))
    sha256 = {name: file_sha256(project.root / f"data/split/{name}.parquet") for name in summary["split"]}
    assert summary["split"] == sha256 and [*sha256] == ["tiny-bert/train", "tiny-bert/valid"]
    pairs = Counter((row["label"], row["suggested"]) for row in rows)
    assert {(pair["label"], pair["suggested"]): pair["questions"] for pair in summary["confusions"]} == pairs
    counts = [pair["questions"] for pair in summary["confusions"]]
    assert counts == sorted(counts, reverse=True)
    assert summary["conflicting_duplicates"] == [{"text": DUPLICATE, "labels": {"NUM": 3, "HUM": 1}}]


def test_the_seed_of_params_deals_the_folds(judged, tmp_path, monkeypatch):
    project, dealt = judged[0].copy(tmp_path / "project"), []
    monkeypatch.chdir(project.root)

    def held_out(runs, folders, folds):
        dealt.extend(rows for _, rows in folds)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "predict_held_out", held_out)
    project.set("seed", 7)
    with pytest.raises(KeyboardInterrupt):
        command.run(Namespace(models=["scratch"], folds=4))
    table = read_train_and_valid("scratch", load_settings(), Folders())
    for rows, (_, expected) in zip(dealt, make_folds(table.labels, table.groups, 4, seed=7), strict=True):
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--folds", "1"], "error: --folds: invalid value 1; expected 2 to "),
        (["--folds", "100000"], "error: --folds: invalid value 100000; expected 2 to "),
        (["--models", "svm"], "invalid choice: 'svm'"),
    ],
)
def test_a_bad_option_is_refused(judged, arguments, told):
    assert told in judged[0].run("qc", "labels", *arguments, status=2)


def test_models_that_know_less_than_the_largest_class_judge_nothing():
    """As in shared input few-groups: no question is like another, and all labels looked wrong."""
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(QcError, match=r"cannot judge these labels: .* their accuracy is 0.000, that of the largest"):
        find_suspects(labels, {"a": np.eye(2)[1 - labels]})


def test_the_linear_model_predicts_questions_whose_equals_it_has_not_seen():
    """Each question is there twice, and nothing but an equal one tells its class."""
    names = ["alpha", "bravo", "delta", "gamma", "kilo", "lima", "mike", "oscar", "papa", "tango"]
    labels, groups = np.arange(20) % 10 % 2, np.arange(20) % 10
    predicted = predict_linear(names * 2, labels, make_folds(labels, groups, 5, seed=1))
    assert predicted.shape == (20, 2)
    assert np.mean(predicted.argmax(axis=1) == labels) < 0.8
    shuffled = [(np.setdiff1d(np.arange(20), [row]), np.array([row])) for row in range(20)]
    assert np.mean(predict_linear(names * 2, labels, shuffled).argmax(axis=1) == labels) == 1.0


def test_models_that_agree_are_named_and_a_label_that_all_predict_is_not_suspected():
    labels = np.arange(60) % 3
    sure = np.full((60, 3), 0.2)
    sure[np.arange(60), labels] = 0.6
    first, second = sure.copy(), sure.copy()
    first[4], second[4] = [0.98, 0.01, 0.01], [0.46, 0.50, 0.04]
    [(row, suggested, confidence, agreeing)] = find_suspects(labels, {"a": first, "b": second})
    assert (row, suggested, agreeing) == (4, 0, "a")
    assert confidence == pytest.approx((0.98 + 0.46) / 2)
    assert find_suspects(labels, {"a": sure}) == []


def test_equal_questions_of_one_label_are_no_conflict():
    columns = {"group": [1, 2, 1, 3, 3], "text": ["x", "y", "X", "z", "z"], "label": [0, 1, 1, 1, 1]}
    assert conflicting(columns, ["a", "b"]) == [{"text": "x", "labels": {"a": 1, "b": 1}}]


def test_the_label_that_the_models_believe_least_comes_first():
    labels = np.arange(60) % 3
    probabilities = np.full((60, 3), 0.2)
    probabilities[np.arange(60), labels] = 0.6
    probabilities[[4, 10, 20]] = [[0.7, 0.22, 0.08], [0.95, 0.02, 0.03], [0.05, 0.85, 0.1]]
    found = find_suspects(labels, {"a": probabilities})
    assert [(row, suggested, agreeing) for row, suggested, _, agreeing in found] == [
        (10, 0, "a"), (20, 1, "a"), (4, 0, "a")
    ]  # fmt: skip


def test_models_that_know_as_much_as_the_largest_class_may_judge():
    assert find_suspects(np.array([0, 0, 1, 1]), {"a": np.array([[0.6, 0.4]] * 4)}) is not None
