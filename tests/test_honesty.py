"""The rules of honesty: what is never done with the questions that a model is tested on."""

import random
import shutil

import pyarrow
import pytest

from qc.commands.check import FILES as SCORED
from qc.files import read_csv, read_json
from qc.questions.parquet import read_table, write_table
from tests.conftest import outputs

MODELS = ("scratch", "prefix", "distilbert")
TRAINING = [f"train_{name}" for name in MODELS]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished project whose test split may be changed."""
    return finished.copy(tmp_path / "copy")


def change_test(project, **columns):
    """Put other columns into the test split."""
    path = project.root / "data/split/test.parquet"
    table = read_table(path)
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pyarrow.array(values, table.schema.field(name).type))
    write_table(path, [table])
    return table.to_pydict()


def permuted(project):
    """Labels of the test split that are right for hardly any question, each with its class name."""
    test = read_table(project.root / "data/split/test.parquet").to_pydict()
    labels = list(zip(test["label"], test["coarse"], strict=True))
    random.Random(1).shuffle(labels)
    assert sum(mine != theirs for mine, (theirs, _) in zip(test["label"], labels, strict=True)) > len(labels) / 2
    return {"label": [label for label, _ in labels], "coarse": [name for _, name in labels]}


def told(project):
    """What the models and the baseline predict, without the truth; and the temperatures."""
    scores = read_json(project.root / "reports/test.json")
    rows = read_csv(project.root / "metrics/predictions.csv")
    temperatures = {name: scores[name]["calibrated"]["temperature"] for name in MODELS}
    return [{key: row[key] for key in row if key != "label"} for row in rows], temperatures


def test_the_labels_of_test_change_no_prediction_no_temperature_and_no_baseline(copied):
    before = told(copied)
    validation = [(copied.root / name).read_bytes() for name in SCORED["valid"]]
    scores = read_json(copied.root / "reports/test.json")
    change_test(copied, **permuted(copied))
    copied.stage("evaluate")
    assert told(copied) == before
    assert validation == [(copied.root / name).read_bytes() for name in SCORED["valid"]]
    after = read_json(copied.root / "reports/test.json")
    assert after["baselines"]["tfidf_svm"] != scores["baselines"]["tfidf_svm"]  # it is scored on them, and no more


def test_the_questions_of_test_change_no_byte_of_what_training_writes(copied):
    before = outputs(copied)
    size = len(read_table(copied.root / "data/split/test.parquet"))
    change_test(copied, text=["poison"] * size, fine=["poison"] * size, **permuted(copied))
    path = copied.root / "data/tokenized/tiny-bert/input_ids.parquet"
    ids, rows = read_table(path)["input_ids"].to_pylist(), read_table(copied.root / "data/split/test.parquet")["id"]
    for row in rows.to_pylist():
        ids[row] = [2, *[4 + row % 5] * 9, 3]
    write_table(path, [pyarrow.table({"input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))})])
    changed = {name for name, found in outputs(copied).items() if found != before[name]}
    assert changed == {"data/split/test.parquet", "data/tokenized/tiny-bert/input_ids.parquet"}
    for stage in TRAINING:
        name = stage.removeprefix("train_")
        shutil.rmtree(copied.root / f"models/{name}")
        copied.stage(stage)
    assert {name for name, found in outputs(copied).items() if found != before[name]} == changed


def test_training_and_validation_never_read_the_test_split(copied):
    (copied.root / "data/split/test.parquet").unlink()
    for stage in TRAINING:
        copied.stage(stage)
    assert "data/split/test.parquet: cannot be read" in copied.stage("evaluate", status=1)


def test_validation_chooses_the_temperature(copied):
    """Other labels of validation, other temperatures: the test above would pass as well if there were a constant."""
    path = copied.root / "data/split/valid.parquet"
    table = read_table(path)
    labels = [(label + 1) % 5 for label in table["label"].to_pylist()]
    write_table(path, [table.set_column(table.column_names.index("label"), "label", pyarrow.array(labels))])
    before = told(copied)
    copied.stage("evaluate")
    after = told(copied)
    assert after[0] == before[0]
    assert all(after[1][name] != before[1][name] for name in MODELS)
