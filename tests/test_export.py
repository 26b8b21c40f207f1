"""Exported models, run without PyTorch, against the models they were exported from."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer

from qc import load
from qc.__main__ import main
from qc.commands.export import INT8, MODEL, export_onnx, onnx_logits, open_onnx
from qc.inference.batches import pack
from qc.inference.logits import predict
from qc.inference.model_folder import TrainedModel
from qc.inference.predictor import Predictor
from qc.models.scratch import ScratchClassifier
from qc.questions.tables import QuestionTable
from qc.questions.tokenizers import load_tokenizer
from qc.questions.vocabulary import Vocabulary
from tests.conftest import label_lines
from tests.test_training import SIZES

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
    tokenizer.enable_truncation(config["max_length"] + config["special_tokens"])
    ids = [tokenizer.encode(text, add_special_tokens=config["add_special_tokens"]).ids for text in texts]
    vocabulary = replace(predictor.trained.vocabulary, before=[], after=[], pad_id=config["pad_id"])
    questions = pack(vocabulary, ids, [0] * len(ids), 100, keep_special=True)
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


def test_matrices_of_the_int8_export_are_signed(exported):
    graph = onnx.load(exported / "distilbert" / INT8).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    matrices = [types[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert matrices
    assert set(matrices) == {onnx.TensorProto.INT8}


def test_what_eight_bits_cost_is_told(here, tmp_path, capsys):
    assert main(["export", "--model", "scratch", "--out", str(tmp_path / "out"), "--int8"]) == 0
    pytorch, onnx, int8, _ = capsys.readouterr().out.splitlines()
    count = len(QuestionTable.read(here / "data/split/tiny-bert/valid.parquet"))
    assert pytorch.startswith("PyTorch") and f"on {count} validation questions" in pytorch
    assert onnx.split()[:2] == [MODEL, "accuracy"]
    assert int8.split()[:2] == [INT8, "accuracy"]
    assert all("MiB" in line and "questions a second" in line for line in (onnx, int8))


@pytest.fixture
def classifier():
    """A way to make a model from scratch that reads up to a number of tokens."""

    def make(max_length, mask_padding=True):
        torch.manual_seed(0)
        model = ScratchClassifier(replace(SIZES, max_length=max_length, mask_padding=mask_padding, pad_id=3))
        vocabulary = Vocabulary("x", 30, 3, 1, [], [], "", lowercase=True)
        return TrainedModel(model, ["a", "b", "c"], max_length, vocabulary, "fp32", None)

    return make


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("max_length", [1, 2, 3, 8, 9, 12])
@pytest.mark.soak
def test_any_number_of_positions_is_exported_and_no_more_are_taken(
    here, classifier, tmp_path, max_length, mask_padding
):
    tokenizer = load_tokenizer(here / "data/encoders/tiny-bert")
    predictor = Predictor(classifier(max_length, mask_padding), tokenizer, "cpu")
    (tmp_path / "out").mkdir()
    export_onnx(predictor, tmp_path / "out", int8=False)
    session = open_onnx(tmp_path / "out" / MODEL)
    ids = [[5 + place % 20 for place in range(length)] for length in (1, max_length, max_length)]
    questions = predictor.trained.pack(ids, [0] * 3)
    if max_length > 2:
        found, _ = onnx_logits(session, questions)
    else:  # the length is fixed then, so that padding to it is the caller's
        mask = (torch.arange(max_length) < questions.lengths[:, None]).long()
        padded = torch.tensor([row + [3] * (max_length - len(row)) for row in ids])
        [found] = session.run(["logits"], {"input_ids": padded.numpy(), "attention_mask": mask.numpy()})
    np.testing.assert_allclose(found, predict(predictor.model, questions).numpy(), atol=1e-4)
    assert json.loads((tmp_path / "out/config.json").read_text())["pad_id"] == 3


@pytest.mark.soak
def test_the_exported_axis_ends_where_the_models_positions_do(here, exported, monkeypatch, tmp_path):
    session = open_onnx(exported / "scratch" / MODEL)
    for length in (12, 13):
        ids = np.full((2, length), 5)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if length == 12:
            assert session.run(["logits"], inputs)[0].shape == (2, 5)
        else:
            with pytest.raises(Exception, match="12 by 13"):  # the runtime raises nothing narrower
                session.run(["logits"], inputs)
    limits = {}
    dimension = torch.export.Dim
    monkeypatch.setattr(
        torch.export, "Dim", lambda name, **bounds: limits.update({name: bounds}) or dimension(name, **bounds)
    )
    for name, longest in (("scratch", 12), ("prefix", 14)):
        assert main(["export", "--model", name, "--out", str(tmp_path / name)]) == 0
        assert limits["length"] == {"max": longest}


@pytest.mark.soak
def test_an_export_over_another_replaces_its_own_files_alone(here, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", "--model", "prefix", "--out", str(folder), "--int8"]) == 0
    (folder / "notes.txt").write_text("mine")
    (folder / "sub").mkdir()
    (folder / "sub" / INT8).write_text("mine too")
    assert main(["export", "--model", "scratch", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {MODEL, "config.json", "tokenizer.json", "notes.txt", "sub"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "sub" / INT8).read_text() == "mine too"
    assert json.loads((folder / "config.json").read_text())["add_special_tokens"] is False
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.soak
def test_an_export_that_is_not_the_model_leaves_the_earlier_one(here, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "out"
    assert main(["export", "--model", "prefix", "--out", str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("qc.commands.export.TOLERANCE", -1.0)
    assert main(["export", "--model", "scratch", "--out", str(folder)]) == 2
    assert "model.onnx: its logits differ from PyTorch's by up to" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_is_as_good_as_none(here, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["export", "--model", "scratch", "--out", str(tmp_path / "out")]) == 0


def test_a_folder_that_is_no_export_is_not_replaced(here, tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert main(["export", "--model", "scratch", "--out", str(tmp_path)]) == 2
    assert "exists and is no export" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "mine"
    assert main(["export", "--model", "none", "--out", str(tmp_path / "new")]) == 2
    assert "no such model" in capsys.readouterr().err
