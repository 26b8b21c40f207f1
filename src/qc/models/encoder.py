"""A pretrained encoder of `transformers`, cut in two: the frozen half is run once, and vectors can stand before words.

    input_ids (B, T) -> `words` (B, T, E) -> `lower`: embeddings, first layers -> `upper`: the other layers (B, T, H)

Notable:
- the network is the one that `transformers` builds for the family; no layer is written out here
- the two halves are views: they share the modules of the one model, and so its weights, modes and devices
- words always go in as vectors, zero at padding: no family can take padding for text, or its id for a position
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from qc.errors import QcError

AFTER_LAYERS = ("final_norm",)  # children of a model that its lower half must not run yet
TrainableLayers = int | Literal["all"]

TRIED = 5  # tokens that a cut is tried on


class _Pass(nn.Module):
    """What stands in the place of the embeddings in an upper half: it hands on the vectors it is given."""

    def forward(self, *args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        """The one floating-point tensor (B, T, H) among the arguments called so, or the positional ones."""
        given = kwargs.get("inputs_embeds")
        return given if given is not None else next(value for value in args if value is not None)


# Children of a model that its upper half must not run again, and what stands in their place; `conv` beside the layers
# of DeBERTa, which runs after the first of them, is another.
BEFORE_LAYERS = {"embeddings": _Pass(), "embeddings_project": nn.Identity()}


class Encoder(nn.Module):
    """A pretrained encoder without its pooler.

    Args:
        model: From `transformers.AutoModel`, in evaluation mode.
        trainable_layers: How many of the last layers `upper` runs; `all`: the whole model, embeddings included.

    Raises:
        QcError: There are not so many, or the family's layers cannot be run in two halves.
    """

    def __init__(self, model: nn.Module, trainable_layers: TrainableLayers = 0) -> None:
        super().__init__()
        self.model, self.trainable_layers = model, trainable_layers
        if trainable_layers != "all" and trainable_layers > self.depth:
            raise QcError(
                f"params.yaml: train_distilbert.trainable_layers: {trainable_layers} is not possible; allowed: 0 to "
                f"{self.depth}, the layers of the encoder, or all"
            )
        self.frozen_layers = 0 if trainable_layers == "all" else self.depth - trainable_layers
        # In a tuple, so that the views register no second names for what they share.
        self._halves = self._cut() if 0 < self.frozen_layers < self.depth else None

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.model.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        """Size H of a position's vector after the last layer."""
        return self.model.config.hidden_size

    @property
    def embedding_size(self) -> int:
        """Size E of a word's vector."""
        return self.model.get_input_embeddings().embedding_dim

    @property
    def vocab_size(self) -> int:
        """Number of token ids that have a word vector."""
        return self.model.get_input_embeddings().num_embeddings

    @property
    def max_positions(self) -> int | None:
        """Longest sequence, special tokens counted; None where the family sets no bound."""
        table = getattr(self.model.embeddings, "position_embeddings", None)
        if isinstance(table, nn.Embedding):  # where padding has a row, positions begin after it (RoBERTa, MPNet)
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        return getattr(self.model.config, "max_position_embeddings", None)

    def upper_parts(self) -> list[nn.Module]:
        """The modules that `upper` runs, but for embeddings: layers that are not frozen, and what follows them."""
        if self.frozen_layers == self.depth:
            return []
        name = self._layers_name()
        layers = [] if name is None else self.model.get_submodule(name)[self.frozen_layers :]
        return [*layers, *(getattr(self.model, name) for name in AFTER_LAYERS if hasattr(self.model, name))]

    def words(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Word vectors of ids (B, T): (B, T, E), zero where mask (B, T) is False."""
        words = self.model.get_input_embeddings()(input_ids)
        return words if mask is None else words.masked_fill(~mask[..., None], 0)

    def lower(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """What is frozen, embeddings and first layers: vectors (B, T, E), mask (B, T) bool or None -> (B, T, H).

        With no layer frozen this is nothing: the vectors are handed on, and `upper` is the whole model.
        """
        if self.frozen_layers == 0:
            return words
        return _run(self._halves[0] if self._halves else self.model, words, mask)

    def upper(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The other layers: what `lower` gave, mask (B, T) bool or None -> (B, T, H)."""
        if self.frozen_layers == self.depth:
            return hidden
        return _run(self._halves[1] if self._halves else self.model, hidden, mask)

    def forward(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """The whole model: vectors (B, T, E), mask (B, T) bool or None -> the last layer's output (B, T, H)."""
        return _run(self.model, words, mask)

    def _cut(self) -> tuple[nn.Module, nn.Module]:
        """Part the model after its frozen layers, and make sure that the halves give what the whole gives."""
        fault = QcError(
            f"params.yaml: train_distilbert.trainable_layers: {self.trainable_layers} is not possible; allowed: 0 or "
            f"all, since the layers of {self.model.config.model_type!r} cannot be run in two halves"
        )
        name = self._layers_name()
        if name is None:
            raise fault
        layers, nothing = self.model.get_submodule(name), nn.Identity()
        first, rest = nn.ModuleList(layers[: self.frozen_layers]), nn.ModuleList(layers[self.frozen_layers :])
        lower = _view(self.model, {name: first, **dict.fromkeys(AFTER_LAYERS, nothing)})
        upper = _view(self.model, {name: rest, **BEFORE_LAYERS, f"{name.rpartition('.')[0]}.conv": None})
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            words = torch.randn(2, TRIED, self.embedding_size)
            mask = torch.arange(TRIED) < torch.tensor([[TRIED], [TRIED - 2]])
            try:
                same = torch.allclose(_run(upper, _run(lower, words, mask), mask)[mask], self(words, mask)[mask])
            except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
                same = False
        if not same:
            raise fault
        return lower, upper

    def _layers_name(self) -> str | None:
        """Name of the list of layers; None where there is none, or layers share their weights."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.depth:
                return name
        return None


def _run(model: nn.Module, vectors: Tensor, mask: Tensor | None) -> Tensor:
    """A model, or a view of it, on vectors (B, T, E or H): its last hidden state (B, T, H)."""
    found = model(inputs_embeds=vectors, attention_mask=None if mask is None else mask.long())
    return found.last_hidden_state


def _view(model: nn.Module, replaced: Mapping[str, nn.Module | None]) -> nn.Module:
    """A copy of a model that shares its modules, but for those replaced, by dotted name; names it lacks are passed."""
    view = copy.copy(model)
    view._modules = dict(model._modules)
    for name, module in replaced.items():
        first, _, rest = name.partition(".")
        if first not in view._modules:
            continue
        view._modules[first] = _view(view._modules[first], {rest: module}) if rest else module
    return view
