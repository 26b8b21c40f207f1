"""Pretrained encoders, and the two models that stand on them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModel, DistilBertConfig

from qc.commands.export import MODEL, export_onnx, onnx_logits, open_onnx
from qc.errors import QcError
from qc.files import read_json
from qc.inference.batches import pack
from qc.inference.logits import predict
from qc.inference.model_folder import load_model, read_config, save_model, write_config
from qc.inference.predictor import Predictor
from qc.inference.weights import load_trained_weights, read_weights
from qc.models.common import Dropout
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import Encoder, load_encoder, use_attention
from qc.models.prefix import PrefixClassifier
from qc.questions.tokenizers import describe_tokenizer, load_tokenizer
from qc.training.loop import fit
from qc.training.precomputed import OnFeatures, cast_frozen, precompute_features
from tests.conftest import (
    ENCODER_FILES,
    FAMILIES,
    file_size_limit,
    in_soak,
    pin,
    write_encoder,
    write_record,
)
from tests.test_training import CONFIG, changed, packed
from tests.tiny import FEATURES, TINY

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


def layers_of(model):
    """The layers of a model of `transformers`, in their order; 3 in every family that is tried."""
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3)


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
    for number, layer in enumerate(layers_of(encoder.model)):
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
    for prefix_length in (1, 10):
        assert load_encoder(tmp_path, "all").longest(longest, prefix_length) == longest - prefix_length
        assert load_encoder(tmp_path, 2).longest(longest, prefix_length) == longest  # no positions
    if family != "modernbert":  # which has no table
        with pytest.raises((IndexError, RuntimeError)):
            encoder(encoder.words(torch.full((1, longest + 1), 5), None), None)


def test_a_prefix_before_a_later_layer_takes_positions_in_roformer(tmp_path):
    write_tiny(tmp_path, "roformer")
    encoder = load_encoder(tmp_path, 2)
    assert [encoder.longest(tokens, 10) for tokens in (30, 31, 40, 50)] == [40, 30, 30, 30]


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
    with pytest.raises(QcError, match=r"(model\.safetensors: no such|cannot be read).*`dvc checkout`"):
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


@pytest.mark.parametrize("layers", [0, 1, "all"])
def test_loading_draws_nothing_from_the_generator_of_what_follows(folder, layers):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_encoder(folder, layers)
    assert torch.equal(torch.rand(2), expected)


def test_a_loaded_encoder_does_not_change_with_its_file(tmp_path):
    write_encoder(tmp_path)
    encoder = load_encoder(tmp_path)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:  # in place: a view of the file would see it
        start = 8 + int.from_bytes(file.read(8), "little")  # behind the header
        file.seek(start)
        file.write(bytes(path.stat().st_size - start))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


class Waits(TorchDispatchMode):
    """Count what a GPU would have to be waited for: values of tensors that Python asks for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)])
@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert", "modernbert"])
def test_no_pass_asks_for_the_content_of_a_mask(tmp_path, family, mask):
    write_encoder(tmp_path, family=family)
    model = distilbert(tmp_path, 1)
    with Waits() as waits:
        model(IDS, mask)
    assert waits.count == 0


