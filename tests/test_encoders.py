"""Pretrained encoders, and the two models that stand on them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, DistilBertConfig

from qc.commands.export import MODEL, export_onnx, onnx_logits, open_onnx
from qc.errors import QcError
from qc.files import read_json
from qc.inference.batches import pack
from qc.inference.logits import predict
from qc.inference.model_folder import load_model, read_config, save_model, write_config
from qc.inference.predictor import Predictor
from qc.inference.weights import load_trained_weights, read_weights
from qc.models.common import use_attention
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import Encoder
from qc.models.prefix import PrefixClassifier
from qc.models.encoder import load_encoder
from qc.questions.tokenizers import Vocabulary, load_tokenizer
from qc.training.data import hash_encoder
from qc.training.loop import fit
from qc.training.precomputed import cast_frozen, precompute_frozen
from tests.conftest import FAMILIES, file_size_limit, in_soak, write_encoder, write_record
from tests.test_training import CONFIG, changed

IDS = torch.tensor([[2, 5, 9, 11, 3, 0, 0], [2, 8, 7, 6, 10, 12, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
TEXTS = ["who is the king", "why", "where is the house of the dog", "many cat a river"]


@pytest.fixture(params=["bert", "distilbert"])
def folder(request, tmp_path):
    write_encoder(tmp_path / "encoder", family=request.param)
    return tmp_path / "encoder"


@pytest.fixture(params=FAMILIES)
def any_folder(request, tmp_path):
    """An encoder of each family that is tried."""
    write_encoder(tmp_path / "encoder", family=request.param)
    return tmp_path / "encoder"


def family_of(folder):
    return read_json(folder / "config.json")["model_type"]


def distilbert(folder, trainable_layers=2, pooling="mean"):
    torch.manual_seed(3)
    return DistilbertClassifier(load_encoder(folder, trainable_layers), 8, 0.3, pooling, classes=5)


def prefix(folder, prefix_length=4, layers="all"):
    torch.manual_seed(3)
    return PrefixClassifier(load_encoder(folder, layers), prefix_length, classes=5)


EXPORTED_WITH_PREFIX = ("bert", "mpnet", "deberta-v2", "modernbert")  # an export takes seconds


NOTHING_FROZEN = ("distilbert all layers", "distilbert all", "prefix")  # every layer is trained, or attends to a prefix
MODELS = {
    "distilbert mean": distilbert,
    "distilbert cls": lambda folder: distilbert(folder, pooling="cls"),
    "distilbert all layers": lambda folder: distilbert(folder, trainable_layers=3),
    "distilbert all": lambda folder: distilbert(folder, trainable_layers="all"),
    "distilbert head alone": lambda folder: distilbert(folder, trainable_layers=0),
    "prefix": prefix,
    "prefix of two layers": lambda folder: prefix(folder, layers=2),
    "head alone": lambda folder: prefix(folder, prefix_length=0),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
KEEPING = {name: make for name, make in MODELS.items() if name not in NOTHING_FROZEN}


def trainable_of(folder):
    """What may be asked of a family: ALBERT's layers share their weights."""
    return (0, "all") if family_of(folder) == "albert" else (0, 1, 2, 3, "all")


def reference_of(folder):
    """The encoder as `transformers` alone has it."""
    return AutoModel.from_pretrained(folder).eval()


def test_an_encoder_gives_what_transformers_gives(any_folder):
    reference, encoder = reference_of(any_folder), load_encoder(any_folder)
    ids = IDS.where(MASK, reference.config.pad_token_id)
    with torch.no_grad():
        expected = reference(ids, attention_mask=MASK.long()).last_hidden_state
        torch.testing.assert_close(encoder(encoder.words(ids, MASK), MASK)[MASK], expected[MASK], atol=1e-6, rtol=1e-5)


def test_the_encoder_in_two_halves_equals_the_whole_to_the_bit(any_folder):
    reference = reference_of(any_folder)
    use_attention(reference)
    ids = IDS.where(MASK, reference.config.pad_token_id)
    with torch.no_grad():
        expected = reference(ids, attention_mask=MASK.long()).last_hidden_state
        for trainable in trainable_of(any_folder):
            encoder = load_encoder(any_folder, trainable)
            lower = encoder.lower(encoder.words(ids, MASK), MASK)
            assert torch.equal(encoder.upper(lower, MASK)[MASK], expected[MASK]), trainable


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_a_layer_runs_in_one_half_alone(tmp_path, family):
    write_encoder(tmp_path, family=family)
    encoder, ran = load_encoder(tmp_path, 1), []
    for number, layer in enumerate(encoder.model.get_submodule(encoder._layers_name())):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    hidden = encoder.lower(encoder.words(IDS, MASK), MASK)
    assert ran == [0, 1]
    encoder.upper(hidden, MASK)
    assert ran == [0, 1, 2]


