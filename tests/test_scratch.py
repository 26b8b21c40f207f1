"""The transformer from scratch, and the layers that all models are made of."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from qc.models.common import attention_bias, masked_mean
from qc.models.scratch import MultiHeadAttention, ScratchClassifier, ScratchConfig, sinusoidal_positions

SMALL = ScratchConfig(
    vocab_size=50, classes=4, coarse_of=(), hidden_size=16, heads=2, ffn_size=32, layers=2, max_length=12,
    dropout=0.1, norm="post", mask_padding=True, unknown_id=1, pad_id=0,
)  # fmt: skip


def test_attention_equals_torch_with_the_same_weights():
    torch.manual_seed(0)
    ours = MultiHeadAttention(hidden_size=24, heads=3, dropout=0.0)
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


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_layer_equals_torch_with_the_same_weights(norm):
    torch.manual_seed(0)
    model = ScratchClassifier(dataclasses.replace(SMALL, norm=norm)).eval()
    ours = model.layers[0]
    reference = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm == "pre").eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.",
        "linear1.": "feed_forward.inner.", "linear2.": "feed_forward.outer.",
        "norm1.": "attention_norm.", "norm2.": "feed_forward_norm.",
    }  # fmt: skip
    reference.load_state_dict(
        {their + kind: ours.state_dict()[our + kind] for their, our in names.items() for kind in ("weight", "bias")}
    )
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(ours(x, None), reference(x), atol=1e-6, rtol=1e-5)


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
    model = ScratchClassifier(dataclasses.replace(SMALL, norm=norm)).eval()
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


def test_logits_have_one_row_a_question_and_one_column_a_class():
    assert ScratchClassifier(SMALL)(torch.randint(0, 50, (3, 7)), None).shape == (3, 4)


def test_every_parameter_learns():
    model = ScratchClassifier(SMALL)
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
        dropout=0.1, norm="post", mask_padding=False, unknown_id=100, pad_id=0,
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


def dropouts(model):
    """Every place with dropout, by name: how to set its rate."""
    found = {"embeddings": lambda rate: setattr(model.dropout, "p", rate)}
    for number, layer in enumerate(model.layers):
        found[f"attention {number}"] = lambda rate, layer=layer: setattr(layer.attention, "dropout", rate)
        found[f"residuals {number}"] = lambda rate, layer=layer: setattr(layer.dropout, "p", rate)
    return found


@pytest.mark.parametrize("place", ["embeddings", "attention 0", "residuals 0", "attention 1", "residuals 1"])
def test_every_dropout_drops_while_training_and_never_after(place):
    torch.manual_seed(0)
    model = ScratchClassifier(SMALL)
    assert all(rate == SMALL.dropout for rate in (model.dropout.p, *(each.attention.dropout for each in model.layers)))
    ids = torch.randint(0, 50, (3, 7))
    for name, set_rate in dropouts(model).items():
        set_rate(0.5 if name == place else 0.0)
    assert not torch.equal(model.train()(ids, None), model(ids, None))
    assert torch.equal(model.eval()(ids, None), model(ids, None))
    dropouts(model)[place](0.0)
    assert torch.equal(model.train()(ids, None), model(ids, None))


def test_both_sums_of_a_layer_have_dropout():
    torch.manual_seed(0)
    layer = ScratchClassifier(SMALL).layers[0].train()
    layer.attention.dropout, layer.dropout.p = 0.0, 0.5
    x = torch.randn(2, 5, 16)
    for silent in (layer.attention.out, layer.feed_forward.outer):  # with one part silent, the other one's is seen
        weights = [parameter.detach().clone() for parameter in silent.parameters()]
        with torch.no_grad():
            for parameter in silent.parameters():
                parameter.zero_()
        assert not torch.equal(layer(x, None), layer(x, None))
        with torch.no_grad():
            for parameter, before in zip(silent.parameters(), weights, strict=True):
                parameter.copy_(before)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_whole_model_is_what_its_parts_make(norm):
    """Scaled embeddings plus positions, the layers, the last norm where there is one, the mean of what is real."""
    torch.manual_seed(0)
    model = ScratchClassifier(dataclasses.replace(SMALL, norm=norm)).eval()
    ids, mask = torch.randint(0, 50, (3, 7)), torch.arange(7) < torch.tensor([7, 4, 5])[:, None]
    hidden = model.embedding.weight[ids] * 16**0.5 + sinusoidal_positions(12, 16)[:7]
    for layer in model.layers:
        hidden = layer(hidden, attention_bias(mask[:, None, None, :]))
    if norm == "pre":
        hidden = nn.functional.layer_norm(hidden, (16,))
    means = torch.stack([row[real].mean(dim=0) for row, real in zip(hidden, mask, strict=True)])
    torch.testing.assert_close(model(ids, mask), means @ model.head.weight.T + model.head.bias, atol=1e-5, rtol=1e-4)