# Other families, what makes them, and what becomes of them: `cut` where the layers can be run
# in two halves, `whole` where all or none of them are trained, or the words of the refusal.
BESIDE_PADDING, FOR_WORDS = "beside padding than alone", "for word vectors than for their ids"
OTHERS = {
    "big_bird": ({}, "cut"),
    "data2vec-text": ({}, "cut"),
    "deberta": ({"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "cut"),
    "eurobert": ({"num_key_value_heads": 1}, "cut"),
    "gte": ({}, "cut"),
    "jina_embeddings_v3": ({}, "cut"),
    "layoutlm": ({}, "cut"),
    "luke": ({}, "cut"),
    "megatron-bert": ({}, "cut"),
    "modernvbert": (None, "cut"),
    "mra": ({}, "cut"),
    "rembert": ({"input_embedding_size": 8}, "cut"),
    "roberta-prelayernorm": ({}, "cut"),
    "roc_bert": ({}, "cut"),
    "roformer": ({"embedding_size": 8}, "cut"),
    "tapas": ({}, "cut"),
    "xlm-roberta-xl": ({}, "cut"),
    "albert": ({"embedding_size": 8}, "whole"),
    "flaubert": ({}, "whole"),
    "longformer": ({"attention_window": [4, 4, 4], "max_position_embeddings": 41}, "whole"),
    "squeezebert": ({"embedding_size": 16, **dict.fromkeys(
        ["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"], 2)}, "whole"),
    "ultrabert": ({}, "whole"),
    "xlm": ({}, "whole"),
    "convbert": ({}, BESIDE_PADDING),
    "esm": ({}, FOR_WORDS),
    "esmc": ({}, "cannot be run on word vectors"),
    "fnet": ({}, BESIDE_PADDING),
    "funnel": (None, BESIDE_PADDING),
    "ibert": ({}, "has no table of word vectors"),
    "neomme": ({"num_key_value_heads": 2}, "cannot be run on word vectors"),
    "nystromformer": ({}, BESIDE_PADDING),
    "perceiver": ({"d_model": 16, "d_latents": 16, "num_latents": 8}, "has no table of word vectors"),
    "reformer": ({"axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 8], "attention_head_size": 8,
                  "attn_layers": ["local", "lsh", "local"], "feed_forward_size": 32}, "cannot be run on word vectors"),
    "xmod": ({}, "Input language unknown"),
    "yoso": ({}, "computes other hidden states"),
}  # fmt: skip
QUICK = ("megatron-bert", "eurobert", "roformer", "squeezebert", "fnet", "ibert")


def write_tiny(folder, family):
    """A random encoder of any family, without a tokenizer."""
    torch.manual_seed(0)
    features, kind = OTHERS[family][0], CONFIG_MAPPING[family]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    text = {**TINY, **ids, "vocab_size": 20}
    if family == "funnel":
        sizes = {"block_sizes": [1, 1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "vocab_size": 20}
        model = transformers.FunnelModel(kind(**sizes))
    elif family == "modernvbert":
        image = {**TINY, "image_size": 32, "patch_size": 16}
        model = AutoModel.from_config(kind(text_config={**text, **FEATURES["modernbert"]}, vision_config=image))
    else:
        model = AutoModel.from_config(kind(**{**text, **features, "is_decoder": False}))
    model.save_pretrained(folder)


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.soak) for f in OTHERS])
def test_every_family_works_or_is_refused_in_one_line(tmp_path, family):
    write_tiny(tmp_path, family)
    outcome = OTHERS[family][1]
    cases = [(distilbert, 0, 0), (distilbert, 2, 0), (distilbert, "all", 0)]
    cases += [(prefix, 2, 0), (prefix, 2, 10), (prefix, "all", 10)]
    for make, layers, length in cases:
        if outcome not in ("cut", "whole") or (outcome == "whole" and layers == 2):
            words = "expected all, since the layers" if outcome == "whole" else outcome
            with pytest.raises(QcError, match=words) as refused:
                load_encoder(tmp_path, layers)
            assert "\n" not in str(refused.value)
            continue
        model = make(tmp_path, layers) if make is distilbert else make(tmp_path, length, layers)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert learning(model) == trained
        model.eval()
        torch.testing.assert_close(model(IDS, MASK)[:1], model(IDS[:1, :5], None), atol=1e-5, rtol=1e-4)
        longest = model.encoder.longest(100, length)
        assert model(torch.full((1, longest), 5), None).isfinite().all()
        reference = reference_of(tmp_path)
        hidden = reference(IDS, attention_mask=MASK.long()).last_hidden_state[MASK]
        torch.testing.assert_close(
            model.encoder(model.encoder.words(IDS, MASK), MASK)[MASK], hidden, atol=1e-5, rtol=1e-4
        )


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
    questions = packed(
        [[2, *ids, 3] for ids in ([5, 9, 11], [8, 7, 6, 10, 12], [4], [9] * 8)], [0, 1, 2, 3], 30, (1, 1)
    )
    cached = precompute_features(model, questions, "fp32", memory, tmp_path / "state")
    torch.testing.assert_close(predict(model, cached, forward=OnFeatures(model)), predict(model, questions))
    assert (tmp_path / "state").exists() == (memory == 0)
    assert not list(tmp_path.glob("state/*"))