def test_layers_that_share_their_weights_cannot_be_parted(tmp_path):
    write_encoder(tmp_path, family="albert")
    with pytest.raises(QcError, match=r"upper_layers: invalid value 1; expected all, .*'albert'"):
        load_encoder(tmp_path, 1)


def test_more_layers_than_there_are_cannot_be_trained(folder):
    with pytest.raises(QcError, match=r"upper_layers: invalid value 4; expected at most 3"):
        load_encoder(folder, 4)


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("modernbert", 40)])
def test_the_longest_sequence_is_what_the_position_table_allows(tmp_path, family, longest):
    write_encoder(tmp_path, family=family)
    encoder = load_encoder(tmp_path)
    assert encoder.max_positions == longest
    ids = torch.full((1, longest), 5)
    assert encoder(encoder.words(ids, None), None).shape == (1, longest, 16)
    if family != "modernbert":  # which has no table
        with pytest.raises((IndexError, RuntimeError)):
            encoder(encoder.words(torch.full((1, longest + 1), 5), None), None)


def test_older_published_names_are_understood(tmp_path):
    write_encoder(tmp_path)
    expected = load_encoder(tmp_path)(IDS.float()[..., None].expand(-1, -1, 16), MASK)
    tensors = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in load_file(tmp_path / "model.safetensors").items()
    }
    save_file({**tensors, "cls.predictions.bias": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_encoder(tmp_path)(IDS.float()[..., None].expand(-1, -1, 16), MASK), expected)


def test_weights_of_another_shape_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file({**tensors, name: torch.zeros(3, 16)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(QcError, match=r"encoder/config\.json: transformers cannot build this encoder: .*size"):
        load_encoder(folder)


def test_missing_weights_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if "layer.2" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(QcError, match=r"no weights for .*layer\.2"):
        load_encoder(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_broken_weights_are_refused(folder, content):
    path = folder / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(QcError, match=r"model\.safetensors: (no such|cannot be read).* fetch stage brings it back"):
        load_encoder(folder)


def test_a_pickle_is_never_read(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(QcError, match=r"model\.safetensors: no such file"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is a decoder, or does not read text; take an encoder such as BERT"),
        ({"model_type": "llama"}, "'llama' is a decoder"),
        ({"model_type": "vit"}, "'vit' is a decoder, or does not read text"),
        ({"is_decoder": True}, "'bert' is a decoder"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder; take an encoder such as BERT"),
        ({"model_type": "t5"}, "'t5' is an encoder-decoder"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}, "needs code from its repository"),
        ({"model_type": "mine"}, "'mine' is unknown to this version of transformers"),
        ({"model_type": None}, "None is unknown"),
        ({"hidden_act": "none such"}, "transformers cannot build this encoder"),
        ({"hidden_size": 17}, "transformers cannot build this encoder"),
    ],
)
def test_what_is_no_encoder_is_refused(tmp_path, change, message):
    write_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(read_json(tmp_path / "config.json") | change))
    with pytest.raises(QcError, match=message):
        load_encoder(tmp_path)


def test_loading_draws_nothing_from_the_generator_of_what_follows(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_encoder(folder, 1)
    assert torch.equal(torch.rand(2), expected)


@every_model
def test_logits_have_one_row_a_question_and_one_column_a_class(folder, make):
    assert make(folder).eval()(IDS, MASK).shape == (2, 5)


def late(folder):
    """A prefix before the last two layers, where the layers can be parted."""
    return prefix(folder, layers="all" if family_of(folder) == "albert" else 2)


@pytest.mark.parametrize("make", [prefix, late, MODELS["head alone"], lambda folder: distilbert(folder, "all", "cls")])
def test_padding_never_changes_logits(any_folder, make):
    model = make(any_folder).eval()
    torch.testing.assert_close(model(IDS, MASK)[:1], model(IDS[:1, :5], None), atol=1e-5, rtol=1e-4)
    other = torch.where(MASK, IDS, 13)
    assert torch.equal(model(other, MASK), model(IDS, MASK))


@pytest.mark.parametrize("make", KEEPING.values(), ids=KEEPING.keys())
@pytest.mark.parametrize("memory", [1, 0])
def test_the_frozen_part_can_be_run_once_and_kept_in_memory_or_on_disk(folder, make, memory, tmp_path):
    model = make(folder)
    assert model.has_frozen_part
    questions = pack(
        [[2, *ids, 3] for ids in ([5, 9, 11], [8, 7, 6, 10, 12], [4], [9] * 8)], [0, 1, 2, 3], 30, (1, 1), pad_id=0
    )
    cached = precompute_frozen(model, questions, "fp32", memory, tmp_path / "state")
    torch.testing.assert_close(predict(model, cached), predict(model, questions))
    assert (tmp_path / "state").exists() == (memory == 0)
    assert not list(tmp_path.glob("state/*"))


@pytest.mark.parametrize("name", NOTHING_FROZEN)
def test_a_model_with_nothing_frozen_keeps_nothing(folder, name):
    assert not MODELS[name](folder).has_frozen_part


def test_without_a_prefix_the_pooled_vectors_are_what_is_kept(folder, tmp_path):
    model = PrefixClassifier(load_encoder(folder), 0, 5)
    questions = pack([[2, 5, 9, 11, 3], [2, 8, 7, 6, 10, 12, 3]], [0, 1], 30, (1, 1), pad_id=0)
    assert precompute_frozen(model, questions, "fp32", 1, tmp_path).values.shape == (2, 16)


def test_no_room_for_the_frozen_parts_output_is_an_error_that_names_the_remedy(folder, tmp_path):
    model = distilbert(folder, 1)
    questions = pack([[5] * 20] * 50, [0] * 50, 30, pad_id=0)
    with file_size_limit(10_000), pytest.raises(QcError, match="File too large; free some, or set cache_frozen: false"):
        precompute_frozen(model, questions, "fp32", 0, tmp_path / "state")
    assert not list(tmp_path.glob("state/*"))


def learning(model):
    """Names of the parameters that a step would change."""
    model.train()(IDS, MASK).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("make", [prefix, late])
def test_only_prefix_and_head_learn(any_folder, make):
    model = make(any_folder)
    assert learning(model) == {"prefix", "head.weight", "head.bias"}
    assert model.prefix.grad.abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("length", [0, 4])
def test_the_prefix_stands_before_the_word_vectors_as_more_words_would(any_folder, length):
    model = prefix(any_folder, length).eval()
    reference = reference_of(any_folder)
    for row, real in zip(IDS, MASK, strict=True):
        words = reference.get_input_embeddings()(row[real])[None]
        vectors = torch.cat((model.prefix[None], words), dim=1) if length else words
        hidden = reference(inputs_embeds=vectors).last_hidden_state[:, length:]
        expected = model.head(hidden.mean(dim=1))
        torch.testing.assert_close(model(row[None], real[None])[:1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_late_prefix_stands_before_what_its_first_layer_is_given(folder, layers):
    model, reference = prefix(folder, layers=layers).eval(), reference_of(folder)
    layer = reference.get_submodule(model.encoder._layers_name())[-layers]
    layer.register_forward_pre_hook(lambda _, inputs: (torch.cat((model.prefix[None], inputs[0]), dim=1), *inputs[1:]))
    row = IDS[1:]
    expected = model.head(reference(row).last_hidden_state[:, len(model.prefix) :].mean(dim=1))
    torch.testing.assert_close(model(row, None), expected, atol=1e-5, rtol=1e-4)


def test_every_layer_of_a_late_prefix_equals_a_prefix_before_the_words(folder):
    assert torch.equal(prefix(folder, layers=3)(IDS, MASK), prefix(folder)(IDS, MASK))


def test_every_token_sees_the_prefix_but_the_mean_leaves_it_out(folder):
    model = prefix(folder).eval()
    before = model(IDS, MASK)
    with torch.no_grad():
        model.prefix.normal_()
    assert not torch.allclose(model(IDS, MASK), before)
    # With all attention and feed-forward outputs at zero, positions do not mix: then the prefix must not matter.
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if any(part in name for part in ("output.dense", "attention.out_lin", "ffn.lin2")):
                parameter.zero_()
    isolated = model(IDS, MASK)
    with torch.no_grad():
        model.prefix.normal_()
    torch.testing.assert_close(model(IDS, MASK), isolated)


def test_the_prefix_starts_with_the_asked_spread(folder):
    torch.manual_seed(0)
    model = PrefixClassifier(load_encoder(folder, "all"), 200, classes=5, prefix_std=0.1)
    assert model.prefix.std().item() == pytest.approx(0.1, rel=0.05)


def test_only_what_is_to_be_trained_learns(any_folder):
    for trainable in trainable_of(any_folder):
        model = distilbert(any_folder, trainable)
        found = {name.removeprefix("encoder.model.") for name in learning(model) if name.startswith("encoder.")}
        layers = {name for name in found if "layer" in name.lower().partition(".norm")[0]}
        if trainable == "all":
            assert any("embeddings" in name for name in found)
        elif trainable == 0:
            assert not found
        else:
            name = model.encoder._layers_name()
            wanted = tuple(f"{name}.{number}." for number in range(3 - trainable, 3))
            assert found
            assert all(each.startswith((*wanted, "final_norm")) for each in found)
            assert {each[: len(wanted[0])] for each in layers} >= set(wanted)
        assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_what_is_frozen_runs_without_dropout_while_training(any_folder):
    frozen = prefix(any_folder).train()
    assert torch.equal(frozen(IDS, MASK), frozen(IDS, MASK))
    for trainable in trainable_of(any_folder)[1:-1]:
        model = distilbert(any_folder, trainable).train()
        if trainable < 3:
            assert torch.equal(model.frozen_features(IDS, MASK), model.frozen_features(IDS, MASK))
        embeddings = model.encoder.model.embeddings
        assert not any(module.training for module in embeddings.modules())


def test_every_dropout_of_what_is_trained_drops(any_folder):
    model = distilbert(any_folder, trainable_of(any_folder)[-1]).train()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert model.head[3] in dropouts
    assert all(module.training for module in dropouts)
    assert not torch.equal(model(IDS, MASK), model(IDS, MASK))


@pytest.mark.parametrize("any_folder", in_soak(FAMILIES, but="bert"), indirect=True)
@pytest.mark.parametrize(("name", "layers"), [("prefix", "all"), ("prefix", 1), ("distilbert", 1)])
def test_every_family_is_trained_saved_loaded_and_exported(any_folder, tmp_path, name, layers):
    layers = "all" if family_of(any_folder) == "albert" else layers
    tokenizer = load_tokenizer(any_folder)
    vocabulary = Vocabulary.of_encoder(any_folder, tokenizer)
    sizes = DISTILBERT_SIZES if name == "distilbert" else {"prefix_length": 3, "classes": 5}
    kind = DistilbertClassifier if name == "distilbert" else PrefixClassifier
    model = kind(load_encoder(any_folder, layers), **sizes)
    ids = [found.ids for found in tokenizer.encode_batch(TEXTS)]
    assert all(row[:1] == vocabulary.before and row[-1:] == vocabulary.after for row in ids)
    questions = pack(ids, [2, 1, 3, 4], 10, (1, 1), pad_id=vocabulary.pad_id)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, questions, questions, changed(CONFIG, epochs=1), seed=1)
    trained = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert trained
    assert all(model.get_parameter(name).requires_grad for name in trained)

    save_model(tmp_path / "m", model, about(any_folder, name, layers, sizes, vocabulary))
    classifier = load_model(tmp_path / "m", tmp_path)
    logits = predict(model, questions)
    torch.testing.assert_close(predict(classifier.model, questions), logits)
    predictor = Predictor(classifier, tokenizer, "cpu")
    found = predictor.predict(TEXTS)
    expected = logits.double().softmax(dim=1)
    for row, one in zip(expected, found, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)

    if name == "prefix" and family_of(any_folder) not in EXPORTED_WITH_PREFIX:
        return
    (tmp_path / "onnx").mkdir()
    export_onnx(predictor, tmp_path / "onnx", int8=False)
    exported, _ = onnx_logits(open_onnx(tmp_path / "onnx" / MODEL), questions)
    torch.testing.assert_close(torch.from_numpy(exported), logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("trained", [prefix, lambda folder: distilbert(folder, "all")])
def test_every_family_runs_in_bf16_with_frozen_matrices_kept_in_it(any_folder, trained):
    model = trained(any_folder).eval()
    expected = model(IDS, MASK)
    cast_frozen(model, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        found = model(IDS, MASK)
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def about(folder, name, upper_layers, sizes, vocabulary):
    """A model's config.json."""
    return {
        "model": name,
        "labels": {"classes": list("abcde")},
        "vocabulary": vocabulary.record(),
        "max_length": 10,
        "upper_layers": upper_layers,
        "encoder": folder.name,
        "files": hash_encoder(folder),
        "sizes": sizes,
    }


def saved(make, folder, tmp_path, name, sizes):
    """Save a model beside its encoder; the model folder."""
    model = make(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    vocabulary = Vocabulary.of_encoder(folder, load_tokenizer(folder))
    config = about(folder, name, model.encoder.upper_layers, sizes, vocabulary)
    save_model(tmp_path / name, model, config)
    return tmp_path / name, model.eval()


DISTILBERT_SIZES = {"head_hidden_size": 8, "dropout": 0.3, "pooling": "mean", "classes": 5}


@pytest.mark.parametrize(
    ("make", "name", "sizes"),
    [
        (distilbert, "distilbert", DISTILBERT_SIZES),
        (prefix, "prefix", {"prefix_length": 4, "classes": 5}),
        (MODELS["prefix of two layers"], "prefix", {"prefix_length": 4, "classes": 5}),
        (MODELS["head alone"], "prefix", {"prefix_length": 0, "classes": 5}),
    ],
)
def test_a_loaded_model_gives_the_saved_models_logits(folder, tmp_path, make, name, sizes):
    path, model = saved(make, folder, tmp_path, name, sizes)
    loaded = load_model(path, tmp_path).model.eval()
    assert torch.equal(loaded(IDS, MASK), model(IDS, MASK))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert read_weights(path / "model.safetensors").keys() == trainable


def test_an_encoder_with_other_weights_is_refused(folder, tmp_path):
    path, _ = saved(distilbert, folder, tmp_path, "distilbert", DISTILBERT_SIZES)
    write_encoder(folder, seed=9, family=read_json(folder / "config.json")["model_type"])
    with pytest.raises(QcError, match=r"SHA-256 [0-9a-f]{64}, but .*config.json was trained with [0-9a-f]{64}"):
        load_model(path, tmp_path)


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
        load_model(path, tmp_path)


def test_a_missing_encoder_is_refused(folder, tmp_path):
    path, _ = saved(prefix, folder, tmp_path, "prefix", {"prefix_length": 4, "classes": 5})
    with pytest.raises(QcError, match=r"no such encoder; name it under fetch\.encoders"):
        load_model(path, tmp_path / "elsewhere")


def test_a_broken_model_folder_is_refused(folder, tmp_path):
    path, _ = saved(prefix, folder, tmp_path, "prefix", {"prefix_length": 4, "classes": 5})
    write_config(path, read_config(path) | {"sizes": {"prefix_length": 7, "classes": 5}})
    with pytest.raises(QcError, match=r"prefix has shape \(4, 16\), not \(7, 16\)"):
        load_model(path, tmp_path)
    config = read_config(path)
    write_config(path, {"model": "other"})
    with pytest.raises(QcError, match="not a model of this version"):
        load_model(path, tmp_path)
    (path / "model.safetensors").write_bytes(b"\x00" * 20)
    write_config(path, config)
    with pytest.raises(QcError, match=r"model\.safetensors: SHA-256 "):
        load_model(path, tmp_path)
    write_config(path, config | {"files": {}})
    with pytest.raises(QcError, match="cannot be read"):
        load_model(path, tmp_path)


@pytest.mark.parametrize(
    ("make", "name", "sizes"),
    [
        (distilbert, "distilbert", {**DISTILBERT_SIZES, "trainable_layers": 2}),
        (prefix, "prefix", {"prefix_length": 4, "classes": 5}),
    ],
)
def test_a_model_of_before_encoders_had_tokenizers_of_their_own_is_refused_with_what_to_do(
    folder, tmp_path, make, name, sizes
):
    path, _ = saved(make, folder, tmp_path, name, sizes)
    config = read_config(path)
    old = {key: config[key] for key in config if key not in ("special_tokens", "upper_layers")}
    vocabulary = {"tokenizer": "encoder", "special_ids": {"pad": 0, "unknown": 1, "before": 2, "after": 3}}
    write_config(path, old | {"special_ids": [2, 3], "vocabulary": vocabulary})
    with pytest.raises(QcError, match=r"config\.json: not a model of this version: .*; `dvc repro` makes it anew"):
        load_model(path, tmp_path)


def test_tensors_of_another_model_are_refused(folder):
    model = prefix(folder)
    with pytest.raises(QcError, match="does not fit"):
        load_trained_weights(model, {"head.weight": model.head.weight}, folder)


def test_the_notebooks_fine_tuning_has_the_notebooks_sizes(tmp_path):
    encoder = Encoder(AutoModel.from_config(DistilBertConfig()).eval(), 2)
    model = DistilbertClassifier(encoder, 256, 0.3, "cls", classes=6)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in model.parameters()) == 66_561_798
    assert sum(parameter.numel() for parameter in trainable) == 14_374_662
    save_model(tmp_path / "model", model, {"files": {}})
    # 54.85 MB (of 2^20 bytes) as a pickle, whose table of contents takes some 12 kB more.
    assert (tmp_path / "model/model.safetensors").stat().st_size / 2**20 == pytest.approx(54.85, abs=0.02)
