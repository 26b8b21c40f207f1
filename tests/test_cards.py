"""Model cards: a model's own facts, and nothing else."""

import re

import pytest
from huggingface_hub import ModelCard

from qc.files import read_json, write_json
from qc.inference.model_folder import read_config, write_config
from tests.conftest import CLASSES, pin

MODELS = ("scratch", "prefix", "distilbert")


@pytest.mark.parametrize("name", MODELS)
def test_a_card_tells_the_models_own_facts(finished, name):
    card = (finished.root / f"reports/cards/{name}.md").read_text(encoding="utf-8")
    metrics = read_json(finished.root / f"reports/train_{name}.json")
    scores = read_json(finished.root / "reports/test.json")[name]
    assert f"| {metrics['valid']['accuracy']:.3f} |" in card
    assert f"| test | 15 | {scores['accuracy']:.3f} ({scores['accuracy_low']:.3f} to" in card
    assert f"{metrics['parameters']['trainable']:,} of {metrics['parameters']['total']:,} parameters" in card
    assert ", ".join(sorted(CLASSES)) in card
    assert f"`tiny.label`, {pin(finished.root / 'data/raw/train.label')['bytes']} bytes" in card
    for path in ("data/raw/train.label", "data/split/tiny-bert/train.parquet", "data/split/tiny-bert/valid.parquet"):
        assert pin(finished.root / path)["sha256"] in card
    assert "train: 120 questions" in card
    values = dict(re.findall(r"^\| (\w+) +\| ([^|]*?) +\|$", card, re.MULTILINE))
    assert values["seed"] == "1"
    assert values["epochs"] == "2"
    assert "- tiny.label: none" in card
    temperature = scores["calibrated"]["temperature"]
    fitted = "not calibrated (T = 1, none could" if temperature is None else f"{temperature:.2f}, with which the ECE"
    assert f"Softmax temperature, fitted on validation: {fitted}" in card


def test_a_card_names_the_encoder_and_its_licence_where_there_is_one(finished):
    weights = pin(finished.root / "data/encoders/tiny-bert/model.safetensors")["sha256"]
    for name in ("prefix", "distilbert"):
        card = (finished.root / f"reports/cards/{name}.md").read_text()
        assert f"`tiny-bert`, from `nobody/tiny-bert` at `{'0' * 40}`. Its weights have SHA-256 `{weights}`" in card
        assert "- tiny-bert: none" in card
    assert "None. Only the tokenizer of tiny-bert is used." in (finished.root / "reports/cards/scratch.md").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_a_cards_metadata_is_what_model_hubs_read(finished, name):
    data = ModelCard.load(finished.root / f"reports/cards/{name}.md").data
    assert data.pipeline_tag == "text-classification"
    assert data.base_model == (None if name == "scratch" else "nobody/tiny-bert")
    assert data.model_name == name
    scores = read_json(finished.root / "reports/test.json")[name]
    assert [(result.metric_type, result.metric_name, result.metric_value) for result in data.eval_results] == [
        ("accuracy", "accuracy", scores["accuracy"]),
        ("f1", "macro F1", scores["macro_f1"]),
        ("log_loss", "log loss", scores["loss"]),
        ("ece", "expected calibration error", scores["ece"]),
    ]
    assert {(score.task_type, score.dataset_name, score.dataset_split) for score in data.eval_results} == {
        ("text-classification", "tiny.label", "test")
    }


def test_a_card_says_what_each_file_is_for_and_warns_of_a_model_that_was_given_the_answer(restored):
    files = restored.root / "data/raw/files.json"
    about = read_json(files)["train"]
    write_json(files, {"train": about} | {key: about | {"name": f"{key}.csv"} for key in ("test", "corrections")})
    card, model = restored.root / "reports/cards/scratch.md", restored.root / "models/scratch"
    warning = "**It was trained with the fine label before each question"
    assert warning not in card.read_text()
    config = read_config(model)
    write_config(model, config | {"vocabulary": config["vocabulary"] | {"include_fine_label": True}})
    restored.stage("evaluate")
    text = card.read_text()
    assert warning in text
    assert re.findall("^- (.*), .* bytes", text, re.MULTILINE) == [
        "training questions: `tiny.label`",
        "official test questions, which training does not see: `test.csv`",
        "corrected labels of training questions: `corrections.csv`",
    ]
    assert re.search(r"^\| parameter +\| value +\|$", text, re.MULTILINE)
    assert {score.dataset_name for score in ModelCard.load(card).data.eval_results} == {"test.csv"}
