"""Pretrained BERT-like and DistilBERT-like encoders: one network under two sets of names.

Notable:
- embeddings and layers are separate calls, so that callers can put vectors between them or run the lower layers once
- no pooler and no language-model head: neither is used here
- the weights come as a mapping of published names; reading the file is the caller's business

Sources: Devlin et al., "BERT", NAACL 2019; Sanh et al., "DistilBERT", 2019.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from qc.errors import QcError
from qc.models.scratch import ACTIVATIONS, EncoderLayer, attention_bias

# Names in a published config.json, in the order of EncoderConfig's first eight fields.
_CONFIG_KEYS = {
    "bert": [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "hidden_act",
    ],
    "distilbert": [
        "vocab_size",
        "dim",
        "n_layers",
        "n_heads",
        "hidden_dim",
        "max_position_embeddings",
        "dropout",
        "attention_dropout",
        "activation",
    ],
}

# Published name of a layer's part -> ours. Queries, keys and values are joined into one matrix on loading.
_LAYER_PARTS = {
    "attention.self.query": "attention.q",
    "attention.self.key": "attention.k",
    "attention.self.value": "attention.v",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.inner",
    "output.dense": "feed_forward.outer",
    "output.LayerNorm": "feed_forward_norm",
    "attention.q_lin": "attention.q",
    "attention.k_lin": "attention.k",
    "attention.v_lin": "attention.v",
    "attention.out_lin": "attention.out",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "feed_forward.inner",
    "ffn.lin2": "feed_forward.outer",
    "output_layer_norm": "feed_forward_norm",
}
_EMBEDDING_PARTS = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "token_types",
    "LayerNorm": "norm",
}
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.(.+)\.(weight|bias|gamma|beta)")
_EMBEDDING = re.compile(r"embeddings\.(.+)\.(weight|bias|gamma|beta)")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an `Encoder`, read from a published `config.json` by `from_published`."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    ff_width: int
    max_positions: int
    dropout: float
    attention_dropout: float
    activation: str
    token_types: int
    norm_eps: float

    @classmethod
    def from_published(cls, published: Mapping[str, Any]) -> "EncoderConfig":
        """Read the sizes from a published configuration.

        Args:
            published: The content of a `config.json`.

        Raises:
            QcError: The architecture is not BERT-like or DistilBERT-like, or a key is missing or unsupported.
        """
        family = published.get("model_type")
        if family not in _CONFIG_KEYS:
            raise QcError(f"config.json: model_type {family!r} is not supported; allowed: {', '.join(_CONFIG_KEYS)}")
        missing = [key for key in _CONFIG_KEYS[family] if key not in published]
        if missing:
            raise QcError(f"config.json: {', '.join(missing)} missing; a {family} configuration names its sizes")
        values = [published[key] for key in _CONFIG_KEYS[family]]
        if values[-1] not in list(ACTIVATIONS):
            raise QcError(f"config.json: activation {values[-1]!r} is not supported; allowed: {', '.join(ACTIVATIONS)}")
        position_type = published.get("position_embedding_type", "absolute")
        if position_type != "absolute":
            raise QcError(f"config.json: position_embedding_type {position_type!r} is not supported; allowed: absolute")
        token_types = published.get("type_vocab_size", 2) if family == "bert" else 0
        found = cls(*values, token_types, published.get("layer_norm_eps", 1e-12))
        for field in fields(found):
            value = getattr(found, field.name)
            least = 0 if field.name == "token_types" else 1
            if (field.type is int and not (type(value) is int and least <= value < 2**31)) or (
                field.type is float and not (type(value) in (int, float) and 0 <= value < 1)
            ):
                allowed = f"a number from {least}" if field.type is int else "a number from 0 to 1"
                raise QcError(f"config.json: {field.name}: {value!r} is not possible; allowed: {allowed}")
        if found.width % found.heads:
            raise QcError(f"config.json: a width of {found.width} cannot be parted among {found.heads} heads")
        return found


class Embeddings(nn.Module):
    """Word, position and (BERT) token-type embeddings, summed and normalized."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.token_types = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, first: int = 0) -> Tensor:
        """ids (B, T), the first of them at position `first` -> (B, T, width)."""
        return self.place(self.words(input_ids), first)

    def place(self, vectors: Tensor, first: int = 0) -> Tensor:
        """The same for vectors (..., T, width) in the place of word embeddings."""
        x = vectors + self.positions.weight[first : first + vectors.shape[-2]]
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))


class Encoder(nn.Module):
    """A BERT-like encoder without pooler: `embeddings`, then `layers`, post-norm.

    Built with random weights (normal, 0.02) until `load_published` fills them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.width,
                config.heads,
                config.ff_width,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                norm_eps=config.norm_eps,
                activation=config.activation,
            )
            for _ in range(config.layers)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def run_layers(self, hidden: Tensor, mask: Tensor | None, first: int = 0, last: int | None = None) -> Tensor:
        """Run layers `first` to `last` (exclusive; None: to the end).

        Args:
            hidden: (B, T, width), the output of the layer below `first`.
            mask: (B, T) bool, True where a position may be attended to; None for everywhere.

        Returns:
            (B, T, width)
        """
        bias = attention_bias(mask, hidden.dtype)
        for layer in self.layers[first:last]:
            hidden = layer(hidden, bias)
        return hidden

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """ids (B, T), mask (B, T) bool or None -> the last layer's output (B, T, width)."""
        return self.run_layers(self.embeddings(input_ids), mask)

    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill in published weights, whatever of the known namings they use.

        Args:
            tensors: Tensors by published name, of a BERT-like or DistilBERT-like checkpoint; heads are passed over.

        Raises:
            QcError: A weight is missing or has another shape than the configuration says.
        """
        ours = _our_names(tensors)
        expected = self.state_dict()
        missing = sorted(expected.keys() - ours.keys())
        if missing:
            raise QcError(f"model.safetensors: no weights for {', '.join(missing[:3])} ({len(missing)} missing in all)")
        for name, tensor in expected.items():
            if ours[name].shape != tensor.shape:
                raise QcError(
                    f"model.safetensors: {name} has shape {tuple(ours[name].shape)}, "
                    f"config.json asks for {tuple(tensor.shape)}"
                )
        self.load_state_dict({name: ours[name].float() for name in expected})


def _our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published tensors to `Encoder`'s names, joining queries, keys and values."""
    ours = {}
    for published, tensor in tensors.items():
        if layer := _LAYER.search(published):
            number, part, kind = layer.groups()
            part = _LAYER_PARTS.get(part)
            prefix = f"layers.{number}."
        elif embedding := _EMBEDDING.search(published):
            part, kind = embedding.groups()
            part = _EMBEDDING_PARTS.get(part)
            prefix = "embeddings."
        else:
            continue
        if part is not None:
            kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
            ours[f"{prefix}{part}.{kind}"] = tensor
    for name in [name for name in ours if ".attention.q." in name]:
        parts = [name.replace(".attention.q.", f".attention.{letter}.") for letter in "qkv"]
        if all(part in ours for part in parts):
            ours[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat([ours.pop(part) for part in parts])
    return ours