@pytest.mark.parametrize("name", NOTHING_FROZEN)
def test_a_model_with_nothing_frozen_keeps_nothing(folder, name):
    assert not MODELS[name](folder).has_frozen_part


def test_without_a_prefix_the_pooled_vectors_are_what_is_kept(folder, tmp_path):
    model = PrefixClassifier(load_encoder(folder), 0, 5)
    questions = packed([[2, 5, 9, 11, 3], [2, 8, 7, 6, 10, 12, 3]], [0, 1], 30, (1, 1))
    assert precompute_features(model, questions, "fp32", 1, tmp_path).values.shape == (2, 16)


def test_no_room_for_the_frozen_parts_output_is_an_error_that_names_the_remedy(folder, tmp_path):
    model = distilbert(folder, 1)
    questions = packed([[5] * 20] * 50, [0] * 50, 30)
    with file_size_limit(10_000), pytest.raises(QcError, match="File too large; free some, or set cache_frozen: false"):
        precompute_features(model, questions, "fp32", 0, tmp_path / "state")
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
    layer = layers_of(reference)[-layers]
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


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_the_prefix_starts_with_the_asked_spread(folder, spread):
    torch.manual_seed(0)
    model = PrefixClassifier(load_encoder(folder, "all"), 200, classes=5, prefix_std=spread)
    assert model.prefix.std().item() == pytest.approx(spread, rel=0.05)
    assert abs(model.prefix.mean().item()) < 0.1 * spread


def test_only_what_is_to_be_trained_learns(any_folder):
    for trainable in trainable_of(any_folder):
        model = distilbert(any_folder, trainable)
        found = {name.removeprefix("encoder.model.") for name in learning(model) if name.startswith("encoder.")}
        wanted = {name for name, parameter in model.encoder.model.named_parameters() if parameter.requires_grad}
        assert found == wanted, trainable  # no more, and no trained parameter without a gradient
        if trainable == "all":
            assert any("embeddings" in name for name in found)
        elif trainable == 0:
            assert not found
        else:
            layers = layers_of(model.encoder.model)[3 - trainable :]
            inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
            assert {id(model.encoder.model.get_parameter(name)) for name in found} >= inside
            outside = [name for name in found if id(model.encoder.model.get_parameter(name)) not in inside]
            # The norm after the layers; where all of them are trained, what DeBERTa's first one alone runs as well.
            assert all(name.startswith(("final_norm", "encoder.conv", "encoder.LayerNorm")) for name in outside)
            assert trainable == 3 or all(name.startswith("final_norm") for name in outside)
        assert all(parameter.grad is not None for parameter in model.head.parameters())


@pytest.mark.parametrize("trainable", [1, 3, "all"])
def test_a_norm_after_the_layers_is_trained_with_them(tmp_path, trainable):
    write_encoder(tmp_path, family="modernbert")
    model = distilbert(tmp_path, trainable)
    before = model.encoder.model.final_norm.weight.clone()
    model.train()(IDS, MASK).square().sum().backward()
    torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0).step()
    assert not torch.equal(model.encoder.model.final_norm.weight, before)


@pytest.mark.parametrize("trainable", [2, 3])
def test_a_table_of_positions_shared_by_all_layers_stays_as_published(tmp_path, trainable):
    write_encoder(tmp_path, family="mpnet")
    assert "encoder.model.encoder.relative_attention_bias.weight" not in learning(distilbert(tmp_path, trainable))


