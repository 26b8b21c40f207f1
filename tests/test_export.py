"""Exported models, opened by what people have instead of this repository, against the models they came from.

The snippets of docs/deployment.md are what runs: the one without PyTorch here, those of transformers and
transformers.js on packages of their own, which the slow tests install once, below .state.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoTokenizer

from qc import load
from qc.__main__ import main
from qc.commands.export import INT8, MODEL, export_onnx
from qc.inference.model_folder import TrainedModel, read_config, write_config
from qc.inference.predictor import Predictor
from qc.models.scratch import ScratchClassifier
from qc.questions.tables import QuestionTable
from qc.questions.vocabulary import Vocabulary
from tests.conftest import ROOT, label_lines
from tests.test_training import SIZES

MODELS = ("scratch", "prefix", "distilbert")
SHORTEST = {MODEL, "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}  # an export
TEMPERATURE = 2.0
LONG = "where is the river of the house " * 5  # the models read 12 of its tokens
TEXTS = [*(line.partition(" ")[2] for line in label_lines(12, seed=5)), "Why — is the KING's café ?", "where", LONG]
SNIPPETS = dict(
    zip(
        ("python", "pipeline", "javascript"),
        re.findall(r"```(?:python|javascript)\n(.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL),
        strict=True,
    )
)


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """A folder with copies of the finished models, calibrated, and their exports; the fine-tuned one in 8 bits too."""
    root = tmp_path_factory.mktemp("exported")
    for name in ("models", "data/encoders", "data/split"):
        shutil.copytree(finished.root / name, root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in MODELS:
            write_config(root / "models" / name, read_config(root / "models" / name) | {"temperature": TEMPERATURE})
            assert main(["export", "--model", name, *(["--int8"] if name == "distilbert" else [])]) == 0
    return root


def expected(root, name):
    """Probabilities of TEXTS, by class: the square roots of the uncalibrated ones, in proportion."""
    roots = [
        [value**0.5 for value in row.probabilities.values()] for row in load(root / "models" / name).predict(TEXTS)
    ]
    return [[value / sum(row) for value in row] for row in roots]


def snippet(kind, name="distilbert"):
    """A snippet of the documentation, for a model."""
    return SNIPPETS[kind].replace("distilbert", name)


def run_without_pytorch(folder):
    """The function that the first snippet of the documentation defines."""
    names = {}
    exec(snippet("python").replace("export/distilbert", str(folder)), names)
    return names["classify"]


def together_and_alone(classify, texts):
    """The answers to texts in one batch, and in one each."""
    return classify(texts), [row for text in texts for row in classify([text])]


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", MODELS)
def test_a_program_without_pytorch_gets_the_calibrated_probabilities(exported, name, capsys):
    classify = run_without_pytorch(exported / "export" / name)
    for rows in together_and_alone(classify, TEXTS):
        assert [list(row) for row in rows] == [load(exported / "models" / name).classes] * len(TEXTS)
        np.testing.assert_allclose([list(row.values()) for row in rows], expected(exported, name), atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_long_texts_are_cut_as_in_training_whatever_a_tool_cut_before(exported, name):
    tokenizer = Tokenizer.from_file(str(exported / "export" / name / "tokenizer.json"))
    cut = tokenizer.encode(LONG).ids
    tokenizer.no_truncation()
    whole = tokenizer.encode(LONG).ids
    assert (len(cut), len(whole)) == ((12, 35) if name == "scratch" else (14, 37))
    session = onnxruntime.InferenceSession(exported / "export" / name / MODEL)

    def logits(ids):
        return session.run(["logits"], {"input_ids": [ids], "attention_mask": [[1] * len(ids)]})[0]

    for ids in (whole, whole[: len(cut)], whole[: len(cut) + 1]):  # transformers.js leaves out what comes after
        np.testing.assert_allclose(logits(ids), logits(cut), atol=1e-5)


def test_an_export_has_the_files_of_hugging_faces_tools(exported):
    for name, most in (("scratch", 12), ("distilbert", 14)):
        folder = exported / "export" / name
        assert files(folder) == SHORTEST | ({INT8} if name == "distilbert" else set())
        config = AutoConfig.from_pretrained(folder)
        assert config.id2label == dict(enumerate(load(exported / "models" / name).classes))
        assert config.label2id == {label: number for number, label in config.id2label.items()}
        assert (config.problem_type, config.num_labels) == ("single_label_classification", 5)
        assert config.architectures == ["DistilBertForSequenceClassification"]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (tokenizer.model_max_length, tokenizer.pad_token) == (most, "[PAD]")
        batch = tokenizer(TEXTS, truncation=True, padding=True)
        direct = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)
        assert batch["input_ids"] == [row.ids for row in direct]
        assert batch["attention_mask"] == [row.attention_mask for row in direct]
        assert list(batch) == ["input_ids", "attention_mask"]


def test_matrices_of_the_int8_export_are_signed(exported):
    graph = onnx.load(exported / "export/distilbert" / INT8).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    matrices = [types[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert matrices
    assert set(matrices) == {onnx.TensorProto.INT8}


def test_an_exported_file_holds_no_place_of_this_machine(exported):
    for name in (MODEL, INT8):
        assert str(ROOT).encode() not in (exported / "export/distilbert" / name).read_bytes()


@pytest.mark.parametrize(("max_length", "mask_padding"), [(1, True), (2, False), (12, False)])
def test_any_number_of_positions_is_exported_and_texts_are_lower_cased(tmp_path, max_length, mask_padding, capsys):
    torch.manual_seed(0)
    layout = {"max_length": max_length, "mask_padding": mask_padding, "pad_id": 3}
    model = ScratchClassifier(replace(SIZES, convolution=3, pooling="mean_max", **layout))
    words = ["?", "who", "WHO", "<pad>", "it", "is", "king", "King"]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    vocabulary = Vocabulary("x", 30, 3, 0, [], [], "", lowercase=True)
    predictor = Predictor(TrainedModel(model, ["a", "b", "c"], max_length, vocabulary, "fp32", None), tokenizer, "cpu")
    (tmp_path / "out").mkdir()
    export_onnx(predictor, tmp_path / "out", int8=False)
    texts = ["WHO is it", "King", "is who it King is King it who is it King who"]
    for rows in together_and_alone(run_without_pytorch(tmp_path / "out"), texts):
        for row, one in zip(rows, predictor.predict(texts), strict=True):
            assert row == pytest.approx(one.probabilities, abs=1e-5)


def test_an_export_replaces_an_earlier_one_and_tells_what_eight_bits_cost(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(exported)
    folder = tmp_path / "out"
    folder.mkdir()  # an empty one is as good as none
    assert main(["export", "--model", "scratch", "--out", str(folder), "--int8"]) == 0
    said = capsys.readouterr()
    assert "models/scratch: converting to ONNX" in said.err
    pytorch, fp32, int8, _ = said.out.splitlines()
    count = len(QuestionTable.read(exported / "data/split/tiny-bert/valid.parquet"))
    assert pytorch.startswith("PyTorch") and f"on {count} validation questions" in pytorch
    assert [line.split()[:2] for line in (fp32, int8)] == [[MODEL, "accuracy"], [INT8, "accuracy"]]
    assert all("MiB" in line and "questions a second" in line for line in (fp32, int8))

    (folder / "notes").mkdir()
    (folder / "notes/model.onnx").write_text("mine")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    monkeypatch.setattr("qc.commands.export.TOLERANCE", -1.0)
    assert main(["export", "--model", "scratch", "--out", str(folder)]) == 2
    assert f"{MODEL}: its logits differ from PyTorch's by up to" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    monkeypatch.setattr("qc.commands.export.TOLERANCE", 1e-4)
    assert main(["export", "--model", "scratch", "--out", str(folder)]) == 0
    assert files(folder) == SHORTEST | {"notes/model.onnx"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_no_export_is_not_replaced(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(exported)
    (tmp_path / "precious").write_text("mine")
    assert main(["export", "--model", "scratch", "--out", str(tmp_path)]) == 2
    assert "exists and is no export" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "mine"
    assert main(["export", "--model", "none", "--out", str(tmp_path / "new")]) == 2
    assert "no such model" in capsys.readouterr().err


def installed(name, *command):
    """A folder below .state that a package client filled, once; the test fails where it cannot."""
    folder = ROOT / ".state/tools" / name
    if not folder.is_dir():
        if not shutil.which(command[0]):
            pytest.fail(f"{command[0]} not found; install it (Debian: apt-get install nodejs npm)")
        temporary = folder.with_name(f".{name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        done = subprocess.run([*command, temporary], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(temporary)
            pytest.fail(f"{' '.join(command)}: failed; make its registry reachable:\n{done.stderr}")
        temporary.rename(folder)
    return folder


def run(command, root, **env):
    """The rows of probabilities that a program prints last, of TEXTS in texts.json, by class."""
    (root / "texts.json").write_text(json.dumps(TEXTS))
    done = subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('[[{"')]


def compare(answers, root, name):
    """Whether the labels and scores that a tool lists are the model's."""
    for rows in answers:
        scores = [{found["label"]: found["score"] for found in row} for row in rows]
        classes = load(root / "models" / name).classes
        np.testing.assert_allclose(
            [[row[label] for label in classes] for row in scores], expected(root, name), atol=1e-4
        )


