"""The rules of honesty: what is never done with the questions that a model is tested on."""

import random
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from qc.files import read_csv, read_json
from tests.conftest import outputs

MODELS = ("scratch", "prefix", "distilbert")
TRAINING = [f"train_{name}" for name in MODELS]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished project whose test split may be changed."""
    return finished.copy(tmp_path / "copy")


def held_out(project):
    """The files of the test split."""
    return sorted(project.root.glob("data/split/**/test.parquet"))


def change_labels(project):
    """Deal the labels of the test split out anew: wrong for most of the questions."""
    for path in held_out(project):
        table = parquet.read_table(path)
        rows = list(range(len(table)))
        random.Random(1).shuffle(rows)
        moved = table.take(rows)
        before = table["label"].to_pylist()
        assert sum(a != b for a, b in zip(before, moved["label"].to_pylist(), strict=True)) > len(rows) / 2
        for place, field in enumerate(table.schema):
            if field.name not in ("id", "text", "group") and not pyarrow.types.is_list(field.type):
                table = table.set_column(place, field, moved[field.name])
        parquet.write_table(table, path)


def change_questions(project):
    """Give the test split other texts, and other token ids wherever they are."""
    ids = parquet.read_table(held_out(project)[0])["id"].to_pylist()
    for path in (*held_out(project), *project.root.glob("data/tokenized/*/input_ids.parquet")):
        table = parquet.read_table(path)
        tested = range(len(table)) if path in held_out(project) else ids
        for place, field in enumerate(table.schema):
            values = table[field.name].to_pylist()
            for row in tested:
                if field.name == "text":
                    values[row] = "poison"
                elif pyarrow.types.is_list(field.type):
                    values[row] = [2, *[4 + row % 5] * 9, 3]
            table = table.set_column(place, field, pyarrow.array(values, field.type))
        parquet.write_table(table, path)


def predicted(project):
    """What the models and the baseline predict, without the truth."""
    rows = read_csv(project.root / "metrics/predictions.csv")
    return [{key: row[key] for key in row if key != "label"} for row in rows]


def test_the_labels_of_test_change_no_prediction_and_no_baseline(copied):
    validation = ("reports/validation.json", "metrics/validation_predictions.csv", "plots/coverage.csv")
    before, written = predicted(copied), [(copied.root / name).read_bytes() for name in validation]
    scores = read_json(copied.root / "reports/test.json")
    change_labels(copied)
    copied.stage("evaluate")
    assert predicted(copied) == before
    assert [(copied.root / name).read_bytes() for name in validation] == written
    after = read_json(copied.root / "reports/test.json")
    assert after["baselines"]["tfidf_svm"] != scores["baselines"]["tfidf_svm"]  # it is scored on them, and no more
    assert all(after[name]["calibrated"]["temperature"] == scores[name]["calibrated"]["temperature"] for name in MODELS)


def test_the_questions_of_test_change_no_byte_of_what_training_writes(copied):
    before = outputs(copied)
    change_labels(copied)
    change_questions(copied)
    changed = {name for name, found in outputs(copied).items() if found != before[name]}
    assert changed
    assert all(name.endswith(("test.parquet", "input_ids.parquet")) for name in changed)
    for stage in TRAINING:
        shutil.rmtree(copied.root / f"models/{stage.removeprefix('train_')}")
        copied.stage(stage)
    assert {name for name, found in outputs(copied).items() if found != before[name]} == changed


def test_training_and_validation_never_read_the_test_split(copied):
    for path in held_out(copied):
        path.unlink()
    for stage in TRAINING:
        copied.stage(stage)
    assert "test.parquet: cannot be read" in copied.stage("evaluate", status=1)
