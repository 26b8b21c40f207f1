"""A transformer encoder classifier, written out to be read from top to bottom.

    input_ids (B, T) -> embeddings + positions -> convolution -> N encoder layers -> mean and maximum -> logits (B, C)

Notable:
- a convolution over neighbouring tokens before the layers: in 1,600 questions a layer alone does not learn word order
- post-norm as published, or pre-norm; padding masked, or attended to and averaged in as some notebooks do
- one fused projection for queries, keys and values; `qc.models.common` has what the other models use too
- rows of the embedding table only for tokens that the training split holds; every other token shares [UNK]'s row

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; the convolution and the maximum over tokens are those
of Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qc.models.common import Classifier, Dropout, HierarchicalHead, Task, attention, attention_bias, masked_mean

if TYPE_CHECKING:
    from qc.models.scratch_parameters import ScratchTrainingConfig


@dataclass(frozen=True)
class ScratchConfig:
    """Sizes of a `ScratchClassifier`.

    Attributes:
        vocab_size: Number of ids the tokenizer can produce.
        classes: Number of classes.
        coarse_of: For each fine class, the coarse class it lies in; empty for no second task (`HierarchicalHead`).
        hidden_size: Size H of a token's vector; even, and divisible by `heads`.
        heads: Attention heads a layer.
        ffn_size: Inner size of the position-wise feed-forward network.
        layers: Encoder layers.
        max_length: Longest sequence, in tokens.
        dropout: Dropout after embeddings, attention and feed-forward, 0 to 1.
        convolution: Neighbouring tokens that a convolution before the layers sees at once; 0 for no convolution.
        pooling: `mean` over the real tokens, or `mean_max`: their mean and maximum side by side.
        head_dropout: Dropout before the head, 0 to 1.
        norm: `post` normalizes after each residual sum (as published), `pre` before each sub-layer.
        mask_padding: False pads every question to `max_length` and treats padding as if it were text.
        unknown_id: The tokenizer's id of [UNK].
        pad_id: The tokenizer's id of [PAD].
    """

    vocab_size: int
    classes: int
    coarse_of: Sequence[int]
    hidden_size: int
    heads: int
    ffn_size: int
    layers: int
    max_length: int
    dropout: float
    convolution: int
    pooling: Literal["mean", "mean_max"]
    head_dropout: float
    norm: Literal["post", "pre"]
    mask_padding: bool
    unknown_id: int
    pad_id: int


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention (section 3.2.2 of the paper), queries, keys and values in one matrix.

    `qkv` is laid out as `torch.nn.MultiheadAttention.in_proj_weight`: (3 * hidden_size, hidden_size).
    """

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B, T, hidden_size) and an additive bias (B, 1, 1, T) or None -> (B, T, hidden_size)."""
        B, T, hidden_size = x.shape
        split = self.qkv(x).view(B, T, 3, self.heads, hidden_size // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, heads, T, D)
        mixed = attention(q, k, v, bias, self.dropout if self.training else 0.0)  # (B, heads, T, D)
        return self.out(mixed.transpose(1, 2).reshape(B, T, hidden_size))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, applied at every position (section 3.3)."""

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.ffn_size)
        self.outer = nn.Linear(config.ffn_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, hidden_size) -> (B, T, hidden_size)."""
        return self.outer(F.relu(self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each with dropout, a residual sum and a LayerNorm."""

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = MultiHeadAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B, T, hidden_size) and an additive bias (B, 1, 1, T) or None -> (B, T, hidden_size)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), bias))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, bias)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Convolution(nn.Module):
    """Convolution over neighbouring tokens with a ReLU, as one matrix product."""

    def __init__(self, config: ScratchConfig) -> None:
        super().__init__()
        self.width = config.convolution
        self.linear = nn.Linear(self.width * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H), zeros at padding -> (B, T, H)."""
        T = x.shape[1]
        padded = F.pad(x, (0, 0, (self.width - 1) // 2, self.width // 2))
        shifted = [padded[:, first : first + T] for first in range(self.width)]
        return F.relu(self.linear(torch.cat(shifted, dim=-1)))  # of (B, T, width * H)


def sinusoidal_positions(length: int, hidden_size: int) -> Tensor:
    """The fixed position vectors of section 3.5 of the paper: (length, hidden_size), sines and cosines interleaved."""
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (T, 1)
    even = torch.arange(0, hidden_size, 2, dtype=torch.float32)  # (H/2,)
    angle = position * torch.exp(even * (-math.log(10000.0) / hidden_size))  # (T, H/2)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).reshape(length, hidden_size)


class ScratchClassifier(Classifier):
    """A transformer encoder trained from scratch, with a linear head on the pooled last layer.

    Args:
        config: The sizes.
        token_ids: The ids that get a row of their own in the embedding table, [UNK] among them; all other ids share
            the row of [UNK]. None gives every id a row.
    """

    special_tokens = False

    def __init__(self, config: ScratchConfig, token_ids: Sequence[int] | None = None) -> None:
        super().__init__()
        self.config, self.sizes = config, asdict(config)
        rows = torch.arange(config.vocab_size)
        if token_ids is not None:
            kept = torch.tensor(sorted({config.unknown_id, *token_ids}))
            rows = torch.searchsorted(kept, torch.tensor(config.unknown_id)).repeat(config.vocab_size)
            rows[kept] = torch.arange(len(kept))
        self.register_buffer("rows", rows, persistent=token_ids is not None)  # (vocab_size,) id -> row of the table
        self.register_buffer("positions", sinusoidal_positions(config.max_length, config.hidden_size), persistent=False)
        self.embedding = nn.Embedding(int(rows.max()) + 1, config.hidden_size)
        if config.convolution:
            self.convolution = Convolution(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.hidden_size) if config.norm == "pre" else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.head_dropout = Dropout(config.head_dropout)
        pooled = config.hidden_size * (2 if config.pooling == "mean_max" else 1)
        self.head = HierarchicalHead(pooled, config.classes, config.coarse_of)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @classmethod
    def create(cls, config: "ScratchTrainingConfig", task: Task, encoder: object = None) -> Self:
        """Build an untrained model, see `Classifier.create`; ids rarer than `config.min_count` share a row."""
        sizes = ScratchConfig(
            vocab_size=task.vocab_size,
            classes=task.classes,
            coarse_of=task.coarse_of,
            hidden_size=config.hidden_size,
            heads=config.heads,
            ffn_size=config.ffn_size,
            layers=config.layers,
            max_length=task.max_length,
            dropout=config.dropout,
            norm=config.norm,
            convolution=config.convolution,
            pooling=config.pooling,
            head_dropout=config.head_dropout,
            mask_padding=config.mask_padding,
            unknown_id=task.unknown_id,
            pad_id=task.pad_id,
        )
        frequent = (task.token_counts >= config.min_count).nonzero()[:, 0].tolist()
        return cls(sizes, frequent if config.min_count else None)

    @classmethod
    def rebuild(cls, sizes: Mapping[str, Any], trained: Mapping[str, Tensor], encoder: object = None) -> Self:
        """Build a model of the sizes of a trained one, with its table of embedding rows."""
        config, rows = ScratchConfig(**sizes), trained.get("rows")
        return cls(config, None if rows is None else (rows != rows[config.unknown_id]).nonzero()[:, 0].tolist())

    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Embed tokens and positions: ids (B, T), T at most `max_length`, see `Classifier.features` -> (B, T, H)."""
        if not self.config.mask_padding:  # padding is text here, so it is [PAD] whatever the caller padded with
            if mask is not None:
                input_ids = input_ids.masked_fill(~mask, self.config.pad_id)
            input_ids = F.pad(input_ids, (0, self.config.max_length - input_ids.shape[1]), value=self.config.pad_id)
        x = self.embedding(self.rows[input_ids]) * math.sqrt(self.config.hidden_size)  # (B, T, H)
        return self.dropout(x + self.positions[: x.shape[1]])

    def classify(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Run convolution, layers, pooling and head, see `Classifier.classify`."""
        x, bias = features, None
        if not self.config.mask_padding:
            mask = None
        if mask is not None:  # in the type of the products, once for all layers
            lowered = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if lowered else x.dtype
            bias = attention_bias(mask[:, None, None, :], dtype)
        if self.config.convolution:
            x = x + self.dropout(self.convolution(x if mask is None else x * mask[..., None]))
        for layer in self.layers:
            x = layer(x, bias)
        x = self.final_norm(x)
        pooled = masked_mean(x, mask)  # (B, H)
        if self.config.pooling == "mean_max":
            real = x if mask is None else x.masked_fill(~mask[..., None], -torch.inf)
            pooled = torch.cat([pooled, real.amax(dim=1)], dim=-1)  # (B, 2 * H)
        return self.head(self.head_dropout(pooled))
