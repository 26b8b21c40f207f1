"""Cross-validation on the questions of train and validation."""

import re
import shutil
from math import sqrt

import numpy as np
import pyarrow.parquet
import pytest

from qc.__main__ import main
from qc.commands.cross_validation import (
    change_settings,
    cross_validate,
    make_folds,
    predict_held_out,
    read_train_and_valid,
)
from qc.config.settings import Settings
from qc.errors import QcError
from qc.files import read_csv
from qc.paths import Folders
from qc.schema import read_yaml
from qc.training.data import load_training_data
from qc.training.trainer import train_model
from tests.conftest import outputs

SPLITS = ("train", "valid")


@pytest.fixture
def settings(here):
    return read_yaml(Settings, here / "params.yaml", "params.yaml")


def test_two_settings_are_compared_on_every_question_and_nothing_else_changes(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.root / "models")
    (project.root / "data/split/tiny-bert/test.parquet").unlink()  # not read
    before = outputs(project)
    printed = project.run("qc", "cross-validate", "scratch", "learning_rate=1e-2", "epochs=12", "--folds", "2")
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("|")]
    for told in ("fold 1 of 2 (1 of 4 models)", "fold 2 of 2 (2 of 4 models)", "fold 1 of 2 (3 of 4 models)"):
        assert f"scratch, {told}\n" in printed  # no terminal, so no bar
    assert [row[1].strip() for row in rows[2:]] == ["params.yaml", "learning_rate=1e-2 epochs=12"]
    total = sum(
        len(pyarrow.parquet.read_table(project.root / f"data/split/tiny-bert/{name}.parquet")) for name in SPLITS
    )
    assert [int(row[2]) for row in rows[2:]] == [total, total]
    short, longer = (float(row[3]) for row in rows[2:])
    assert longer > short + 0.1
    assert float(rows[2][4]) == pytest.approx(sqrt(short * (1 - short) / total), abs=1e-4)

    number = r"([-+.e\d]+)"
    line = f"difference in accuracy: {number}, its standard error {number}; {number} questions won, {number} lost"
    difference, error, won, lost = map(float, re.search(line, printed).groups())
    assert difference == pytest.approx(longer - short, abs=1e-4)
    assert difference == pytest.approx((won - lost) / total, abs=1e-4)
    # Of N differences, `won` are 1, `lost` are -1, the rest 0.
    variance = (won + lost - (won - lost) ** 2 / total) / (total - 1)
    assert error == pytest.approx(sqrt(variance / total), abs=1e-4)
    assert outputs(project) == before


def test_each_question_weighs_the_same_and_each_seed_trains_anew(settings):
    compared = {"short": change_settings(settings, "scratch", ["epochs=1"])}
    one, both = (cross_validate("scratch", compared, Folders(), 4, seeds)["short"] for seeds in ([1], [1, 2]))
    count = len(one.correct)
    assert count % 4, "folds of one size would hide a wrong weight"
    assert one.accuracy * count == pytest.approx(round(one.accuracy * count), abs=1e-9)
    assert set(np.unique(both.correct)) <= {0.0, 0.5, 1.0}
    assert both.loss != pytest.approx(one.loss, abs=1e-6)


def test_no_fold_knows_of_another_and_logits_are_in_the_order_of_the_questions(here, settings):
    changed = change_settings(settings, "distilbert", ["epochs=1"])
    questions = read_train_and_valid("distilbert", changed, Folders())
    folds = make_folds(questions.labels, questions.groups, 2, seed=1)
    [forth], [back] = (predict_held_out([("distilbert", changed)], Folders(), order) for order in (folds, folds[::-1]))
    assert forth.shape == (len(questions), 5)
    np.testing.assert_array_equal(forth, back)  # what training made of the encoder would change the second fold


