"""The transformer from scratch, and the layers that all models are made of."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from qc.models.common import Task, attention_bias, masked_mean
from qc.models.scratch import MultiHeadAttention, ScratchClassifier, ScratchConfig, sinusoidal_positions
from qc.models.scratch_parameters import ScratchTrainingConfig
from tests.test_training import CONFIG

SMALL = ScratchConfig(
    vocab_size=50, classes=4, coarse_of=(), hidden_size=16, heads=2, ffn_size=32, layers=2, max_length=12,
    dropout=0.1, convolution=0, pooling="mean", head_dropout=0.0, norm="post",
    mask_padding=True, unknown_id=1, pad_id=0,
)  # fmt: skip


def test_attention_equals_torch_with_the_same_weights():
    torch.manual_seed(0)
    ours = MultiHeadAttention(dataclasses.replace(SMALL, hidden_size=24, heads=3, dropout=0.0))
    reference = nn.MultiheadAttention(24, 3, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(5, 7, 24)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 6])[:, None]
    expected, _ = reference(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, attention_bias(mask[:, None, None, :])), expected, atol=1e-6, rtol=1e-5)


def plain_layer(ours, norm):
    """PyTorch's layer with the weights of one of ours."""
    reference = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm == "pre").eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.",
        "linear1.": "feed_forward.inner.", "linear2.": "feed_forward.outer.",
        "norm1.": "attention_norm.", "norm2.": "feed_forward_norm.",
    }  # fmt: skip
    reference.load_state_dict(
        {their + kind: ours.state_dict()[our + kind] for their, our in names.items() for kind in ("weight", "bias")}
    )
    return reference


def test_positions_follow_the_formula_of_the_paper():
    table = sinusoidal_positions(20, 8)
    for position in (0, 3, 19):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)


def test_the_masked_mean_leaves_padding_out():
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert masked_mean(hidden, torch.tensor([[True, True, False]])).item() == 2.0
    assert masked_mean(hidden[:, :2], None).item() == 2.0


