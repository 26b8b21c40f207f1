"""`qc labels`: planted faults are found, by models that have not seen the question, and the test split has no part."""

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from qc.commands import cross_validation
from qc.commands.cross_validation import deal, predict_held_out
from qc.commands.labels import conflicting, confusions, find_suspects
from qc.config.schema import read_yaml
from qc.config.settings import Settings
from qc.files import read_csv, read_json, write_json
from qc.paths import Folders
from qc.questions.labels import Labels
from qc.training.data import load_split
from qc.training.trainer import Trained
from tests.conftest import CLASSES, label_lines, outputs

SPLITS = ("train", "valid")
QUESTIONS, SHARE = 400, 0.05
DUPLICATE = "=1+1 is many"  # in train, by its hash


def flipped(seed):
    """Lines of a label file, and the texts of those whose label is wrong."""
    rng = random.Random(seed)
    lines = list(dict.fromkeys(label_lines(QUESTIONS, seed)))
    wrong = set()
    for row in rng.sample(range(len(lines)), round(SHARE * len(lines))):
        label, _, text = lines[row].partition(" ")
        other = rng.choice([name for name in CLASSES if name != label.partition(":")[0]])
        lines[row] = f"{other}:fine0 {text}"
        wrong.add(text)
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
    (project.root / "data/split/test.parquet").rename(project.root / "test.parquet")  # not read
    before = outputs(project)
    printed = project.run("qc", "labels", "--models", "scratch", "--folds", "4")
    made = {path: found for path, found in outputs(project).items() if before.get(path) != found}
    assert set(made) == {"reports/labels.csv", "reports/labels.json"}
    assert before.items() <= outputs(project).items()
    return project, printed, wrong


def known(project):
    """Texts of train and validation."""
    tables = [pyarrow.parquet.read_table(project.root / f"data/split/{name}.parquet") for name in SPLITS]
    return [row for table in tables for row in table.to_pylist()]


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
    assert f"{rows[0]['label']} -> {rows[0]['suggested']} (" in printed
    assert f"reports/labels.csv: {len(rows)} of {len(known(project))} labels look wrong; 1 questions occur" in printed


def test_the_summary_counts_confusions_and_names_equal_questions_with_different_labels(judged):
    project, _, _ = judged
    rows, found = read_csv(project.root / "reports/labels.csv"), read_json(project.root / "reports/labels.json")
    assert (found["models"], found["folds"]) == (["scratch", "tfidf"], 4)
    assert (found["suspects"], found["questions"]) == (len(rows), len(known(project)))
    assert sum(each["questions"] for each in found["confusions"]) == len(rows)
    for each in found["confusions"]:
        pairs = [row for row in rows if (row["label"], row["suggested"]) == (each["label"], each["suggested"])]
        assert len(pairs) == each["questions"]
    assert found["conflicting_duplicates"] == [{"text": DUPLICATE, "labels": {"NUM": 3, "HUM": 1}}]


def test_the_same_questions_give_the_same_bytes(judged):
    project, _, _ = judged
    before = outputs(project)
    project.run("qc", "labels", "--models", "scratch", "--folds", "4")
    assert outputs(project) == before


def test_suspects_that_become_corrections_are_right(judged, tmp_path):
    project, _, wrong = judged
    copied = project.copy(tmp_path / "project")
    rows = [row for row in read_csv(copied.root / "reports/labels.csv") if row["text"] in wrong]
    lines = "".join(f'"{row["text"]}",{row["suggested"]}\n' for row in rows)
    (copied.root / "data/own/corrections.csv").write_text(f"text,label\n{lines}")
    copied.set("fetch.corrections", "data/own/corrections.csv")
    copied.stage("fetch")
    copied.stage("tokenize")
    table = pyarrow.parquet.read_table(copied.root / "data/tokenized/questions.parquet").to_pylist()
    labels = {row["text"]: row["coarse"] for row in table}
    assert all(labels[row["text"]] == row["suggested"] for row in rows)


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


def test_every_question_is_predicted_once_by_a_model_that_has_not_seen_it(here, monkeypatch):
    """The probabilities must come from the fold that held the question out."""
    settings = read_yaml(Settings, Path("params.yaml"), "params.yaml")
    folds = []

    def train(name, data, changed):
        assert changed.training()[name].select_by == "last"
        assert not {*data.train.groups} & {*data.valid.groups}
        folds.append(len(data.valid))
        logits = torch.full((len(data.valid), len(CLASSES)), float(len(folds)))
        logits[range(len(data.valid)), data.valid.labels] += 1
        return Trained(None, [], {}, lambda: logits)

    monkeypatch.setattr(cross_validation, "train_model", train)
    labels, groups = (np.concatenate([getattr(load(name), key) for name in SPLITS]) for key in ("labels", "groups"))
    dealt = deal(labels, groups, 3, seed=1)
    found = predict_held_out(["prefix", "scratch"], settings, Folders(), dealt)
    assert list(found) == ["prefix", "scratch"]
    for each in found.values():
        assert (each.argmax(axis=1) == labels).all()
        assert np.allclose(each.sum(axis=1), 1)
    assert sum(folds) == 2 * len(labels)
    assert len(folds) == 6


def load(name):
    labels = Labels.read(Path("data/tokenized/labels.json"))
    return load_split(Path(f"data/split/{name}.parquet"), Path("data/tokenized/tiny-bert"), labels)


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


def test_confusions_are_counted_the_most_frequent_first():
    rows = [[0, "x", "a", "b"], [1, "x", "b", "a"], [2, "x", "b", "a"]]
    assert [list(each.values()) for each in confusions(rows)] == [["b", "a", 2], ["a", "b", 1]]


def test_equal_questions_of_one_label_are_no_conflict():
    columns = {"group": [1, 2, 1, 3, 3], "text": ["x", "y", "X", "z", "z"], "label": [0, 1, 1, 1, 1]}
    assert conflicting(columns, ["a", "b"]) == [{"text": "x", "labels": {"a": 1, "b": 1}}]


def test_the_report_has_the_labels_of_its_own_data_alone(judged, finished, tmp_path):
    project, _, _ = judged
    target = finished.copy(tmp_path / "project")
    for name in ("labels.csv", "labels.json"):
        shutil.copy(project.root / "reports" / name, target.root / "reports")
    page = target.root / "report/index.html"
    target.run("qc", "report")
    assert "Labels that look wrong" not in page.read_text()  # of other questions
    found = read_json(target.root / "reports/labels.json")
    sha256 = read_json(target.root / "reports/data.json")["sha256"]
    found["conflicting_duplicates"].append({"text": "why ?", "labels": {"a_b": 1, "<b>": 2}})
    write_json(target.root / "reports/labels.json", {**found, "split": {name: sha256[name] for name in found["split"]}})
    target.run("qc", "report")
    text = page.read_text()
    rows = read_csv(target.root / "reports/labels.csv")
    section = text.partition("Labels that look wrong")[2].partition("Parameters")[0]
    assert all(row["text"] in section for row in rows[:20] if not row["text"].startswith("'"))
    assert section.count('<td class="text">') == min(20, len(rows)) + 2
    assert "&#39;=1" not in section
    assert "NUM 3, HUM 1" in section
    assert "a_b 1, &lt;b&gt; 2" in section  # the names as they are
