"""Pretrained encoders, and the two models that stand on them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, DistilBertConfig

from qc.artifacts import read_json
from qc.batching import encode
from qc.checkpoints import fill, read_config, read_weights, save_model, write_config
from qc.classifiers import load_classifier
from qc.errors import QcError
from qc.frozen import cache_frozen
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import Encoder, EncoderConfig
from qc.models.prefix import PrefixClassifier
from qc.pretrained import encoder_files, load_encoder
from qc.training import predict
from qc.vocabulary import describe_vocabulary
from tests.conftest import VOCABULARY, file_size_limit, pin, write_encoder, write_record

IDS = torch.tensor([[2, 5, 9, 11, 3, 0, 0], [2, 8, 7, 6, 10, 12, 3]])
SPECIAL = {"pad": 0, "unknown": 1, "before": 2, "after": 3}
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()


@pytest.fixture(params=["bert", "distilbert"])
def folder(request, tmp_path):
    write_encoder(tmp_path / "encoder", family=request.param)
    return tmp_path / "encoder"


def distilbert(folder, trainable_layers=2, pooling="mean"):
    torch.manual_seed(3)
    return DistilbertClassifier(load_encoder(folder), trainable_layers, 8, 0.3, pooling, classes=5)


def prefix(folder, prefix_length=4):
    torch.manual_seed(3)
    return PrefixClassifier(load_encoder(folder), prefix_length, classes=5)


MODELS = {
    "distilbert mean": distilbert,
    "distilbert cls": lambda folder: distilbert(folder, pooling="cls"),
    "distilbert all layers": lambda folder: distilbert(folder, trainable_layers=3),
    "prefix": prefix,
    "head alone": lambda folder: prefix(folder, prefix_length=0),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def test_the_encoder_equals_transformers(folder):
    reference = AutoModel.from_pretrained(folder).eval()
    expected = reference(IDS, attention_mask=MASK.long()).last_hidden_state
    found = load_encoder(folder).eval()(IDS, MASK)
    torch.testing.assert_close(found[MASK], expected[MASK], atol=1e-5, rtol=1e-4)


def test_older_published_names_are_understood(folder):
    expected = load_encoder(folder).eval()(IDS, MASK)
    family = read_json(folder / "config.json")["model_type"]
    tensors = {
        f"{family}.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in load_file(folder / "model.safetensors").items()
    }
    save_file({**tensors, "cls.predictions.bias": torch.zeros(3)}, folder / "model.safetensors")
    assert torch.equal(load_encoder(folder).eval()(IDS, MASK), expected)


def test_weights_of_another_shape_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file({**tensors, name: torch.zeros(3, 16)}, folder / "model.safetensors")
    with pytest.raises(QcError, match=r"embeddings\.words\.weight has shape \(3, 16\)"):
        load_encoder(folder)


def test_missing_weights_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "layer.2" not in name}, folder / "model.safetensors")
    with pytest.raises(QcError, match=r"no weights for layers\.2"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta' is not supported; allowed: bert, distilbert"),
        ({"hidden_size": None}, "hidden_size missing"),
        ({"hidden_act": "swish"}, "activation 'swish' is not supported; allowed: relu, gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_an_unsupported_architecture_is_refused(tmp_path, change, message):
    write_encoder(tmp_path)
    config = read_json(tmp_path / "config.json") | change
    with pytest.raises(QcError, match=message):
        EncoderConfig.from_published({key: value for key, value in config.items() if value is not None})


@every_model
def test_logits_have_one_row_a_question_and_one_column_a_class(folder, make):
    assert make(folder).eval()(IDS, MASK).shape == (2, 5)


@every_model
def test_padding_never_changes_logits(folder, make):
    model = make(folder).eval()
    torch.testing.assert_close(model(IDS, MASK)[:1], model(IDS[:1, :5], None), atol=1e-5, rtol=1e-4)
    other = torch.where(MASK, IDS, 13)
    torch.testing.assert_close(model(other, MASK), model(IDS, MASK))


@every_model
@pytest.mark.parametrize("memory", [1, 0])
def test_the_frozen_part_can_be_run_once_and_kept_in_memory_or_on_disk(folder, make, memory, tmp_path):
    model = make(folder)
    questions = encode([[5, 9, 11], [8, 7, 6, 10, 12], [4], [9] * 8], [0, 1, 2, 3], 30, (2, 3), pad_id=0)
    cached = cache_frozen(model, questions, "fp32", memory, tmp_path / "state")
    torch.testing.assert_close(predict(model, cached), predict(model, questions))
    assert (tmp_path / "state").exists() == (memory == 0)
    assert not list(tmp_path.glob("state/*"))


def test_without_a_prefix_the_pooled_vectors_are_what_is_kept(folder, tmp_path):
    model = PrefixClassifier(load_encoder(folder), 0, 5)
    questions = encode([[5, 9, 11], [8, 7, 6, 10, 12]], [0, 1], 30, (2, 3), pad_id=0)
    assert cache_frozen(model, questions, "fp32", 1, tmp_path).values.shape == (2, 16)


def test_no_room_for_the_frozen_parts_output_is_an_error_that_names_the_remedy(folder, tmp_path):
    model = PrefixClassifier(load_encoder(folder), 2, 5)
    questions = encode([[5] * 20] * 50, [0] * 50, 30, (2, 3), pad_id=0)
    with file_size_limit(10_000), pytest.raises(QcError, match="File too large; free some, or set cache_frozen: false"):
        cache_frozen(model, questions, "fp32", 0, tmp_path / "state")
    assert not list(tmp_path.glob("state/*"))


def test_only_prefix_and_head_learn(folder):
    model = prefix(folder)
    model(IDS, MASK).sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"prefix", "head.weight", "head.bias"}
    assert model.prefix.grad.abs().sum(dim=1).min() > 0


def test_the_prefix_stands_before_the_word_embeddings_as_more_words_would(folder):
    model = prefix(folder).eval()
    reference = AutoModel.from_pretrained(folder).eval()
    vectors = torch.cat((model.prefix.expand(2, -1, -1), reference.get_input_embeddings()(IDS)), dim=1)
    seen = torch.cat((torch.ones(2, 4, dtype=torch.long), MASK.long()), dim=1)
    hidden = reference(inputs_embeds=vectors, attention_mask=seen).last_hidden_state[:, 4:]
    means = torch.stack([row[real].mean(dim=0) for row, real in zip(hidden, MASK, strict=True)])
    torch.testing.assert_close(model(IDS, MASK), model.head(means), atol=1e-5, rtol=1e-4)


def test_every_token_sees_the_prefix_but_the_mean_leaves_it_out(folder):
    model = prefix(folder).eval()
    before = model(IDS, MASK)
    with torch.no_grad():
        model.prefix.normal_()
    assert not torch.allclose(model(IDS, MASK), before)
    # With all attention and feed-forward outputs at zero, positions do not mix: then the prefix must not matter.
    with torch.no_grad():
        for layer in model.encoder.layers:
            for part in (layer.attention.out, layer.feed_forward.outer):
                part.weight.zero_()
                part.bias.zero_()
    isolated = model(IDS, MASK)
    with torch.no_grad():
        model.prefix.normal_()
    torch.testing.assert_close(model(IDS, MASK), isolated)


def test_the_prefix_starts_with_the_asked_spread(folder):
    torch.manual_seed(0)
    model = PrefixClassifier(load_encoder(folder), 200, classes=5, prefix_std=0.1)
    assert model.prefix.std().item() == pytest.approx(0.1, rel=0.05)


def test_only_the_last_layers_and_the_head_learn(folder):
    model = distilbert(folder, trainable_layers=1)
    model.train()(IDS, MASK).sum().backward()
    learning = {
        name.split(".")[0] + "." + name.split(".")[2] for name, p in model.named_parameters() if p.grad is not None
    }
    assert {name for name in learning if name.startswith("encoder")} == {"encoder.2"}
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_what_is_frozen_runs_without_dropout_while_training(folder):
    model = distilbert(folder, trainable_layers=1).train()
    assert torch.equal(model.frozen(IDS, MASK), model.frozen(IDS, MASK))
    assert not torch.equal(model(IDS, MASK), model(IDS, MASK))
    frozen = prefix(folder).train()
    assert torch.equal(frozen(IDS, MASK), frozen(IDS, MASK))


@pytest.mark.parametrize("place", ["attention", "residuals", "head"])
def test_every_dropout_of_what_is_fine_tuned_drops_while_training(folder, place):
    model = distilbert(folder, trainable_layers=1).train()
    layer, head = model.encoder.layers[-1], model.head[3]
    layer.attention.dropout, layer.dropout.p, head.p = (
        0.5 if place == each else 0.0 for each in ("attention", "residuals", "head")
    )
    assert not torch.equal(model(IDS, MASK), model(IDS, MASK))
    layer.attention.dropout = layer.dropout.p = head.p = 0.0
    assert torch.equal(model(IDS, MASK), model(IDS, MASK))


def test_an_added_token_counts_in_the_vocabulary(folder):
    path = folder / "tokenizer.json"
    content = read_json(path)
    content["added_tokens"] = [{"id": len(VOCABULARY), "content": "[NEW]", "special": True}]
    path.write_text(json.dumps(content))
    found = describe_vocabulary(folder)
    assert found["size"] == len(VOCABULARY) + 1
    assert found["sha256"] != pin(folder / "vocab.txt")["sha256"]
    assert found["special_ids"] == SPECIAL


def saved(make, folder, tmp_path, name, sizes):
    """Save a model beside its encoder; the model folder."""
    config = {
        "model": name,
        "labels": {"classes": list("abcde")},
        "vocabulary": {
            "tokenizer": folder.name,
            "special_ids": SPECIAL,
            "lowercase": True,
            "include_fine_label": False,
        },
        "max_length": 10,
        "special_ids": [2, 3],
        "encoder": folder.name,
        "files": encoder_files(folder),
        "sizes": sizes,
    }
    model = make(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(tmp_path / name, model, config, "a card")
    return tmp_path / name, model.eval()


DISTILBERT_SIZES = {"trainable_layers": 2, "head_width": 8, "dropout": 0.3, "pooling": "mean", "classes": 5}


@pytest.mark.parametrize(
    ("make", "name", "sizes"),
    [
        (distilbert, "distilbert", DISTILBERT_SIZES),
        (prefix, "prefix", {"prefix_length": 4, "classes": 5}),
        (MODELS["head alone"], "prefix", {"prefix_length": 0, "classes": 5}),
    ],
)
def test_a_loaded_model_gives_the_saved_models_logits(folder, tmp_path, make, name, sizes):
    path, model = saved(make, folder, tmp_path, name, sizes)
    loaded = load_classifier(path, tmp_path).model.eval()
    assert torch.equal(loaded(IDS, MASK), model(IDS, MASK))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert read_weights(path / "model.safetensors").keys() == trainable


def test_an_encoder_with_other_weights_is_refused(folder, tmp_path):
    path, _ = saved(distilbert, folder, tmp_path, "distilbert", DISTILBERT_SIZES)
    write_encoder(folder, seed=9, family=read_json(folder / "config.json")["model_type"])
    with pytest.raises(QcError, match=r"SHA-256 [0-9a-f]{64}, but .*config.json was trained with [0-9a-f]{64}"):
        load_classifier(path, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_the_encoder_that_was_changed_is_refused_whatever_its_record_says(folder, tmp_path, name):
    path, _ = saved(distilbert, folder, tmp_path, "distilbert", DISTILBERT_SIZES)
    if name == "config.json":
        (folder / name).write_text(json.dumps(read_json(folder / name) | {"layer_norm_eps": 0.1}))
    else:
        tensors = load_file(folder / name)
        save_file({key: tensor + 0.01 for key, tensor in tensors.items()}, folder / name)
    write_record(folder)
    with pytest.raises(QcError, match=f"encoder/{name}: SHA-256 .* was trained with "):
        load_classifier(path, tmp_path)


def test_a_missing_encoder_is_refused(folder, tmp_path):
    path, _ = saved(prefix, folder, tmp_path, "prefix", {"prefix_length": 4, "classes": 5})
    with pytest.raises(QcError, match=r"no such encoder; name it under fetch\.encoders"):
        load_classifier(path, tmp_path / "elsewhere")


def test_a_broken_model_folder_is_refused(folder, tmp_path):
    path, _ = saved(prefix, folder, tmp_path, "prefix", {"prefix_length": 4, "classes": 5})
    write_config(path, read_config(path) | {"sizes": {"prefix_length": 7, "classes": 5}})
    with pytest.raises(QcError, match=r"prefix has shape \(4, 16\), not \(7, 16\)"):
        load_classifier(path, tmp_path)
    config = read_config(path)
    write_config(path, {"model": "other"})
    with pytest.raises(QcError, match="not a model of this version"):
        load_classifier(path, tmp_path)
    (path / "model.safetensors").write_bytes(b"\x00" * 20)
    write_config(path, config)
    with pytest.raises(QcError, match=r"model\.safetensors: SHA-256 "):
        load_classifier(path, tmp_path)
    write_config(path, config | {"files": {}})
    with pytest.raises(QcError, match="cannot be read"):
        load_classifier(path, tmp_path)


def test_tensors_of_another_model_are_refused(folder):
    model = prefix(folder)
    with pytest.raises(QcError, match="does not fit"):
        fill(model, {"head.weight": model.head.weight}, folder)


def test_the_vocabularys_hash_is_that_of_the_published_file(folder):
    found = describe_vocabulary(folder)
    assert found["sha256"] == pin(folder / "vocab.txt")["sha256"]
    assert found["size"] == len(VOCABULARY)
    assert found["special_ids"] == SPECIAL


def test_the_notebooks_fine_tuning_has_the_notebooks_sizes(tmp_path):
    config = EncoderConfig.from_published(DistilBertConfig().to_dict())
    model = DistilbertClassifier(Encoder(config), 2, 256, 0.3, "cls", classes=6)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in model.parameters()) == 66_561_798
    assert sum(parameter.numel() for parameter in trainable) == 14_374_662
    save_model(tmp_path / "model", model, {"files": {}}, "a card")
    # 54.85 MB (of 2^20 bytes) as a pickle, whose table of contents takes some 12 kB more.
    assert (tmp_path / "model/model.safetensors").stat().st_size / 2**20 == pytest.approx(54.85, abs=0.02)
