"""Attention, written out where sequences are short.

    softmax(Q K^T / sqrt(D) + bias) V    of queries, keys and values (B, heads, T, D)

PyTorch's `scaled_dot_product_attention` is made for long sequences. Forward and backward pass of 64 sequences, 12 heads
of 32, on 2 cores of an AMD EPYC with AVX512-BF16 (medians of 12), in milliseconds in bf16 and fp32:

    tokens    written out    PyTorch's default
        20      5 and   5        39 and   9
        64     24 and  31       100 and  29
       128    164 and 174       228 and  85
       256    694 and 754       290 and 220

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.models.dropout import drop

SHORT = 64  # tokens up to which attention is written out
NAME = "short"  # of this attention among those of `transformers`


def attention_bias(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a mask into a bias of the attention scores: 0 where it is True, the lowest number where it is False.

    Minus infinity would give NaN to a token that may attend to none, such as padding far from a sliding window's end.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Mix values by how well their keys fit a query.

    Args:
        q: Queries (B, heads, T, D).
        k: Keys (B, heads, T, D).
        v: Values (B, heads, T, D).
        bias: Added to the scores, broadcast to (B, heads, T, T), see `attention_bias`; None for none.
        dropout: Share of the attention weights that are set to zero, 0 to 1.
        scale: Factor of the scores; None: 1 / sqrt(D).

    Returns:
        (B, heads, T, D)
    """
    if q.device.type != "cpu" or q.shape[-2] > SHORT or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return drop(weights, dropout) @ v


def use_attention(model: nn.Module) -> None:
    """Have a model of `transformers` attend by `attention`, where its family lets one choose."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.is_backend_compatible():
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _attend(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """Attend as a layer of `transformers` asks for it: to mixed values (B, T, heads, D)."""
    if k.shape[1] != q.shape[1] or options.get("position_bias") is not None:  # heads share keys; a learned bias
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, q, k, v, mask, **options)
    bias = None if mask is None else attention_bias(mask)
    mixed = attention(q, k, v, bias, options.get("dropout", 0.0), options.get("scaling"))
    return mixed.transpose(1, 2).contiguous(), None
