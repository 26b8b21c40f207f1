"""bert-base-uncased and distilbert-base-uncased at full size, with random weights, through the stages that use them."""

import pytest

from qc import load
from qc.files import read_json
from tests.conftest import VOCABULARY, write_encoder

pytestmark = pytest.mark.soak

WORDS = [*VOCABULARY, *(f"[unused{number}]" for number in range(30_522 - len(VOCABULARY)))]
PARAMETERS = {"bert-base-uncased": 108_891_648, "distilbert-base-uncased": 66_362_880}  # without BERT's pooler
LAYER = 7_087_872
CLASSES, FINE_CLASSES, WIDTH = 5, 10, 768


@pytest.fixture(scope="module")
def large(finished, tmp_path_factory):
    """A copy of the finished project, its questions tokenized for both encoders; one step is an epoch."""
    project = finished.clone(tmp_path_factory.mktemp("large") / "project")
    for name in PARAMETERS:
        write_encoder(project.root / "data/own" / name, vocabulary=WORDS, family=name.split("-")[0], full_size=True)
    project.set("fetch.encoders", "[data/own/bert-base-uncased, data/own/distilbert-base-uncased]")
    project.set("train_scratch.tokenizer", "bert-base-uncased")
    for section in ("train_prefix", "train_distilbert"):
        project.set(f"{section}.encoder", "bert-base-uncased")
        project.set(f"{section}.batch_size", 120)
        project.set(f"{section}.epochs", 1)
    for stage in ("fetch", "tokenize", "split"):
        project.stage(stage)
    return project


@pytest.mark.parametrize("encoder", PARAMETERS)
@pytest.mark.parametrize("name", ["prefix", "distilbert"])
def test_a_full_size_encoder_is_trained_a_step_saved_loaded_and_asked(large, encoder, name):
    large.set(f"train_{name}.encoder", encoder)
    large.stage("split")  # writes a folder for each encoder in use
    large.stage(f"train_{name}")
    found = read_json(large.root / f"reports/train_{name}.json")
    outputs = CLASSES + FINE_CLASSES
    if name == "prefix":
        own = {"trainable": (2 * 2 * 2 + outputs) * WIDTH + outputs}  # 2 keys and 2 values in 2 layers
        own["total"] = own["trainable"]
    else:
        head = WIDTH * 8 + 8 + 2 * 8 + 8 * outputs + outputs
        own = {"trainable": 2 * LAYER + head, "total": head}
    assert found["parameters"] == {"total": PARAMETERS[encoder] + own["total"], "trainable": own["trainable"]}
    assert found["epochs"] == 1
    classifier = load(large.root / f"models/{name}")
    [answer] = classifier.predict(["who is the king ?"])
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.label in classifier.classes