def test_a_mean_in_bf16_is_the_same_with_and_without_padding():
    hidden = torch.randn(4, 20, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    mask = (torch.arange(20) < 13).expand(4, 20)
    with torch.autocast("cpu", torch.bfloat16):
        alone, padded = masked_mean(hidden[:, :13], None), masked_mean(hidden, mask)
    assert padded.dtype == torch.float32
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_never_changes_logits(norm):
    torch.manual_seed(0)
    model = ScratchClassifier(dataclasses.replace(SMALL, norm=norm, convolution=3, pooling="mean_max")).eval()
    ids = torch.randint(0, 50, (1, 5))
    padded = torch.cat((ids, torch.full((1, 6), 7)), dim=1)
    mask = torch.arange(11)[None] < 5
    torch.testing.assert_close(model(padded, mask), model(ids, None), atol=1e-6, rtol=1e-5)


def test_unmasked_padding_counts_as_text_but_not_by_batch():
    torch.manual_seed(0)
    model = ScratchClassifier(dataclasses.replace(SMALL, mask_padding=False, pad_id=7)).eval()
    ids = torch.randint(2, 50, (1, 5))
    for word in (0, 7, 9):  # whatever the caller pads with
        padded = nn.functional.pad(ids, (0, 4), value=word)
        torch.testing.assert_close(model(padded, torch.arange(9)[None] < 5), model(ids, None))
    whole = nn.functional.pad(ids, (0, 7), value=7)
    torch.testing.assert_close(model(whole, None), model(ids, None))
    masked = ScratchClassifier(SMALL).eval()
    masked.load_state_dict(model.state_dict())
    assert not torch.allclose(masked(ids, None), model(ids, None))


def test_every_parameter_learns():
    model = ScratchClassifier(dataclasses.replace(SMALL, convolution=3, pooling="mean_max"))
    model(torch.randint(0, 50, (3, 7)), None).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_tokens_without_a_row_share_that_of_unknown():
    model = ScratchClassifier(SMALL, token_ids=[3, 9]).eval()
    assert model.embedding.num_embeddings == 3
    unknown, rare, known = (model(torch.tensor([[token]]), None) for token in (1, 40, 9))
    torch.testing.assert_close(unknown, rare)
    assert not torch.allclose(unknown, known)


def test_the_notebooks_sizes_have_the_notebooks_number_of_parameters():
    sizes = ScratchConfig(
        vocab_size=30522, classes=6, coarse_of=(), hidden_size=512, heads=8, ffn_size=2048, layers=12, max_length=36,
        dropout=0.1, convolution=0, pooling="mean", head_dropout=0.0, norm="post",
    mask_padding=False, unknown_id=100, pad_id=0,
    )  # fmt: skip
    model = ScratchClassifier(sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == 53_458_950


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_order_of_the_tokens_matters(norm):
    torch.manual_seed(0)
    model = ScratchClassifier(dataclasses.replace(SMALL, norm=norm)).eval()
    ids = torch.tensor([[2, 3, 4, 5, 6]])
    assert not torch.allclose(model(ids, None), model(ids.flip(1), None), atol=1e-4)
    with torch.no_grad():
        model.positions.zero_()  # without them it is a bag of words
    torch.testing.assert_close(model(ids, None), model(ids.flip(1), None), atol=1e-5, rtol=1e-4)


def created(**section):
    """A model as a section of params.yaml creates it."""
    sizes = {name: value for name, value in vars(SMALL).items() if name in ScratchTrainingConfig.model_fields}
    section = {**sizes, **CONFIG.model_dump(), "min_count": 0, "tokenizer": "x", **section}
    torch.manual_seed(0)
    return ScratchClassifier.create(ScratchTrainingConfig(**section), Task(4, (), 12, 50, 1, 0, torch.ones(50)))


def test_every_place_of_a_layer_drops_in_training_and_never_after():
    """Where everything is dropped, attention and feed-forward part add nothing."""
    ids, mask = torch.randint(0, 50, (3, 7)), None
    assert created(dropout=0.3).layers[0].attention.dropout == 0.3
    model = created(dropout=0.3)
    layer, x = model.layers[1], torch.randn(2, 5, 16)
    assert not torch.equal(model.train().features(ids, mask), model.features(ids, mask))
    assert not torch.equal(layer.attention(x, None), layer.attention(x, None))
    layer.dropout.p = 1 - 2**-16
    alone = layer.feed_forward_norm(layer.attention_norm(x))
    torch.testing.assert_close(layer(x, None), alone)
    assert torch.equal(model.eval()(ids, mask), model(ids, mask))


def test_what_is_pooled_drops_in_training_and_never_after():
    model = created(dropout=0.0, head_dropout=0.5)
    ids = torch.randint(0, 50, (3, 7))
    assert not torch.equal(model.train()(ids, None), model(ids, None))
    assert torch.equal(model.eval()(ids, None), model(ids, None))


@pytest.mark.parametrize(("convolution", "pooling"), [(0, "mean"), (3, "mean_max"), (5, "mean")])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_whole_model_is_what_its_parts_make(norm, convolution, pooling):
    """Scaled embeddings plus positions, convolution, layers, the last norm where there is one, what is real pooled."""
    model = created(norm=norm, convolution=convolution, pooling=pooling).eval()
    ids, mask = torch.randint(0, 50, (3, 7)), torch.arange(7) < torch.tensor([7, 4, 5])[:, None]
    hidden = model.embedding.weight[ids] * 16**0.5 + sinusoidal_positions(12, 16)[:7]
    if convolution:
        kernel = model.convolution.linear.weight.view(16, convolution, 16).transpose(1, 2)
        real = (hidden * mask[..., None]).transpose(1, 2)
        near = nn.functional.conv1d(real, kernel, model.convolution.linear.bias, padding="same").relu()
        hidden = hidden + near.transpose(1, 2)
    assert len(model.layers) == 2
    for layer in model.layers:
        hidden = plain_layer(layer, norm)(hidden, src_key_padding_mask=~mask)
    if norm == "pre":
        hidden = nn.functional.layer_norm(hidden, (16,))
    rows = [row[real] for row, real in zip(hidden, mask, strict=True)]
    pooled = torch.stack([row.mean(dim=0) for row in rows])
    if pooling == "mean_max":
        pooled = torch.cat([pooled, torch.stack([row.max(dim=0).values for row in rows])], dim=1)
    torch.testing.assert_close(model(ids, mask), pooled @ model.head.weight.T + model.head.bias, atol=1e-5, rtol=1e-4)


def test_matrices_begin_as_glorot_and_bengio_have_them():
    """Uniform within sqrt(6 / (inputs + outputs)); vectors begin as PyTorch has them."""
    model = created(convolution=3, head_dropout=0.0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.8 * bound < parameter.abs().max() <= bound, name
        elif "norm" in name:
            assert set(parameter.tolist()) == {float(name.endswith("weight"))}


def test_a_model_is_rebuilt_from_its_sizes_and_tensors_with_the_rows_of_its_tokens():
    for token_ids, kept in (([9, 3], True), (None, False)):
        model = ScratchClassifier(SMALL, token_ids).eval()
        tensors = model.state_dict()
        assert {"rows", "positions", "head.coarse_of"} & tensors.keys() == ({"rows"} if kept else set())
        rebuilt = ScratchClassifier.rebuild(model.sizes, tensors).eval()
        rebuilt.load_state_dict(tensors)
        ids = torch.tensor([[1, 3, 9, 40, 2]])
        assert torch.equal(rebuilt(ids, None), model(ids, None))
        assert model.rows[ids].tolist() == ([[0, 1, 2, 0, 0]] if kept else ids.tolist())


def test_tokens_seen_less_often_than_asked_share_a_row():
    sizes = {name: value for name, value in vars(SMALL).items() if name in ScratchTrainingConfig.model_fields}
    section = ScratchTrainingConfig(**{**sizes, **CONFIG.model_dump(), "min_count": 2, "tokenizer": "x"})
    counts = torch.tensor([0, 0, 1, 2, 3, *[0] * 45])
    model = ScratchClassifier.create(section, Task(4, (), 12, 50, 1, 0, counts))
    assert model.rows.tolist() == [0, 0, 0, 1, 2, *[0] * 45]


def test_masks_are_in_the_type_of_the_products():
    model = created(convolution=3, pooling="mean_max").eval()
    ids, mask = torch.randint(0, 50, (2, 7)), torch.arange(7) < torch.tensor([7, 4])[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        lowered = model(ids, mask)
        alone = model(ids[1:, :4], None)
    torch.testing.assert_close(lowered.float(), model(ids, mask), atol=0.1, rtol=0.1)
    torch.testing.assert_close(lowered[1:].float(), alone.float(), atol=0.05, rtol=0.05)
