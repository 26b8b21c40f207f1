"""Model cards: a model's own facts, and nothing else."""

import re

import pytest
from huggingface_hub import metadata_load

from qc.files import read_json
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
    for path in ("data/raw/train.label", "data/split/train.parquet", "data/split/valid.parquet"):
        assert pin(finished.root / path)["sha256"] in card
    assert "train: 120 questions" in card
    values = dict(re.findall(r"^\| (\w+) +\| ([^|]*?) +\|$", card, re.MULTILINE))
    assert values["seed"] == "1"
    assert values["epochs"] == "2"
    assert "- tiny.label: none" in card


def test_a_card_names_the_encoder_and_its_licence_where_there_is_one(finished):
    weights = pin(finished.root / "data/encoders/tiny-bert/model.safetensors")["sha256"]
    for name in ("prefix", "distilbert"):
        card = (finished.root / f"reports/cards/{name}.md").read_text()
        assert f"`tiny-bert`, from `nobody/tiny-bert` at `{'0' * 40}`. Its weights have SHA-256 `{weights}`" in card
        assert "- tiny-bert: none" in card
    assert "None. Only the tokenizer of tiny-bert is used." in (finished.root / "reports/cards/scratch.md").read_text()


def test_a_cards_metadata_is_what_model_hubs_read(finished):
    assert metadata_load(finished.root / "reports/cards/prefix.md") == {
        "pipeline_tag": "text-classification",
        "base_model": "nobody/tiny-bert",
    }
    assert metadata_load(finished.root / "reports/cards/scratch.md") == {"pipeline_tag": "text-classification"}


def test_a_card_warns_of_a_model_that_was_given_the_answer(restored):
    warning = "**It was trained with the fine label before each question"
    assert warning not in (restored.root / "reports/cards/scratch.md").read_text()
    restored.set("tokenize.include_fine_label", "true")
    restored.repro("evaluate")
    assert warning in (restored.root / "reports/cards/scratch.md").read_text()
