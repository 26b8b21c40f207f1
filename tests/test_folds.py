"""Cross-validation on the questions of train and valid."""

import shutil
import sys

import numpy as np
import pyarrow
import pytest
import yaml

from qc.artifacts import read_table
from qc.errors import QcError
from qc.rows import normalize
from stages.folds import changed, deal, train
from stages.results import read_csv, standard_error
from stages.training import TRAIN, VALID
from tests.conftest import outputs


@pytest.fixture
def here(finished, monkeypatch):
    """The finished project as the working directory."""
    monkeypatch.chdir(finished.root)
    return finished


def test_two_settings_are_scored_on_every_question_and_nothing_else_changes(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.root / "models")
    (project.root / "data/split/test.parquet").unlink()  # not read
    before = outputs(project)
    command = [sys.executable, "-m", "stages.folds", "scratch", "learning_rate=1e-2", "epochs=12", "--folds", "2"]
    rows = [line.split("|") for line in project.run(*command).splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows[2:]] == ["params.yaml", "learning_rate=1e-2 epochs=12"]
    total = len(read_table(project.root / TRAIN)) + len(read_table(project.root / VALID))
    assert [int(row[2]) for row in rows[2:]] == [total, total]
    short, longer = (float(row[3]) for row in rows[2:])
    assert longer > short + 0.1
    assert outputs(project) == before
    assert not list(project.root.glob(".state/folds-*"))


def test_a_fold_is_trained_as_the_stage_does_and_its_last_epoch_is_scored(here):
    params = yaml.safe_load(here.params.read_text())
    parts = {path: read_table(here.root / path) for path in (TRAIN, VALID)}
    *_, last = read_csv(here.root / "plots/train_scratch.csv")
    expected = float(last["valid_accuracy"]), float(last["valid_loss"])
    assert train("scratch", params, parts) == expected


def questions_table(texts, labels):
    """Questions as a split holds them; texts that differ are of other groups."""
    different = sorted(map(normalize, texts))
    rows = {
        "text": texts,
        "partition": ["train"] * len(texts),
        "coarse": [str(label) for label in labels],
        "fine": [""] * len(texts),
        "label": labels,
        "group": [different.index(normalize(text)) for text in texts],
    }
    return pyarrow.table(rows)


def test_every_question_is_told_once_and_duplicates_by_one_model():
    texts = [f"what is {number} ?" for number in range(50)]
    texts += [f"What  IS {number} ?" for number in range(25)]
    labels = [number % 2 for number in range(75)]
    labels[50:] = labels[:25]
    table = questions_table(texts, labels)
    told = np.full(75, -1)
    for fold, (learned, asked) in enumerate(deal(table, 5, seed=1)):
        assert sorted([*learned, *asked]) == list(range(75))
        assert (told[asked] == -1).all()
        told[asked] = fold
        assert 0.3 < np.mean(np.array(labels)[asked]) < 0.7
    assert set(told) == set(range(5))
    assert (told[50:] == told[:25]).all()


def test_a_changed_section_is_checked_and_trained_to_its_last_epoch(here):
    params = yaml.safe_load(here.params.read_text())
    found = changed(params, "prefix", ["epochs=7", "head_learning_rate=null"])
    assert found["train_prefix"] == {
        **params["train_prefix"],
        "epochs": 7,
        "patience": 7,
        "head_learning_rate": None,
    }
    assert changed(params, "prefix", [])["train_prefix"]["epochs"] == params["train_prefix"]["epochs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("depth=3", "train_scratch.depth: unknown key"),
        ("width=15", "train_scratch.width: 15 is not possible; allowed: multiple of"),
        ("epochs=many", "train_scratch.epochs: 'many' is not possible"),
        ("epochs", "'epochs' is not possible; allowed: KEY=VALUE"),
        ("epochs=[", "'epochs=[' is not possible; allowed: KEY=VALUE"),
    ],
)
def test_a_bad_change_is_refused_before_anything_is_trained(here, change, message):
    with pytest.raises(QcError, match=r"^[^\n]+$") as refusal:
        changed(yaml.safe_load(here.params.read_text()), "scratch", [change])
    assert message in str(refusal.value)


def test_more_folds_than_the_rarest_class_has_questions_are_refused():
    table = questions_table(["a", "b", "B ", "c", "d", "e"], [0, 0, 0, 1, 1, 1])
    with pytest.raises(QcError, match="--folds 3 is not possible; allowed: 2 to 2, the questions of the rarest class"):
        list(deal(table, 3, seed=1))


def test_a_stage_that_fails_in_a_fold_is_told(here):
    params = yaml.safe_load(here.params.read_text())
    parts = {path: read_table(here.root / path) for path in (TRAIN, VALID)}
    with pytest.raises(QcError, match=r"train_prefix failed in a fold: error: .*max_length: 10000 is not possible"):
        train("prefix", {**params, "max_length": 10000}, parts)


def test_the_standard_error_is_that_of_a_share():
    assert standard_error(0.5, 400) == pytest.approx(0.025)
