"""Exported models, run without PyTorch, against the models they were exported from."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from qc import load
from qc.__main__ import main
from qc.artifacts import read_table
from qc.batching import encode
from qc.export import INT8, MODEL, onnx_logits, open_onnx
from qc.training import predict
from tests.conftest import label_lines

MODELS = ("scratch", "prefix", "distilbert")


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Exports of the three models, the fine-tuned one in 8 bits too."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished.root)
        for name in MODELS:
            int8 = ["--int8"] if name == "distilbert" else []
            assert main(["export", "--model", name, "--out", str(folder / name), *int8]) == 0
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_pytorchs(here, exported, name):
    predictor = load(here / "models" / name)
    texts = [line.partition(" ")[2] for line in label_lines(200, seed=5)]
    config = json.loads((exported / name / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(exported / name / "tokenizer.json"))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    special = tuple(config["special_ids"]) if config["special_ids"] else None
    questions = encode(ids, [0] * len(ids), config["max_length"], special, pad_id=config["pad_id"])
    found, _ = onnx_logits(open_onnx(exported / name / MODEL), questions)
    np.testing.assert_allclose(found, predict(predictor.model, questions).numpy(), atol=1e-4)
    labels = [config["classes"][row] for row in found.argmax(axis=1)]
    assert labels == [each.label for each in predictor.predict(texts)]


def test_one_question_alone_runs_too(here, exported):
    session = open_onnx(exported / "prefix" / MODEL)
    [logits] = session.run(
        ["logits"], {"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
    )
    assert logits.shape == (1, 5)


def test_an_export_is_one_file_with_its_tokenizer_and_configuration(exported):
    assert {path.name for path in (exported / "prefix").iterdir()} == {MODEL, "config.json", "tokenizer.json"}
    assert {path.name for path in (exported / "distilbert").iterdir()} == {MODEL, INT8, "config.json", "tokenizer.json"}


def test_what_eight_bits_cost_is_told(here, tmp_path, capsys):
    assert main(["export", "--model", "scratch", "--out", str(tmp_path / "out"), "--int8"]) == 0
    pytorch, onnx, int8, _ = capsys.readouterr().out.splitlines()
    count = len(read_table(here / "data/split/valid.parquet"))
    assert pytorch.startswith("PyTorch") and f"on {count} validation questions" in pytorch
    assert onnx.split()[:2] == [MODEL, "accuracy"]
    assert int8.split()[:2] == [INT8, "accuracy"]
    assert all("MiB" in line and "questions a second" in line for line in (onnx, int8))


def test_a_folder_that_is_no_export_is_not_replaced(here, tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert main(["export", "--model", "scratch", "--out", str(tmp_path)]) == 2
    assert "is there, and is no export" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "mine"
    assert main(["export", "--model", "none", "--out", str(tmp_path / "new")]) == 2
    assert "no model is here" in capsys.readouterr().err
