"""Attention as it is written out for short sequences, against PyTorch's and that of `transformers`."""

import pytest
import torch
from torch.nn import functional as F

from qc.models import common
from qc.models import encoder as room
from qc.models.common import SHORT, attention, attention_bias
from qc.models.encoder import load_encoder
from tests.conftest import write_encoder

MASK = torch.tensor([[True, True, True, False, False], [True] * 5])[:, None, None, :]


def heads(tokens=5, number=3, requires_grad=False):
    """Queries, keys or values (2, number, tokens, 4)."""
    return torch.randn(2, number, tokens, 4, requires_grad=requires_grad)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("masked", [True, False])
def test_values_and_gradients_equal_pytorchs(monkeypatch, masked, scale):
    torch.manual_seed(0)
    inputs, upstream = [heads(requires_grad=True) for _ in range(3)], heads()
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=MASK if masked else None, scale=scale)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", None)  # written out, not handed on
    found = attention(*inputs, attention_bias(MASK) if masked else None, scale=scale)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(found, inputs, upstream), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_products_are_bf16_and_weights_fp32_under_autocast(monkeypatch):
    kinds = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: kinds.append(x.dtype) or softmax(x, dim=dim))
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(heads(), heads(), heads(), attention_bias(MASK))
    assert (found.dtype, kinds) == (torch.bfloat16, [torch.float32])


def test_longer_sequences_are_pytorchs_matter(monkeypatch):
    calls = []
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", lambda q, *_, **options: calls.append(options) or q)
    for tokens in (SHORT, SHORT + 1):
        attention(heads(tokens), heads(tokens), heads(tokens), None, 0.2, 0.7)
    assert calls == [{"attn_mask": None, "dropout_p": 0.2, "scale": 0.7}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_that_may_attend_to_none_stays_finite(dtype):
    bias = attention_bias(torch.zeros(2, 1, 5, 5, dtype=torch.bool), dtype)
    assert bias.isfinite().all()
    assert attention(heads(), heads(), heads(), bias).isfinite().all()


def test_dropout_sets_weights_to_zero_and_scales_the_others():
    torch.manual_seed(0)
    tokens, p = 60, 0.3
    q, k, all_values = (
        torch.zeros(4, 3, tokens, 8),
        torch.zeros(4, 3, tokens, 8),
        torch.eye(tokens).expand(4, 3, -1, -1),
    )
    weights = attention(q, k, all_values, None, p)  # (4, 3, 60, 60), 1 / 60 each without dropout
    kept = weights != 0
    assert torch.allclose(weights[kept], torch.tensor(1 / tokens / (1 - p)))
    assert abs(1 - p - kept.double().mean().item()) < 4 * (p * (1 - p) / weights.numel()) ** 0.5


@pytest.mark.parametrize(("family", "layers"), [("bert", 3), ("modernbert", 3), ("mpnet", 0)])
def test_a_family_attends_by_it_where_it_can_choose(tmp_path, monkeypatch, family, layers):
    write_encoder(tmp_path, family=family)
    encoder, calls = load_encoder(tmp_path), []
    monkeypatch.setattr(room, "attention", lambda *args: calls.append(args) or attention(*args))
    encoder(torch.randn(2, 5, 16), MASK[:, 0, 0])
    assert len(calls) == layers


def test_a_family_hands_on_its_dropout_in_training(tmp_path, monkeypatch):
    write_encoder(tmp_path)
    encoder, dropouts = load_encoder(tmp_path), []
    monkeypatch.setattr(room, "attention", lambda *args: dropouts.append(args[4]) or attention(*args))
    for mode in (False, True):
        encoder.model.train(mode)
        encoder(torch.randn(2, 5, 16), None)
    assert dropouts == [0.0] * 3 + [encoder.model.config.attention_probs_dropout_prob] * 3
