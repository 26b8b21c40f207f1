"""Pretrained encoders, and the two models that stand on them."""

import gc
import json
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModel, BertConfig, BertModel, DistilBertConfig, DynamicCache

from qc.commands.export import MODEL, export_onnx, onnx_logits, open_onnx
from qc.errors import QcError
from qc.files import read_json
from qc.inference.batches import pack
from qc.inference.logits import predict
from qc.inference.model_folder import load_model, read_config, save_model, write_config
from qc.inference.predictor import Predictor
from qc.models.common import Dropout, Task
from qc.models.distilbert import DistilbertClassifier
from qc.models.distilbert_parameters import DistilbertTrainingConfig
from qc.models.encoder import Encoder, load_encoder
from qc.models.prefix import PrefixClassifier
from qc.models.prefix_parameters import PrefixTrainingConfig
from qc.questions.tokenizers import describe_tokenizer, load_tokenizer
from qc.training.loop import fit
from qc.training.precomputed import OnFeatures, cast_frozen, precompute_features
from tests.conftest import ENCODER_FILES, FAMILIES, file_size_limit, in_soak, pin, write_encoder, write_record
from tests.test_training import CONFIG, changed, packed
from tests.tiny import FEATURES, TINY

IDS = torch.tensor([[2, 5, 9, 11, 3, 0, 0], [2, 8, 7, 6, 10, 12, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
TEXTS = ["who is the king", "why", "where is the house of the dog", "many cat a river"]
TASK = Task(5, (), 30, 30, 1, 0, torch.ones(30))
ON_ENCODER = {**CONFIG.model_dump(), "encoder": "encoder", "cache_frozen": True, "cache_memory": 1.0}
SECTIONS = {
    "distilbert": {"trainable_layers": 2, "head_hidden_size": 8, "dropout": 0.3, "pooling": "mean"},
    "prefix": {"prefix_form": "vector", "prefix_length": 4, "prefix_layers": "all", "prefix_std": 1.0},
}


@pytest.fixture(params=["bert", "distilbert"])
def folder(request, tmp_path):
    write_encoder(tmp_path / "encoder", family=request.param)
    return tmp_path / "encoder"


@pytest.fixture(params=FAMILIES)
def any_folder(request, tmp_path):
    """An encoder of each common family."""
    write_encoder(tmp_path / "encoder", family=request.param)
    return tmp_path / "encoder"


def distilbert(folder, trainable_layers=2, **section):
    """A fine-tuned encoder, as a section of params.yaml creates it."""
    section = {**ON_ENCODER, **SECTIONS["distilbert"], **section, "trainable_layers": trainable_layers}
    torch.manual_seed(3)
    return DistilbertClassifier.create(
        DistilbertTrainingConfig(**section), TASK, load_encoder(folder, trainable_layers)
    )


def prefix(folder, prefix_length=4, layers="all", **section):
    """A prefix on an encoder, as a section of params.yaml creates it."""
    section = {**ON_ENCODER, **SECTIONS["prefix"], **section, "prefix_length": prefix_length, "prefix_layers": layers}
    torch.manual_seed(3)
    return PrefixClassifier.create(PrefixTrainingConfig(**section), TASK, load_encoder(folder, layers))


def of_kind(kind, folder, layers):
    """Name of a model and the model itself: `distilbert`, or a prefix of the form `kind`."""
    if kind == "distilbert":
        return kind, distilbert(folder, layers)
    return "prefix", prefix(folder, 3, layers, prefix_form=kind)


def layers_of(model):
    """The layers of a model of `transformers`, in their order."""
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3)


def family_of(folder):
    return read_json(folder / "config.json")["model_type"]


def reference_of(folder):
    """The encoder as `transformers` alone has it."""
    return AutoModel.from_pretrained(folder).eval()


def trained_parameters(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def learning(model):
    """Names of the parameters that a step would change."""
    model.train()(IDS, MASK).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


# Every family, and what becomes of it: `cut` where the layers can be run in two halves, `whole` where all or none of
# them are trained, or the words of the refusal; and what makes it, beside its sizes.
BESIDE_PADDING, FOR_WORDS = "beside padding than alone", "for word vectors than for their ids"
OTHERS = {
    "big_bird": ("cut", {}),
    "data2vec-text": ("cut", {}),
    "deberta": ("cut", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "eurobert": ("cut", {"num_key_value_heads": 1}),
    "gte": ("cut", {}),
    "jina_embeddings_v3": ("cut", {}),
    "layoutlm": ("cut", {}),
    "luke": ("cut", {}),
    "megatron-bert": ("cut", {}),
    "modernvbert": ("cut", None),
    "mra": ("cut", {}),
    "rembert": ("cut", {"input_embedding_size": 8}),
    "roberta-prelayernorm": ("cut", {}),
    "roc_bert": ("cut", {}),
    "roformer": ("cut", {"embedding_size": 8}),
    "tapas": ("cut", {}),
    "xlm-roberta-xl": ("cut", {}),
    "flaubert": ("whole", {}),
    "longformer": ("whole", {"attention_window": [4, 4, 4], "max_position_embeddings": 41}),
    "squeezebert": ("whole", {"embedding_size": 16, **dict.fromkeys(
        ["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"], 2)}),
    "ultrabert": ("whole", {}),
    "xlm": ("whole", {}),
    "convbert": (BESIDE_PADDING, {}),
    "esm": (FOR_WORDS, {}),
    "esmc": ("cannot be run on word vectors", {}),
    "fnet": (BESIDE_PADDING, {}),
    "funnel": (BESIDE_PADDING, None),
    "ibert": ("has no table of word vectors", {}),
    "neomme": ("cannot be run on word vectors", {"num_key_value_heads": 2}),
    "nystromformer": (BESIDE_PADDING, {}),
    "perceiver": ("has no table of word vectors", {"d_model": 16, "d_latents": 16, "num_latents": 8}),
    "reformer": ("cannot be run on word vectors", {
        "axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 8], "attention_head_size": 8,
        "attn_layers": ["local", "lsh", "local"], "feed_forward_size": 32}),
    "xmod": ("Input language unknown", {}),
    "yoso": ("computes other hidden states", {}),
}  # fmt: skip
OUTCOMES = {**dict.fromkeys(FAMILIES, "cut"), "albert": "whole", **{name: kind for name, (kind, _) in OTHERS.items()}}
VECTOR_ALONE = (  # families whose attention takes no further keys and values
    "big_bird", "deberta", "deberta-v2", "flaubert", "layoutlm", "longformer", "luke", "megatron-bert", "mpnet", "mra",
    "rembert", "roformer", "squeezebert", "tapas", "xlm",
)  # fmt: skip
QUICK = (*FAMILIES, "megatron-bert", "eurobert", "roformer", "squeezebert", "fnet", "esm", "ibert")


def write_family(folder, family):
    """A random encoder of any family; of the less common ones without a tokenizer."""
    if family in FAMILIES:
        return write_encoder(folder, family=family)
    torch.manual_seed(0)
    features, kind = OTHERS[family][1], CONFIG_MAPPING[family]
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
    return model.save_pretrained(folder)


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.soak) for f in OUTCOMES])
def test_every_family_works_or_is_refused_in_one_line(tmp_path, family):
    write_family(tmp_path, family)
    outcome = OUTCOMES[family]
    for layers in (0, 1, 3, "all") if family in FAMILIES and outcome == "cut" else (0, 2, "all"):
        if outcome in ("cut", "whole") and (outcome == "cut" or layers in (0, "all")):
            check_trained(distilbert(tmp_path, layers), tmp_path, layers)
            for length in (0, 10) if layers else ():
                check_prefix(prefix(tmp_path, length, layers))
            if layers and family in VECTOR_ALONE:
                section = {**ON_ENCODER, **SECTIONS["prefix"], "prefix_form": "key_value", "prefix_layers": layers}
                config, encoder = PrefixTrainingConfig(**section), load_encoder(tmp_path, layers)
                with pytest.raises(QcError, match=f"invalid value 'key_value'; expected vector .* '{family}'"):
                    PrefixClassifier.check_encoder(config, encoder)
                PrefixClassifier.check_encoder(changed(config, prefix_length=0), encoder)  # no prefix at all
            elif layers:
                check_prefix(prefix(tmp_path, 10, layers, prefix_form="key_value"))
        else:
            words = "expected all, since the layers" if outcome == "whole" else outcome
            with pytest.raises(QcError, match=words) as refused:
                load_encoder(tmp_path, layers)
            assert "\n" not in str(refused.value)


def check_trained(model, folder, layers):
    """A fine-tuned encoder computes what transformers does, in halves too, and trains its last layers alone."""
    encoder, reference = model.encoder, reference_of(folder)
    ids = IDS.where(MASK, reference.config.get_text_config().pad_token_id or 0)
    words = encoder.words(ids, MASK)
    whole = encoder(words, MASK)[MASK]
    assert torch.equal(encoder.upper(encoder.lower(words, MASK), MASK)[MASK], whole)
    expected = reference(ids, attention_mask=MASK.long()).last_hidden_state[MASK]
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
    check_padding(model)
    assert learning(model) == trained_parameters(model)  # no more, and no trained parameter without a gradient
    trained = {parameter for parameter in encoder.parameters() if parameter.requires_grad}
    assert (encoder.model.get_input_embeddings().weight in trained) == (layers == "all")
    assert bool(trained) == (layers != 0)
    if layers in (
        1,
        3,
    ):  # of a common family: beside the layers their last norm, and what DeBERTa's first layer alone runs as well
        inside = {parameter for layer in layers_of(encoder.model)[-layers:] for parameter in layer.parameters()}
        assert inside <= trained
        assert all(
            parameter.dim() == (3 if layers == 3 else 1) for parameter in trained - inside if parameter.dim() > 1
        )


def check_prefix(model):
    """A prefix trains itself and the head, beside the longest questions that the family reads."""
    check_padding(model)
    form, length = model.sizes["prefix_form"], model.sizes["prefix_length"]
    assert learning(model) == trained_parameters(model)
    trained = {name.rpartition(".")[2] for name in trained_parameters(model) - {"head.weight", "head.bias"}}
    assert trained == ({"prefix" if form == "vector" else "keys_and_values"} if length else set())
    longest = model.encoder.longest(100, length if form == "vector" else 0)
    assert model(torch.full((1, longest), 5), None).isfinite().all()


def check_padding(model):
    """Padding never changes logits, whatever its id."""
    model.eval()
    torch.testing.assert_close(model(IDS, MASK)[:1], model(IDS[:1, :5], None), atol=1e-5, rtol=1e-4)
    assert torch.equal(model(torch.where(MASK, IDS, 13), MASK), model(IDS, MASK))


class Skipping(BertModel):
    """A model whose output has its input in it besides, so that halves are not the whole."""

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        words = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        output = super().forward(inputs_embeds=words, **options)
        output.last_hidden_state = output.last_hidden_state + words
        return output


class Detached(BertModel):
    """A model that passes no gradient to its word vectors."""

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        words = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        return super().forward(inputs_embeds=words.detach(), **options)


def test_halves_that_do_not_equal_the_whole_are_refused():
    model = Skipping(BertConfig(**TINY, vocab_size=20)).eval()
    assert Encoder(model, "all").lower_layers == 0
    with pytest.raises(QcError, match="upper_layers: invalid value 2; expected all, since the layers of 'bert' cannot"):
        Encoder(model, 2)


def test_a_model_that_passes_no_gradient_to_its_words_is_refused():
    with pytest.raises(QcError, match="'bert' passes no gradient to its word vectors; take an encoder such as"):
        Encoder(Detached(BertConfig(**TINY, vocab_size=20)).eval(), "all")


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_a_layer_runs_in_one_half_alone(tmp_path, family):
    write_encoder(tmp_path, family=family)
    encoder, ran = load_encoder(tmp_path, 1), []
    for number, layer in enumerate(layers_of(encoder.model)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    hidden = encoder.lower(encoder.words(IDS, MASK), MASK)
    assert ran == [0, 1]
    encoder.upper(hidden, MASK)
    assert ran == [0, 1, 2]


def test_more_layers_than_there_are_cannot_be_trained(folder):
    with pytest.raises(QcError, match=r"train_x.layers: invalid value 4; expected at most 3"):
        load_encoder(folder, 4, "train_x.layers")


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("modernbert", 40)])
def test_the_longest_sequence_is_what_the_position_table_allows(tmp_path, family, longest):
    write_encoder(tmp_path, family=family)
    encoder = load_encoder(tmp_path)
    assert encoder.max_positions == longest
    for prefix_length in (1, 10):
        assert load_encoder(tmp_path, "all").longest(longest, prefix_length) == longest - prefix_length
        assert load_encoder(tmp_path, 2).longest(longest, prefix_length) == longest  # no positions
    if family != "modernbert":  # which has no table
        with pytest.raises((IndexError, RuntimeError)):
            encoder(encoder.words(torch.full((1, longest + 1), 5), None), None)