def test_what_the_published_model_does_not_train_is_left_alone(tmp_path):
    write_tiny(tmp_path, "roformer")  # its positions are sines
    model = distilbert(tmp_path, "all")
    assert not model.encoder.model.encoder.embed_positions.weight.requires_grad
    assert learning(model) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_is_frozen_runs_without_dropout_while_training(any_folder):
    frozen = prefix(any_folder).train()
    assert torch.equal(frozen(IDS, MASK), frozen(IDS, MASK))
    for trainable in trainable_of(any_folder)[1:-1]:
        model = distilbert(any_folder, trainable).train()
        if trainable < 3:
            assert torch.equal(model.features(IDS, MASK), model.features(IDS, MASK))
        embeddings = model.encoder.model.embeddings
        assert not any(module.training for module in embeddings.modules())


def test_every_dropout_of_what_is_trained_drops(any_folder):
    model = distilbert(any_folder, trainable_of(any_folder)[-1]).train()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert model.head[3] in dropouts
    assert all(module.training and type(module) is Dropout for module in dropouts)
    assert not torch.equal(model(IDS, MASK), model(IDS, MASK))


@pytest.mark.parametrize("trainable", [1, 2, 3, "all"])
def test_trained_layers_drop_while_training_and_never_after(folder, trainable):
    model = distilbert(folder, trainable)
    model.head[3].p = 0.0  # leaves the layers' own dropout, of 0.1
    assert not torch.equal(model.train()(IDS, MASK), model(IDS, MASK))
    assert torch.equal(model.eval()(IDS, MASK), model(IDS, MASK))


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6])
def test_the_head_drops_the_asked_share(folder, rate):
    model = DistilbertClassifier(load_encoder(folder), 1000, rate, "mean", classes=5)
    seen = []
    model.head[3].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0] != 0) & (output == 0)))
    with torch.no_grad():
        model.head[1].bias.fill_(9.0)  # every unit is above 0
        model.train()(IDS.repeat(20, 1), MASK.repeat(20, 1))
    assert seen[0].float().mean().item() == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_pooling_is_the_first_token_or_the_mean_of_the_real_ones(folder, pooling):
    model, reference = distilbert(folder, 2, pooling).eval(), reference_of(folder)
    hidden = reference(IDS, attention_mask=MASK.long()).last_hidden_state
    first, mean = hidden[:, 0], torch.stack([row[real].mean(dim=0) for row, real in zip(hidden, MASK, strict=True)])
    linear, norm, _, _, last = model.head
    x = torch.relu(norm(linear(first if pooling == "cls" else mean)))
    torch.testing.assert_close(model(IDS, MASK), last(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("any_folder", in_soak(FAMILIES, but="bert"), indirect=True)
@pytest.mark.parametrize(("name", "layers"), [("prefix", "all"), ("prefix", 1), ("distilbert", 1)])
def test_every_family_is_trained_saved_loaded_and_exported(any_folder, tmp_path, name, layers):
    layers = "all" if family_of(any_folder) == "albert" else layers
    tokenizer = load_tokenizer(any_folder)
    vocabulary = describe_tokenizer(any_folder, tokenizer)
    sizes = DISTILBERT_SIZES if name == "distilbert" else {"prefix_length": 3, "classes": 5}
    kind = DistilbertClassifier if name == "distilbert" else PrefixClassifier
    model = kind(load_encoder(any_folder, layers), **sizes)
    ids = [found.ids for found in tokenizer.encode_batch(TEXTS)]
    assert all(row[:1] == vocabulary.before and row[-1:] == vocabulary.after for row in ids)
    questions = pack(vocabulary, ids, [2, 1, 3, 4], 10, keep_special=True)
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
        "precision": "fp32",
        "temperature": None,
        "upper_layers": upper_layers,
        "encoder": folder.name,
        "files": {f"{folder.name}/{name}": pin(folder / name)["sha256"] for name in ENCODER_FILES},
        "sizes": sizes,
    }


def saved(make, folder, tmp_path, name, sizes):
    """Save a model beside its encoder; the model folder."""
    model = make(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    vocabulary = describe_tokenizer(folder, load_tokenizer(folder))
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
