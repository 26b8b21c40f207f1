"""A pretrained encoder of `transformers`, cut into a lower half that is run once and an upper half run in every step.

    input_ids (B, T) -> `words` (B, T, E) -> `lower`: embeddings, first layers -> `upper`: the other layers (B, T, H)

Notable:
- the network is the one that `transformers` builds for the family; no layer is written out here
- the halves are views of one model: they share its modules, weights, modes and devices
- words go in as vectors, zero at padding, so that no family mistakes padding for text, or its id for a position
- other vectors may stand before the words, as prefix tuning has it
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from qc.errors import QcError

UpperLayers = int | Literal["all"]

AFTER_LAYERS = ("final_norm",)  # children of a model that its lower half must not run
TRIAL_LENGTH = 5  # tokens that a cut is tried on


class _PassThrough(nn.Module):
    """Identity in the place of the embeddings of an upper half."""

    def forward(self, *args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        """The one floating-point tensor (B, T, H) among the arguments called so, or the positional ones."""
        given = kwargs.get("inputs_embeds")
        return given if given is not None else next(value for value in args if value is not None)


# Children of a model that its upper half must not run again, with their replacements. The convolution of DeBERTa, which
# runs after the first layer, is another.
BEFORE_LAYERS = {"embeddings": _PassThrough(), "embeddings_project": nn.Identity()}


class Encoder(nn.Module):
    """A pretrained encoder without its pooler.

    Args:
        model: From `transformers.AutoModel`, in evaluation mode.
        upper_layers: How many of the last layers `upper` runs; `all` is the whole model, embeddings included.
        setting: What asks for them, for messages.

    Raises:
        QcError: The model has fewer layers, or its layers cannot be run in two halves.
    """

    def __init__(self, model: nn.Module, upper_layers: UpperLayers = 0, setting: str = "upper_layers") -> None:
        super().__init__()
        self.model, self.upper_layers = model, upper_layers
        fault = f"{setting}: invalid value {upper_layers}; expected"
        if upper_layers != "all" and upper_layers > self.depth:
            raise QcError(f"{fault} at most {self.depth}, the number of layers of the encoder, or all")
        self.lower_layers = 0 if upper_layers == "all" else self.depth - upper_layers
        # In a tuple, so that the views register no second names for what they share.
        self._halves = None
        if 0 < self.lower_layers < self.depth:
            self._halves = self._cut()
            if self._halves is None:
                family = model.config.model_type
                raise QcError(f"{fault} all, since the layers of {family!r} cannot be run in two halves")

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
        """Longest sequence, special tokens included; None where the family sets no bound."""
        table = getattr(self.model.embeddings, "position_embeddings", None)
        if isinstance(table, nn.Embedding):  # where padding has a row, positions begin after it (RoBERTa, MPNet)
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        return getattr(self.model.config, "max_position_embeddings", None)

    def upper_parts(self) -> list[nn.Module]:
        """Modules that `upper` runs besides embeddings: layers that are not frozen, and what follows them."""
        if self.lower_layers == self.depth:
            return []
        name = self._layers_name()
        layers = [] if name is None else self.model.get_submodule(name)[self.lower_layers :]
        return [*layers, *(getattr(self.model, name) for name in AFTER_LAYERS if hasattr(self.model, name))]

    def words(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Word vectors of ids (B, T): (B, T, E), zero where mask (B, T) is False."""
        words = self.model.get_input_embeddings()(input_ids)
        return words if mask is None else words.masked_fill(~mask[..., None], 0)

    def lower(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """Run the lower half: vectors (B, T, E), mask (B, T) bool or None -> (B, T, H).

        With no layer frozen it returns the vectors as they are, and `upper` is the whole model.
        """
        if self.lower_layers == 0:
            return words
        return _run(self._halves[0] if self._halves else self.model, words, mask)

    def upper(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Run the upper half on the output of `lower`: mask (B, T) bool or None -> (B, T, H)."""
        if self.lower_layers == self.depth:
            return hidden
        return _run(self._halves[1] if self._halves else self.model, hidden, mask)

    def forward(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """Run the whole model: vectors (B, T, E), mask (B, T) bool or None -> last hidden state (B, T, H)."""
        return _run(self.model, words, mask)

    def _cut(self) -> tuple[nn.Module, nn.Module] | None:
        """Cut the model after its frozen layers; None where both halves together do not equal the whole."""
        name = self._layers_name()
        if name is None:
            return None
        layers, nothing = self.model.get_submodule(name), nn.Identity()
        first, rest = nn.ModuleList(layers[: self.lower_layers]), nn.ModuleList(layers[self.lower_layers :])
        lower = _view(self.model, {name: first, **dict.fromkeys(AFTER_LAYERS, nothing)})
        upper = _view(self.model, {name: rest, **BEFORE_LAYERS, f"{name.rpartition('.')[0]}.conv": None})
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            words = torch.randn(2, TRIAL_LENGTH, self.embedding_size)
            mask = torch.arange(TRIAL_LENGTH) < torch.tensor([[TRIAL_LENGTH], [TRIAL_LENGTH - 2]])
            try:
                same = torch.allclose(_run(upper, _run(lower, words, mask), mask)[mask], self(words, mask)[mask])
            except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
                same = False
        return (lower, upper) if same else None

    def _layers_name(self) -> str | None:
        """Name of the list of layers; None where there is none, as where layers share their weights."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.depth:
                return name
        return None


def _run(model: nn.Module, vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Run a model or a view of it on vectors (B, T, E or H): last hidden state (B, T, H)."""
    found = model(inputs_embeds=vectors, attention_mask=None if mask is None else mask.long())
    return found.last_hidden_state


def _view(model: nn.Module, replaced: Mapping[str, nn.Module | None]) -> nn.Module:
    """Copy a model, sharing its modules except those replaced by dotted name; names it lacks are ignored."""
    view = copy.copy(model)
    view._modules = dict(model._modules)
    for name, module in replaced.items():
        first, _, rest = name.partition(".")
        if first not in view._modules:
            continue
        view._modules[first] = _view(view._modules[first], {rest: module}) if rest else module
    return view
