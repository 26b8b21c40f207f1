"""A transformer encoder classifier, written out to be read top to bottom.

    input_ids (B, T) -> embeddings + sinusoidal positions -> N encoder layers -> masked mean -> logits (B, C)

Notable:
- post-norm as published, or pre-norm; padding masked, or attended to and averaged in as some notebooks do
- one fused projection for queries, keys and values; attention itself is PyTorch's `scaled_dot_product_attention`
- rows of the embedding table only for tokens that the training split holds; every other token shares [UNK]'s row

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.models.output import OutputLayer


@dataclass(frozen=True)
class ScratchConfig:
    """Sizes of a `ScratchClassifier`.

    Attributes:
        vocab_size: Number of ids the tokenizer can produce.
        classes: Number of classes.
        coarse_of: For each fine class, the coarse class it lies in; empty for no second task (`OutputLayer`).
        width: Size of a token's vector; even, and divisible by `heads`.
        heads: Attention heads a layer.
        ff_width: Inner size of the position-wise feed-forward network.
        layers: Encoder layers.
        max_length: Longest sequence, in tokens.
        dropout: Dropout after embeddings, attention and feed-forward, 0 to 1.
        norm: `post` normalizes after each residual sum (as published), `pre` before each sub-layer.
        mask_padding: False pads every question to `max_length` and treats padding as if it were text.
        unknown_id: The tokenizer's id of [UNK].
        pad_id: The tokenizer's id of [PAD].
    """

    vocab_size: int
    classes: int
    coarse_of: Sequence[int]
    width: int
    heads: int
    ff_width: int
    layers: int
    max_length: int
    dropout: float
    norm: Literal["post", "pre"]
    mask_padding: bool
    unknown_id: int
    pad_id: int


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a padding mask into what is added to the attention scores.

    Args:
        mask: (B, T) bool, True where a token is real; None when nothing is padded.
        dtype: Floating-point type of the scores.

    Returns:
        (B, 1, 1, T): 0 where a key may be attended to, minus infinity where not; None for None.
    """
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, float("-inf"))[:, None, None, :]


def masked_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real positions: (B, T, H) and (B, T) bool -> (B, H); over all of them without a mask.

    Summed in fp32 whatever the precision of `hidden`, so that a question's mean is the same with and without padding.
    Autocast would lower a product with the mask to bf16.
    """
    hidden = hidden.float()
    if mask is None:
        return hidden.mean(dim=1)
    real = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    return (hidden * real).sum(dim=1) / real.sum(dim=1)


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention (section 3.2.2 of the paper), queries, keys and values in one matrix.

    `qkv` is laid out as `torch.nn.MultiheadAttention.in_proj_weight`: (3 * width, width).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B, T, width) and an additive bias (B, 1, 1, T) or None -> (B, T, width)."""
        B, T, width = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if bias is not None:
            bias = bias.to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)  # (B, H, T, D)
        return self.out(mixed.transpose(1, 2).reshape(B, T, width))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, applied at every position (section 3.3)."""

    def __init__(self, width: int, ff_width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, ff_width)
        self.outer = nn.Linear(ff_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        return self.outer(F.relu(self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each with dropout, a residual sum and a LayerNorm."""

    def __init__(
        self,
        width: int,
        heads: int,
        ff_width: int,
        *,
        dropout: float,
        norm: Literal["post", "pre"] = "post",
    ) -> None:
        super().__init__()
        self.pre_norm = norm == "pre"
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ff_width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B, T, width) and an additive bias (B, 1, 1, T) or None -> (B, T, width)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), bias))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, bias)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """The fixed position vectors of section 3.5 of the paper: (length, width), sines and cosines interleaved."""
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (T, 1)
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))  # (W/2,)
    angle = position * frequency  # (T, W/2)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).reshape(length, width)


class ScratchClassifier(nn.Module):
    """A transformer encoder with a linear head on the mean of the last layer, trained from nothing.

    Args:
        config: The sizes.
        token_ids: The ids that get a row of their own in the embedding table, [UNK] among them; all other ids share
            the row of [UNK]. None gives every id a row.
    """

    def __init__(self, config: ScratchConfig, token_ids: Sequence[int] | None = None) -> None:
        super().__init__()
        self.config = config
        rows = torch.arange(config.vocab_size)
        if token_ids is not None:
            kept = torch.tensor(sorted({config.unknown_id, *token_ids}))
            rows = torch.searchsorted(kept, torch.tensor(config.unknown_id)).repeat(config.vocab_size)
            rows[kept] = torch.arange(len(kept))
        self.register_buffer("rows", rows, persistent=token_ids is not None)  # (vocab_size,) id -> row of the table
        self.register_buffer("positions", sinusoidal_positions(config.max_length, config.width), persistent=False)
        self.embedding = nn.Embedding(int(rows.max()) + 1, config.width)
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.ff_width, dropout=config.dropout, norm=config.norm)
            for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.head = OutputLayer(config.width, config.classes, config.coarse_of)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @property
    def output_layer(self) -> OutputLayer:
        """Where the logits come from."""
        return self.head

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            input_ids: (B, T) ids of the tokenizer, T at most `max_length`.
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        if not self.config.mask_padding:  # padding is text here, so it is [PAD] whatever the caller padded with
            if mask is not None:
                input_ids = input_ids.masked_fill(~mask, self.config.pad_id)
            input_ids = F.pad(input_ids, (0, self.config.max_length - input_ids.shape[1]), value=self.config.pad_id)
            mask = None
        x = self.embedding(self.rows[input_ids]) * math.sqrt(self.config.width)  # (B, T, W)
        x = self.dropout(x + self.positions[: x.shape[1]])
        bias = attention_bias(mask, x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(masked_mean(self.final_norm(x), mask))