@pytest.mark.soak
def test_pipeline_of_transformers_opens_an_export(exported):
    packages = installed(
        "optimum-onnx-0.1.0",
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "optimum-onnx==0.1.0", "optimum==2.1.0",
        "transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2", "--target",
    )  # fmt: skip
    script = "import json\ntexts = json.load(open('texts.json'))\n"
    for name in MODELS:
        script += snippet("pipeline", name)
        for call in ("classify(texts)", "classify(texts, batch_size=99)", "classify(texts, truncation=True)"):
            script += f"print(json.dumps({call}))\n"
    script += 'ORTModelForSequenceClassification.from_pretrained("export/distilbert", file_name="model_quantized.onnx")'
    environment = {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    answers = run([sys.executable, "-c", script], exported, **environment)
    assert len(answers) == 9
    for number, name in enumerate(MODELS):
        compare(answers[3 * number :][:3], exported, name)


@pytest.mark.soak
def test_transformers_js_opens_an_export(exported):
    packages = installed(
        "transformers.js-4.3.1",
        "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "@huggingface/transformers@4.3.1", "--prefix",
    )  # fmt: skip
    (exported / "node_modules").symlink_to(packages / "node_modules")
    for name in MODELS:
        (exported / "script.mjs").write_text(
            'import fs from "node:fs";\nconst texts = JSON.parse(fs.readFileSync("texts.json"));\n'
            + snippet("javascript", name)
            + "console.log(JSON.stringify(await classify(texts, { top_k: null })));\nconst alone = [];\n"
            + "for (const text of texts) alone.push(await classify(text, { top_k: null }));\n"
            + "console.log(JSON.stringify(alone));\n"
        )
        answers = run(["node", "script.mjs"], exported)
        assert len(answers) == 2
        compare(answers, exported, name)
