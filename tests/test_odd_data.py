"""Data unlike the default: very many classes, very rare ones, any script, classes that a split does not have."""

import csv
import itertools

import pytest

from qc.files import read_csv, read_json
from tests.conftest import FILLERS, STAGES

SCRIPTS = ["класс", "分類", "صنف", "वर्ग", "κλάση", "หมวด", "class", "🦊"]
MODELS = ("scratch", "prefix", "distilbert")


def write(project, name, rows):
    with (project.root / f"data/own/{name}").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])


def questions(labels, count):
    """Different questions for each label, of words that the tiny tokenizer knows."""
    texts = (" ".join(words) for words in itertools.product(FILLERS, repeat=5))
    return [(next(texts), label) for label in labels for _ in range(count)]


@pytest.fixture
def own(finished, tmp_path):
    """A project that reads data/own/train.csv."""
    project = finished.copy(tmp_path / "project")
    project.set("fetch.train", "data/own/train.csv")
    for name in MODELS:
        project.set(f"train_{name}.epochs", 1)
    return project


@pytest.mark.soak
def test_a_thousand_classes_of_three_rows_in_any_script(own):
    labels = [f"{SCRIPTS[number % len(SCRIPTS)]} {number}" for number in range(1001)]
    write(own, "train.csv", questions(labels, 3))
    assert own.repro() == STAGES
    figures = read_json(own.root / "reports/data.json")
    assert figures["size"] == {"train": 1001, "valid": 1001, "test": 1001}
    assert all(figures["classes"][split] == dict.fromkeys(sorted(labels), 1) for split in figures["size"])
    scores = read_json(own.root / "reports/test.json")
    assert all(list(scores[name]["f1"]) == sorted(labels) for name in MODELS)
    assert {row["label"] for row in read_csv(own.root / "metrics/predictions.csv")} == set(labels)
    own.run("qc", "report")
    page = (own.root / "report/index.html").read_text(encoding="utf-8")
    assert len(page) < 4_000_000
    assert all(script in page for script in SCRIPTS)
    assert own.run("qc", "predict", "the dog").split("\t")[0].strip()


@pytest.mark.soak
def test_a_class_that_the_official_test_does_not_have(own):
    write(own, "train.csv", questions(["a", "b", "c"], 20))
    write(own, "test.csv", [(f"{text} river", label) for text, label in questions(["a", "b"], 5)])
    own.set("fetch.test", "data/own/test.csv")
    assert own.repro() == STAGES
    figures, scores = read_json(own.root / "reports/data.json"), read_json(own.root / "reports/test.json")
    assert figures["classes"]["test"] == {"a": 5, "b": 5}
    assert figures["classes"]["valid"].keys() == {"a", "b", "c"}
    for name in MODELS:
        assert list(scores[name]["f1"]) == ["a", "b", "c"]
        assert scores[name]["f1"]["c"] == scores[name]["recall"]["c"] == 0
        present = [scores[name]["f1"][label] for label in "ab"]
        assert scores[name]["macro_f1"] == pytest.approx(sum(present) / 2, abs=1e-6)
    own.run("qc", "report")
    own.commit("odd")
    assert "holds" in own.run("qc", "check", "--base", "HEAD")


def test_a_class_with_one_question_beside_an_official_test_is_refused(own):
    write(own, "train.csv", [*questions(["a", "b"], 20), ("king king king", "c")])
    write(own, "test.csv", [("river river", "a"), ("river king", "b")])
    own.set("fetch.test", "data/own/test.csv")
    own.stage("fetch")
    own.stage("tokenize")
    told = own.stage("split", status=1)
    assert told.startswith("error: class 'c' is too rare to be in every split: 1 question(s)")
