"""Tables of questions: what a user opens, and what later stages read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import load_dataset

from qc.errors import QcError
from qc.inference.batches import PackedDataset
from qc.questions.labels import UNKNOWN
from qc.questions.tables import QuestionTable
from qc.training.precomputed import precompute_features
from tests.conftest import CLASSES, outputs


def test_a_split_opens_with_datasets_alone(finished, tmp_path):
    split = finished.root / "data/split/tiny-bert"
    table = load_dataset("parquet", data_files=str(split / "train.parquet"), cache_dir=str(tmp_path), split="train")
    assert table.column_names == ["id", "text", "label", "fine", "input_ids", "group"]
    names = table.features["label"].names
    assert names == ["ABBR", "DESC", "HUM", "LOC", "NUM"]
    raw = (finished.root / "data/raw/train.label").read_text().splitlines()
    for row in table:
        label, _, text = raw[row["id"]].partition(" ")
        assert row["text"] == text
        assert names[row["label"]] == label.partition(":")[0]
        assert table.features["fine"].names[row["fine"]] == label
    vocabulary = json.loads((split / "vocabulary.json").read_text())
    assert table[0]["input_ids"][0] == vocabulary["before"][0]


def test_splits_hold_every_question_once_for_every_tokenizer_and_the_same_bytes_each_time(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set("fetch.encoders", "[tiny-bert, tiny-mpnet]")
    project.set("train_scratch.tokenizer", "tiny-mpnet")
    made = []
    project.stage("fetch")
    for _ in range(2):
        for stage in ("tokenize", "split"):
            project.stage(stage)
        made.append({path: pins for path, pins in outputs(project).items() if path.startswith(("data/t", "data/s"))})
    assert made[0] == made[1]
    ids = []
    for name in ("tiny-bert", "tiny-mpnet"):
        files = [project.root / f"data/split/{name}/{split}.parquet" for split in ("train", "valid", "test")]
        ids.append([QuestionTable.read(path).columns["id"].to_pylist() for path in files])
    assert ids[0] == ids[1]
    assert sorted(number for part in ids[0] for number in part) == list(range(150))


def test_a_question_of_a_fine_class_that_train_does_not_have_is_numbered_unknown(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set("fetch.test", "official.label")
    path = project.mirror / "official.label"
    path.write_text(path.read_text().replace(":fine0 ", ":another ", 1))
    project.write_sources()
    for stage in ("fetch", "tokenize"):
        project.stage(stage)
    table = QuestionTable.read(project.root / "data/tokenized/tiny-bert/questions.parquet")
    assert np.flatnonzero(table.fine_labels == UNKNOWN).tolist() == [150]  # the first of the test file
    assert table.columns["official"].to_pylist() == [False] * 150 + [True] * 25
    assert table.class_names.fine_classes == [(name, f"fine{n}") for name in sorted(CLASSES) for n in (0, 1)]


def test_a_broken_table_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(QcError, match=r"train.parquet: cannot be read: .*run `dvc repro` to recreate it"):
        QuestionTable.read(path)


@pytest.mark.parametrize("pools", [False, True])
def test_the_model_says_whether_its_features_are_pooled_not_the_length_of_its_questions(pools, tmp_path):
    """70 questions of one token come first, by length; 20 have two."""
    lengths = torch.tensor([1] * 70 + [2] * 20)
    values = torch.arange(110)
    questions = PackedDataset(values, torch.zeros(90, dtype=torch.long), lengths, pad_id=0)

    def features(input_ids, mask):
        vectors = input_ids[:, :, None].float().expand(-1, -1, 3)
        return vectors.sum(dim=1, keepdim=True) if pools else vectors

    model = SimpleNamespace(pools_features=pools, features=features, eval=lambda: None)
    computed = precompute_features(model, questions, "fp32", 1, tmp_path)
    expected = torch.cat([values[:70], values[70:].view(20, 2).sum(dim=1)]) if pools else values
    assert computed.values.tolist() == [[float(value)] * 3 for value in expected]
    assert computed.lengths.tolist() == ([1] * 90 if pools else lengths.tolist())