@pytest.mark.parametrize("name", ["scratch", "prefix", "distilbert"])
def test_a_model_is_trained_in_process_as_its_stage_does(here, settings, name):
    *_, last = read_csv(here / f"plots/train_{name}.csv")
    curve = train_model(name, load_training_data(name, settings, Folders()), settings).curve
    trained = round(curve[-1].valid_accuracy, 6), round(curve[-1].valid_loss, 6)
    assert trained == (float(last["valid_accuracy"]), float(last["valid_loss"]))


def test_every_question_is_held_out_once_and_equal_ones_together():
    labels = np.array([number % 2 for number in range(50)] + [number % 2 for number in range(25)])
    groups = np.concatenate((np.arange(50), np.arange(25)))
    fold_of = np.full(75, -1)
    dealt = make_folds(labels, groups, 5, seed=1)
    for fold, (train, held_out) in enumerate(dealt):
        assert sorted([*train, *held_out]) == list(range(75))
        assert (fold_of[held_out] == -1).all()
        fold_of[held_out] = fold
        assert 0.3 < np.mean(labels[held_out]) < 0.7
    assert set(fold_of) == set(range(5))
    assert (fold_of[50:] == fold_of[:25]).all()
    again, other = (make_folds(labels, groups, 5, seed)[0][1].tolist() for seed in (1, 2))
    assert (again == dealt[0][1].tolist(), other == dealt[0][1].tolist()) == (True, False)


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 0, 1, 1], [0, 1, 1, 2, 2], 3, "--folds: invalid value 3; expected 2 to 2, the different questions of"),
        ([0, 0, 0, 1, 1], [0, 1, 1, 2, 2], 1, "--folds: invalid value 1; expected 2 to 2"),
        ([0, 0, 1, 1], [0, 0, 1, 1], 2, "no two different questions of one class"),
        ([0, 0, 0, 1], [0, 1, 2, 3], 2, "only one class to train on; fewer folds or more different questions"),
    ],
)
def test_folds_without_enough_different_questions_are_refused(labels, groups, folds, message):
    with pytest.raises(QcError) as refusal:
        make_folds(np.array(labels), np.array(groups), folds, seed=1)
    assert message in str(refusal.value)


def test_a_changed_section_is_checked_and_keeps_its_last_epoch(settings):
    changed = change_settings(settings, "prefix", ["epochs=7", "head_learning_rate=null"])
    expected = settings.train_prefix.model_copy(update={"epochs": 7, "select_by": "last", "head_learning_rate": None})
    assert changed.train_prefix == expected
    assert change_settings(settings, "prefix", []).train_prefix.epochs == settings.train_prefix.epochs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["depth=3"], "invalid change 'depth=3': train_scratch.depth: unknown key"),
        (["hidden_size=15"], "train_scratch.hidden_size: invalid value 15; expected multiple of"),
        (["epochs=many", "dropout=0"], "invalid change 'epochs=many dropout=0': train_scratch.epochs: invalid value"),
        (["epochs"], "invalid value 'epochs'; expected KEY=VALUE"),
        (["epochs=["], "invalid value 'epochs=['; expected KEY=VALUE"),
        (["select_by=loss"], "'select_by=loss': cross-validation scores the last epoch, whatever select_by is"),
        (["patience=3"], "'patience=3': cross-validation scores the last epoch, whatever patience is"),
        (["epochs=3", "epochs=4"], "'epochs=4': epochs is given twice"),
    ],
)
def test_a_bad_change_is_refused_before_anything_is_trained(settings, changes, message):
    with pytest.raises(QcError, match=r"^[^\n]+$") as refusal:
        change_settings(settings, "scratch", changes)
    assert message in str(refusal.value)


def test_a_change_that_the_encoder_does_not_allow_is_refused_before_anything_is_trained(here, capsys):
    assert main(["cross-validate", "prefix", "prefix_layers=9"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: invalid change 'prefix_layers=9': train_prefix.prefix_layers: invalid value 9; expected"
    )
    assert "fold" not in said
