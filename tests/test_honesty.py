"""The rules of honesty: what is never done with the questions that a model is tested on."""

import random
import shutil

import pytest
from pyarrow import parquet

from qc.files import read_csv, read_json
from tests.conftest import outputs

MODELS = ("scratch", "prefix", "distilbert")
VALIDATION = ("reports/validation.json", "metrics/validation_predictions.csv", "plots/coverage.csv")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished project whose test split may be changed."""
    return finished.copy(tmp_path / "copy")


def held_out(project):
    """The files of the test split."""
    return sorted(project.root.glob("data/split/**/test.parquet"))


def predicted(project):
    """What the models and the baseline predict, without the truth; and the temperatures."""
    rows, scores = read_csv(project.root / "metrics/predictions.csv"), read_json(project.root / "reports/test.json")
    temperatures = [scores[name]["calibrated"]["temperature"] for name in MODELS]
    return [{key: row[key] for key in row if key != "label"} for row in rows], temperatures


def test_the_labels_of_test_change_no_prediction_no_temperature_and_no_baseline(copied):
    before, written = predicted(copied), [(copied.root / name).read_bytes() for name in VALIDATION]
    scores = read_json(copied.root / "reports/test.json")
    for path in held_out(copied):
        table = parquet.read_table(path)
        shuffled = table.take(random.Random(1).sample(range(len(table)), len(table)))
        changed = [a != b for a, b in zip(table["label"].to_pylist(), shuffled["label"].to_pylist(), strict=True)]
        assert sum(changed) > len(table) / 2
        for place, field in enumerate(table.schema):
            if field.name in ("label", "coarse", "fine"):
                table = table.set_column(place, field, shuffled[field.name])
        parquet.write_table(table, path)
    copied.stage("evaluate")
    assert predicted(copied) == before
    assert [(copied.root / name).read_bytes() for name in VALIDATION] == written
    after = read_json(copied.root / "reports/test.json")
    assert after["baselines"]["tfidf_svm"] != scores["baselines"]["tfidf_svm"]  # it is scored on them, and no more


def test_training_gives_the_same_bytes_without_the_test_split_and_the_raw_data(copied):
    before = outputs(copied)
    for path in (*held_out(copied), *(copied.root / "data/raw").iterdir()):
        path.unlink()
    shutil.rmtree(copied.root / "data/tokenized")
    removed = before.keys() - outputs(copied).keys()
    for name in MODELS:
        shutil.rmtree(copied.root / f"models/{name}")
        copied.stage(f"train_{name}")
    assert outputs(copied) == {name: before[name] for name in before.keys() - removed}
    assert "test.parquet: cannot be read" in copied.stage("evaluate", status=1)
