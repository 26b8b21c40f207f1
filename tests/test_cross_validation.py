"""Cross-validation on the questions of train and validation."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow
import pytest

from qc.commands.cross_validation import change_settings, make_folds
from qc.config.schema import read_yaml
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import standard_error
from qc.files import read_csv
from qc.paths import Folders
from qc.training.data import TokenizedSplit, load_training_data
from qc.training.trainer import train_model
from tests.conftest import outputs


@pytest.fixture
def settings(here):
    return read_yaml(Settings, here / "params.yaml", "params.yaml")


def test_two_settings_are_scored_on_every_question_and_nothing_else_changes(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.root / "models")
    (project.root / "data/split/test.parquet").unlink()  # not read
    before = outputs(project)
    printed = project.run("qc", "cross-validate", "scratch", "learning_rate=1e-2", "epochs=12", "--folds", "2")
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows[2:]] == ["params.yaml", "learning_rate=1e-2 epochs=12"]
    total = sum(len(pyarrow.parquet.read_table(project.root / f"data/split/{name}.parquet")) for name in SPLITS)
    assert [int(row[2]) for row in rows[2:]] == [total, total]
    short, longer = (float(row[3]) for row in rows[2:])
    assert longer > short + 0.1
    assert outputs(project) == before


SPLITS = ("train", "valid")


@pytest.mark.parametrize("name", ["scratch", "prefix", "distilbert"])
def test_a_model_is_trained_in_process_as_its_stage_does(here, settings, name):
    *_, last = read_csv(here / f"plots/train_{name}.csv")
    curve = train_model(name, load_training_data(name, settings, Folders()), settings).curve
    found = round(curve[-1].valid_accuracy, 6), round(curve[-1].valid_loss, 6)
    assert found == (float(last["valid_accuracy"]), float(last["valid_loss"]))


def test_every_question_is_predicted_once_and_equal_ones_by_one_model():
    labels = np.array([number % 2 for number in range(50)] + [number % 2 for number in range(25)])
    groups = np.concatenate((np.arange(50), np.arange(25)))
    split = TokenizedSplit(pyarrow.array([[1]] * 75), labels, None, groups)
    predicted = np.full(75, -1)
    for fold, (train, held_out) in enumerate(make_folds(split, 5, seed=1)):
        assert sorted([*train, *held_out]) == list(range(75))
        assert (predicted[held_out] == -1).all()
        predicted[held_out] = fold
        assert 0.3 < np.mean(labels[held_out]) < 0.7
    assert set(predicted) == set(range(5))
    assert (predicted[50:] == predicted[:25]).all()


def test_splits_are_joined_and_taken_apart(settings):
    data = load_training_data("scratch", settings, Folders())
    joined = data.train.join(data.valid)
    again = joined.take(np.arange(len(data.train), len(joined)))
    assert again.input_ids.to_pylist() == data.valid.input_ids.to_pylist()
    assert (again.labels == data.valid.labels).all()
    assert (again.fine_labels == data.valid.fine_labels).all()
    assert (again.groups == data.valid.groups).all()
    assert replace(data, train=joined).train is joined


def test_a_changed_section_is_checked_and_keeps_its_last_epoch(settings):
    found = change_settings(settings, "prefix", ["epochs=7", "head_learning_rate=null"])
    expected = settings.train_prefix.model_copy(update={"epochs": 7, "select_by": "last", "head_learning_rate": None})
    assert found.train_prefix == expected
    assert change_settings(settings, "prefix", []).train_prefix.epochs == settings.train_prefix.epochs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("depth=3", "train_scratch.depth: unknown key"),
        ("hidden_size=15", "train_scratch.hidden_size: invalid value 15; expected multiple of"),
        ("epochs=many", "train_scratch.epochs: invalid value 'many'"),
        ("epochs", "invalid value 'epochs'; expected KEY=VALUE"),
        ("epochs=[", "invalid value 'epochs=['; expected KEY=VALUE"),
    ],
)
def test_a_bad_change_is_refused_before_anything_is_trained(settings, change, message):
    with pytest.raises(QcError, match=r"^[^\n]+$") as refusal:
        change_settings(settings, "scratch", [change])
    assert message in str(refusal.value)


def test_more_folds_than_the_rarest_class_has_questions_are_refused():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 3, 4])
    split = TokenizedSplit(pyarrow.array([[1]] * 6), labels, None, groups)
    with pytest.raises(QcError, match="--folds: invalid value 3; expected 2 to 2, the questions of the rarest class"):
        list(make_folds(split, 3, seed=1))


def test_the_standard_error_is_that_of_a_share():
    assert standard_error(0.5, 400) == pytest.approx(0.025)