def test_a_prefix_before_a_later_layer_takes_positions_in_roformer(tmp_path):
    write_family(tmp_path, "roformer")
    encoder = load_encoder(tmp_path, 2)
    assert [encoder.longest(tokens, 10) for tokens in (30, 31, 40, 50)] == [40, 30, 30, 30]


def other_shape(folder, tensors):
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    save_file({**tensors, name: torch.zeros(3, 16)}, folder / "model.safetensors", {"format": "pt"})


def without_a_layer(folder, tensors):
    kept = {name: weights for name, weights in tensors.items() if "layer.2" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def empty(folder, tensors):
    (folder / "model.safetensors").write_bytes(b"")


def a_pickle(folder, tensors):
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_shape, r"encoder/config\.json: transformers cannot build this encoder: .*size"),
        (without_a_layer, r"no weights for .*layer\.2.* \(16 missing in all\); take an encoder whose config"),
        (empty, r"encoder: weights cannot be read: .*; `dvc checkout` restores them"),
        (a_pickle, r"encoder: weights cannot be read: .*model\.safetensors.*; `dvc checkout` restores them"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(folder, damage, message):
    damage(folder, load_file(folder / "model.safetensors"))
    with pytest.raises(QcError, match=message) as refused:
        load_encoder(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is a decoder, or does not read text; take an encoder such as BERT"),
        ({"model_type": "vit"}, "'vit' is a decoder, or does not read text"),
        ({"is_decoder": True}, "'bert' is a decoder"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder; take an encoder such as BERT"),
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
    """Not even for a pooler without weights, which transformers makes up."""
    tensors = load_file(folder / "model.safetensors")
    kept = {name: weights for name, weights in tensors.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
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


@pytest.mark.parametrize(
    ("make", "memory", "shape"),
    [
        (lambda folder: distilbert(folder, 1), 1, (20, 16)),
        (lambda folder: distilbert(folder, 0), 0, (20, 16)),
        (lambda folder: prefix(folder, layers=2), 0, (20, 16)),
        (lambda folder: prefix(folder, 0), 1, (4, 16)),  # pooled
        (lambda folder: prefix(folder, 0), 0, (4, 16)),
    ],
)
def test_the_frozen_part_can_be_run_once_and_kept_in_memory_or_on_disk(folder, make, memory, shape, tmp_path):
    model = make(folder)
    assert model.has_frozen_part
    questions = packed([[2, *ids, 3] for ids in ([5, 9, 11], [8, 7, 6, 10], [4], [9] * 4)], [0, 1, 2, 3], 30, (1, 1))
    cached = precompute_features(model, questions, "fp32", memory, tmp_path / "state")
    assert cached.values.shape == shape
    torch.testing.assert_close(predict(model, cached, forward=OnFeatures(model)), predict(model, questions))
    assert (tmp_path / "state").exists() == (memory == 0)
    assert not list(tmp_path.glob("state/*"))


@pytest.mark.parametrize(
    "make", [lambda folder: distilbert(folder, 3), lambda folder: distilbert(folder, "all"), prefix]
)
def test_a_model_with_nothing_frozen_keeps_nothing(folder, make):
    assert not make(folder).has_frozen_part


def test_no_room_for_the_frozen_parts_output_is_an_error_that_names_the_remedy(folder, tmp_path):
    model = distilbert(folder, 1)
    questions = packed([[5] * 20] * 50, [0] * 50, 30)
    with file_size_limit(10_000), pytest.raises(QcError, match="File too large; free some, or set cache_frozen: false"):
        precompute_features(model, questions, "fp32", 0, tmp_path / "state")
    assert not list(tmp_path.glob("state/*"))


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


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_late_prefix_stands_before_what_its_first_layer_is_given(folder, layers):
    if layers == 3:  # every layer: before the words
        assert torch.equal(prefix(folder, layers=3)(IDS, MASK), prefix(folder)(IDS, MASK))
        return
    model, reference = prefix(folder, layers=layers).eval(), reference_of(folder)
    layer = layers_of(reference)[-layers]
    layer.register_forward_pre_hook(lambda _, inputs: (torch.cat((model.prefix[None], inputs[0]), dim=1), *inputs[1:]))
    row = IDS[1:]
    expected = model.head(reference(row).last_hidden_state[:, len(model.prefix) :].mean(dim=1))
    torch.testing.assert_close(model(row, None), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, "all"])
def test_keys_and_values_are_those_that_a_cache_of_transformers_holds(tmp_path, layers):
    write_encoder(tmp_path, family="bert")
    model = prefix(tmp_path, 4, layers, prefix_form="key_value").eval()
    given = dict(model.encoder.named_parameters())
    for row, real in zip(IDS, MASK, strict=True):
        cache, ids = DynamicCache(), row[real][None]
        for number in range(3):
            name = f"model.encoder.layer.{number}.attention.self.keys_and_values"
            assert (name in given) == (layers == "all" or number >= 3 - layers)
            cache.update(*given.get(name, torch.empty(2, 2, 0, 8))[:, None].detach(), number)
        positions = torch.arange(ids.shape[1])[None]
        hidden = reference_of(tmp_path)(ids, past_key_values=cache, position_ids=positions).last_hidden_state
        expected = model.head(hidden.mean(dim=1))
        torch.testing.assert_close(model(ids, None), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model(row[None], real[None]), expected, atol=1e-5, rtol=1e-4)


def test_models_with_keys_and_values_are_built_side_by_side_and_leave_nothing(tmp_path):
    write_encoder(tmp_path, family="bert")
    with ThreadPoolExecutor(6) as pool:
        encoders = list(pool.map(lambda _: load_encoder(tmp_path, 2), range(24)))
        list(pool.map(lambda encoder: encoder.add_keys_and_values(3, 0.1), encoders))
    for encoder in encoders:
        assert sum(name.endswith("keys_and_values") for name, _ in encoder.named_parameters()) == 2
    module = weakref.ref(encoders[0].upper_modules[0])
    del encoder, encoders
    gc.collect()
    assert module() is None


@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("form", ["vector", "key_value"])
def test_the_prefix_starts_with_the_asked_spread(folder, spread, form):
    model = prefix(folder, 200, prefix_std=spread, prefix_form=form)
    vectors = next(weights for weights in model.parameters() if weights.requires_grad)
    assert vectors.std().item() == pytest.approx(spread, rel=0.05)
    assert abs(vectors.mean().item()) < 0.1 * spread


@pytest.mark.parametrize("trainable", [1, 3, "all"])
def test_a_norm_after_the_layers_is_trained_with_them(tmp_path, trainable):
    write_encoder(tmp_path, family="modernbert")
    assert "encoder.model.final_norm.weight" in learning(distilbert(tmp_path, trainable))


@pytest.mark.parametrize("trainable", [2, 3])
def test_a_table_of_positions_shared_by_all_layers_stays_as_published(tmp_path, trainable):
    write_encoder(tmp_path, family="mpnet")
    assert "encoder.model.encoder.relative_attention_bias.weight" not in learning(distilbert(tmp_path, trainable))


def test_what_the_published_model_does_not_train_is_left_alone(tmp_path):
    write_family(tmp_path, "roformer")  # its positions are sines
    assert "encoder.model.encoder.embed_positions.weight" not in trained_parameters(distilbert(tmp_path, "all"))


def test_what_is_trained_drops_in_training_and_what_is_frozen_never(any_folder):
    frozen = prefix(any_folder).train()
    assert torch.equal(frozen(IDS, MASK), frozen(IDS, MASK))
    for layers in ("all",) if family_of(any_folder) == "albert" else (1, 2, 3, "all"):
        model = distilbert(any_folder, layers).train()
        trained = [model] if layers == "all" else layers_of(model.encoder.model)[-layers:]
        inside = {part for layer in trained for part in layer.modules()}
        for part in model.encoder.modules():
            if isinstance(part, torch.nn.Dropout):
                assert part.training == (part in inside)
                assert type(part) is Dropout  # which draws its masks cheaply
        if layers in (1, 2):
            assert torch.equal(model.features(IDS, MASK), model.features(IDS, MASK))


@pytest.mark.parametrize("trainable", [1, 2, 3, "all"])
def test_trained_layers_drop_while_training_and_never_after(folder, trainable):
    model = distilbert(folder, trainable, dropout=0.0)  # in the head; the layers have their own, of 0.1
    assert not torch.equal(model.train()(IDS, MASK), model(IDS, MASK))
    assert torch.equal(model.eval()(IDS, MASK), model(IDS, MASK))


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6])
def test_the_head_drops_the_asked_share(folder, rate):
    model = distilbert(folder, head_hidden_size=1000, dropout=rate)
    seen = []
    model.head[3].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0] != 0) & (output == 0)))
    with torch.no_grad():
        model.head[1].bias.fill_(9.0)  # every unit is above 0
        model.train()(IDS.repeat(20, 1), MASK.repeat(20, 1))
    assert seen[0].float().mean().item() == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_pooling_is_the_first_token_or_the_mean_of_the_real_ones(folder, pooling):
    model, reference = distilbert(folder, 2, pooling=pooling).eval(), reference_of(folder)
    hidden = reference(IDS, attention_mask=MASK.long()).last_hidden_state
    first, mean = hidden[:, 0], torch.stack([row[real].mean(dim=0) for row, real in zip(hidden, MASK, strict=True)])
    linear, norm, _, _, last = model.head
    x = torch.relu(norm(linear(first if pooling == "cls" else mean)))
    torch.testing.assert_close(model(IDS, MASK), last(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("any_folder", in_soak(FAMILIES, but="bert"), indirect=True)
@pytest.mark.parametrize("trained", [prefix, lambda folder: distilbert(folder, "all")])
def test_every_family_runs_in_bf16_with_frozen_matrices_kept_in_it(any_folder, trained):
    model = trained(any_folder).eval()
    expected = model(IDS, MASK)
    cast_frozen(model, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IDS, MASK)
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)


def saved(model, folder, tmp_path, name):
    """Save a model beside its encoder; the model folder."""
    vocabulary = describe_tokenizer(folder, load_tokenizer(folder))
    config = {
        "model": name,
        "labels": {"classes": list("abcde")},
        "vocabulary": vocabulary.record(),
        "max_length": 10,
        "precision": "fp32",
        "temperature": None,
        "upper_layers": model.encoder.upper_layers,
        "encoder": folder.name,
        "files": {f"{folder.name}/{name}": pin(folder / name)["sha256"] for name in ENCODER_FILES},
        "sizes": model.sizes,
    }
    save_model(tmp_path / name, model, config)
    return tmp_path / name


TRAINED = [
    pytest.param(kind, layers, family, marks=() if family == "bert" else pytest.mark.soak)
    for family in FAMILIES
    for kind, layers in (("vector", "all"), ("vector", 1), ("key_value", 1), ("distilbert", 1))
    if kind != "key_value" or family not in VECTOR_ALONE
]


@pytest.mark.parametrize(("kind", "layers", "any_folder"), TRAINED, indirect=["any_folder"])
def test_every_family_is_trained_saved_and_loaded(any_folder, tmp_path, kind, layers):
    layers = "all" if family_of(any_folder) == "albert" else layers
    tokenizer = load_tokenizer(any_folder)
    vocabulary = describe_tokenizer(any_folder, tokenizer)
    name, model = of_kind(kind, any_folder, layers)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    assert all(row[:1] == vocabulary.before and row[-1:] == vocabulary.after for row in ids)
    questions = pack(vocabulary, ids, [2, 1, 3, 4], 10, keep_special=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(model, questions, questions, changed(CONFIG, epochs=1), seed=1)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert moved <= trained_parameters(model)

    path = saved(model, any_folder, tmp_path, name)
    assert load_file(path / "model.safetensors").keys() == trained_parameters(model)
    classifier = load_model(path, tmp_path)
    logits = predict(model, questions)
    assert torch.equal(predict(classifier.model, questions), logits)
    answers = Predictor(classifier, tokenizer, "cpu").predict(TEXTS)
    for row, answer in zip(logits.double().softmax(dim=1), answers, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)


EXPORTED = [  # an export takes seconds
    *(("distilbert", family) for family in FAMILIES),
    *(("vector", family) for family in ("bert", "mpnet", "deberta-v2", "modernbert")),
    *(("key_value", family) for family in ("modernbert", "roberta")),
]


@pytest.mark.parametrize(
    ("kind", "any_folder"),
    [("key_value", "bert"), *(pytest.param(*case, marks=pytest.mark.soak) for case in EXPORTED)],
    indirect=["any_folder"],
)
def test_every_family_is_exported(any_folder, tmp_path, kind):
    name, model = of_kind(kind, any_folder, "all")
    predictor = Predictor(
        load_model(saved(model, any_folder, tmp_path, name), tmp_path), load_tokenizer(any_folder), "cpu"
    )
    (tmp_path / "onnx").mkdir()
    export_onnx(predictor, tmp_path / "onnx", int8=False)
    rows = [row[real].tolist() for row, real in zip(IDS, MASK, strict=True)]
    questions = packed([*rows, rows[0][:3]], [0, 1, 0], 10, (1, 1))
    exported, _ = onnx_logits(open_onnx(tmp_path / "onnx" / MODEL), questions)
    torch.testing.assert_close(torch.from_numpy(exported), predict(model, questions), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_the_encoder_that_was_changed_is_refused_whatever_its_record_says(folder, tmp_path, name):
    path = saved(distilbert(folder), folder, tmp_path, "distilbert")
    if name == "config.json":
        (folder / name).write_text(json.dumps(read_json(folder / name) | {"layer_norm_eps": 0.1}))
    else:
        tensors = load_file(folder / name)
        save_file({key: tensor + 0.01 for key, tensor in tensors.items()}, folder / name)
    write_record(folder)
    with pytest.raises(
        QcError, match=f"encoder/{name}: SHA-256 [0-9a-f]{{64}}, but .* was trained with [0-9a-f]{{64}}"
    ):
        load_model(path, tmp_path)


def test_a_broken_model_folder_is_refused(folder, tmp_path):
    path = saved(prefix(folder), folder, tmp_path, "prefix")
    with pytest.raises(QcError, match=r"no such encoder; name it under fetch\.encoders"):
        load_model(path, tmp_path / "elsewhere")
    config = read_config(path)
    for change, message in (
        ({"sizes": {"prefix_length": 7, "classes": 5}}, "not a model of this version: .*size mismatch for prefix"),
        ({"sizes": {"prefix_length": 0, "classes": 5}}, "not a model of this version: .*prefix"),
        ({"model": "other"}, "not a model of this version"),
    ):
        write_config(path, {**config, **change})
        with pytest.raises(QcError, match=message):
            load_model(path, tmp_path)
    (path / "model.safetensors").write_bytes(b"\x00" * 20)
    for files, message in ((config["files"], r"model\.safetensors: SHA-256 "), ({}, "not a model of this version")):
        write_config(path, {**config, "files": files})
        with pytest.raises(QcError, match=message):
            load_model(path, tmp_path)


@pytest.mark.soak
def test_the_notebooks_fine_tuning_has_the_notebooks_sizes(tmp_path):
    encoder = Encoder(AutoModel.from_config(DistilBertConfig()).eval(), 2)
    model = DistilbertClassifier(encoder, 256, 0.3, "cls", classes=6)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in model.parameters()) == 66_561_798
    assert sum(parameter.numel() for parameter in trainable) == 14_374_662
    save_model(tmp_path / "model", model, {"files": {}})
    # 54.85 MB (of 2^20 bytes) as a pickle, whose table of contents takes some 12 kB more.
    assert (tmp_path / "model/model.safetensors").stat().st_size / 2**20 == pytest.approx(54.85, abs=0.02)


@pytest.mark.parametrize("make", [distilbert, prefix])
def test_fine_classes_are_scored_beside_the_coarse_ones(folder, make, monkeypatch):
    monkeypatch.setitem(globals(), "TASK", Task(5, (1, 0, 1), 30, 30, 1, 0, torch.ones(30)))
    model = make(folder)
    assert model(IDS, MASK).shape == (len(IDS), TASK.classes + 3)
    assert model.output_layer.coarse_of.tolist() == model.sizes["coarse_of"] == [1, 0, 1]
    assert model.output_layer.classes == TASK.classes


def test_a_prefix_is_as_wide_as_what_it_stands_before(tmp_path):
    write_encoder(tmp_path, family="electra")
    config = read_json(tmp_path / "config.json")
    assert config["embedding_size"] != config["hidden_size"]
    assert prefix(tmp_path, 4, 1).prefix.shape == (4, config["hidden_size"])
    assert prefix(tmp_path, 4, "all").prefix.shape == (4, config["embedding_size"])


def test_what_transformers_says_is_told_in_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no such\n   layers")

    write_encoder(tmp_path)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", refuse)
    with pytest.raises(QcError, match=r"transformers cannot build this encoder: no such layers$"):
        load_encoder(tmp_path)
