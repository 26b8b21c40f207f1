"""Pretrained encoders: any that `transformers` reads, cut into a lower half run once and an upper half run every step.

    input_ids (B, T) -> `words` (B, T, E) -> `lower`: embeddings, first layers -> `upper`: the other layers (B, T, H)

Notable:
- the network is the one that `transformers` builds for the family; no layer is written out here
- the halves are views of one model: they share its modules, weights, modes and devices
- words go in as vectors, zero at padding, so that no family mistakes padding for text, or its id for a position
- other vectors may stand before the words, or keys and values before those of a layer, as prefix tuning has it
- a trial when an encoder is loaded decides whether its family is accepted, and which parameters can be trained
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from qc.errors import QcError, explain, printable
from qc.files import CONFIG, read_json
from qc.models.common import Dropout, attention, attention_bias

if TYPE_CHECKING:
    from qc.models.parameters import UpperLayers

TRIAL = (11, 5)  # tokens of the two questions of the trial
TOLERANCE = 1e-4  # of a hidden state, for what padding may change
ATTENTION = "qc"  # name of `attention` among those of transformers
TRIAL_ATTENTION = "qc-trial"  # the same, which modules remember
EAGER = "qc-eager"  # name of its masks for families that do not let one choose the attention
ADVICE = "take an encoder such as BERT, RoBERTa, MPNet, DeBERTa or ModernBERT"


class Encoder(nn.Module):
    """A pretrained encoder without its pooler.

    Attributes:
        lower_layers: Number of first layers that `lower` runs.
        upper_modules: The layers that `upper` runs.
        trainable: Parameters that fine-tuning trains: those that the published model trains, and that the output of
            `upper` depends on. Below `all`, neither embeddings nor what `lower` depends on.
        hidden_size: Size H of a position's vector after the last layer.

    Args:
        model: From `transformers.AutoModel`, in evaluation mode.
        upper_layers: Number of last layers that `upper` runs; `all` is the whole model, embeddings included.
        setting: The params.yaml key that sets it, for messages.

    Raises:
        QcError: The model has fewer layers, or fails the trial.
    """

    lower_layers: int
    hidden_size: int

    def __init__(self, model: nn.Module, upper_layers: "UpperLayers" = 0, setting: str = "upper_layers") -> None:
        super().__init__()
        self.model, self.upper_layers = model, upper_layers
        self.upper_modules: tuple[nn.Module, ...] = ()
        self.trainable: list[nn.Parameter] = []
        # Kept in a tuple so that nn.Module does not register the shared modules twice.
        self._halves = (model, model)
        try:
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):  # keeps the random state of the caller
                self._try(f"{setting}: invalid value {upper_layers}; expected")
        except Exception as error:  # every family raises its own errors
            if explain(error):  # such as no memory
                raise
            raise self._refusal(f"cannot be run on word vectors ({_words(error)})") from None

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
        bounds = [getattr(self.model.config.get_text_config(), "max_position_embeddings", None)]
        table = getattr(self.model.get_submodule(self._embeddings_name()), "position_embeddings", None)
        if isinstance(table, nn.Embedding):  # where padding has a row, positions begin after it (RoBERTa, MPNet)
            bounds.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
        return min((bound for bound in bounds if bound and bound > 0), default=None)

    def longest(self, tokens: int, prefix: int) -> int | None:
        """Find the longest sequence beside `prefix` vectors; None where the family sets no bound.

        Vectors before a later layer take positions in a few families, such as RoFormer: where `tokens` and prefix
        exceed the bound together, they are tried.
        """
        bound = self.max_positions
        if bound is None or not prefix:
            return bound
        length = min(tokens, bound) + prefix
        if self.lower_layers and length > bound:
            try:
                with torch.no_grad():
                    self.upper(torch.zeros(1, length, self.hidden_size), None)
            except Exception as error:  # every family raises its own errors
                if explain(error):
                    raise
                return bound - prefix
        return bound if self.lower_layers else bound - prefix

    def words(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Look up word vectors: ids (B, T) -> (B, T, E), zero where mask (B, T) is False."""
        words = self.model.get_input_embeddings()(input_ids)
        return words if mask is None else words.masked_fill(~mask[..., None], 0)

    def lower(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """Run the lower half: vectors (B, T, E), mask (B, T) bool or None -> (B, T, H).

        With no layers in it, it returns the vectors as they are, and `upper` is the whole model.
        """
        return _run(self._halves[0], words, mask) if self.lower_layers else words

    def upper(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Run the upper half on the output of `lower`: mask (B, T) bool or None -> (B, T, H)."""
        return _run(self._halves[1], hidden, mask) if self.upper_layers else hidden

    def forward(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """Run the whole model: vectors (B, T, E), mask (B, T) bool or None -> last hidden state (B, T, H)."""
        return _run(self.model, words, mask)

    @property
    def takes_keys_and_values(self) -> bool:
        """Whether `add_keys_and_values` can be used: the family lets one choose its attention."""
        return self.model.config._attn_implementation == ATTENTION

    def add_keys_and_values(self, length: int, std: float) -> None:
        """Give every layer of the upper half trainable keys and values, which all its tokens attend to.

        The parameter `keys_and_values` (2, heads, length, D) of a layer's attention is drawn with deviation `std`.
        Layers that share their weights share it too.
        """
        self.model.set_attn_implementation(TRIAL_ATTENTION)
        try:
            with torch.no_grad():
                self.upper(torch.zeros(1, 1, self.hidden_size if self.lower_layers else self.embedding_size), None)
        finally:
            self.model.set_attn_implementation(ATTENTION)
        for module in self.model.modules():
            heads_and_width = module.__dict__.pop("heads_and_width", None)  # see `_note`
            if heads_and_width:
                heads, width = heads_and_width
                module.keys_and_values = nn.Parameter(std * torch.randn(2, heads, length, width))

    def _try(self, expected: str) -> None:
        """Run two questions whole and in halves, and set what the trial shows; `expected` begins a message."""
        family, depth = self.model.config.model_type, self.model.config.get_text_config().num_hidden_layers
        self.lower_layers = 0 if self.upper_layers == "all" else depth - self.upper_layers
        if self.lower_layers < 0:
            raise QcError(f"{expected} at most {depth}, the number of layers of the encoder, or all")
        if not isinstance(self.model.get_input_embeddings(), nn.Embedding):
            raise self._refusal("has no table of word vectors")
        long, short = TRIAL
        mask = torch.arange(long) < torch.tensor([[long], [short]])
        pad = getattr(self.model.config.get_text_config(), "pad_token_id", None) or 0
        ids = (pad + 1 + torch.arange(2 * long).view(2, long) % (self.vocab_size - 1)) % self.vocab_size  # none is pad
        ids = ids.where(mask, pad)
        words = self.words(ids, mask).detach().requires_grad_()
        published = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        padded, alone = self(words, mask), self(words[1:, :short], None)
        self.hidden_size = padded.shape[-1]
        for one, other, fault in (
            (padded[mask], published[mask], "for word vectors than for their ids"),
            (padded[1, :short], alone[0], "beside padding than alone"),
        ):
            if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
                difference = (one - other).abs().max().item()
                raise self._refusal(f"computes other hidden states {fault} (by {difference:.1g})")
        needed = _leaves(padded)
        if torch.autograd.grad(padded.sum(), words, allow_unused=True) == (None,):  # Reformer's backward pass fails
            raise self._refusal("passes no gradient to its word vectors")
        if self.upper_layers == "all":
            needed.add(id(self.model.get_input_embeddings().weight))
        elif self.upper_layers == 0:
            needed = set()
        else:
            cases = ((words.detach(), mask, padded), (words.detach()[1:, :short], None, alone))
            for name, module in self.model.named_modules():
                if isinstance(module, nn.ModuleList) and len(module) == depth:
                    halves = self._cut(name)
                    needed = _leaves_above(*halves, cases)
                    if needed:
                        self.upper_modules = tuple(module[self.lower_layers :])
                        self._halves = halves if self.lower_layers else self._halves
                        break
            else:
                raise QcError(f"{expected} all, since the layers of {family!r} cannot be run in two halves")
            needed -= {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Embedding)}
        self.trainable = [
            weights for weights in self.model.parameters() if weights.requires_grad and id(weights) in needed
        ]

    def _refusal(self, fault: str) -> QcError:
        """Error about a family that failed the trial."""
        return _refusal(Path(self.model.name_or_path) / CONFIG, self.model.config.model_type, fault)

    def _cut(self, name: str) -> tuple[nn.Module, nn.Module]:
        """Cut the model in its list of layers `name`.

        The lower half ends before the first upper layer, so that nothing after the layers need be known by name.
        """
        layers, holder = self.model.get_submodule(name), name.rpartition(".")[0]
        end = copy.copy(layers[self.lower_layers])  # a layer to look at, for families that read its attributes
        end.forward = _end
        lower = _view(self.model, {name: nn.ModuleList([*layers[: self.lower_layers], end])})
        replaced: dict[str, nn.Module | None] = {name: nn.ModuleList(layers[self.lower_layers :])}
        embeddings = self._embeddings_name()
        if embeddings and not name.startswith(embeddings):
            replaced[embeddings] = _PassThrough()
        # Projections from the size of a word vector to that of the layers: ELECTRA and RoFormer; RemBERT.
        replaced[f"{embeddings}_project"] = replaced[f"{holder}.embedding_hidden_mapping_in"] = nn.Identity()
        if self.lower_layers:
            replaced[f"{holder}.conv"] = None  # DeBERTa's, which follows its first layer
        return lower, _view(self.model, replaced)

    def _embeddings_name(self) -> str:
        """Name of the module that looks up words and adds positions to them; empty where the model does so itself."""
        table = self.model.get_input_embeddings()
        return next(name for name, module in self.model.named_modules() if module is table).rpartition(".")[0]


class _Ended(Exception):
    """A lower half got to its end; the only argument is its output."""


def _end(*args: Tensor | None, **kwargs: Tensor | None) -> NoReturn:
    """Run in the place of the first upper layer: end the pass with that layer's input."""
    raise _Ended(args[0] if args else kwargs["hidden_states"])


class _PassThrough(nn.Module):
    """Identity in the place of the embeddings of an upper half."""

    def forward(self, *args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        """Return `inputs_embeds` (B, T, H), or the only tensor among the positional arguments."""
        given = kwargs.get("inputs_embeds")
        return given if given is not None else next(value for value in args if value is not None)


def _run(model: nn.Module, vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Run a model or a half of it: vectors (B, T, E or H), mask (B, T) bool or None -> (B, T, H)."""
    try:
        return model(inputs_embeds=vectors, attention_mask=None if mask is None else mask.long()).last_hidden_state
    except _Ended as ended:
        return ended.args[0]


def _view(model: nn.Module, replaced: Mapping[str, nn.Module | None]) -> nn.Module:
    """Copy a model, sharing its modules except those replaced by dotted name; names it lacks are ignored."""
    view = copy.copy(model)
    view._modules = dict(model._modules)
    for name, module in replaced.items():
        first, _, rest = name.partition(".")
        if view._modules.get(first) is not None:
            view._modules[first] = _view(view._modules[first], {rest: module}) if rest else module
    return view


def _leaves_above(
    lower: nn.Module, upper: nn.Module, cases: Iterable[tuple[Tensor, Tensor | None, Tensor]]
) -> set[int]:
    """Run two halves of a model on words (B, T, E) with a mask, and compare them with the whole's output.

    Returns:
        The ids of the parameters that the upper half depends on, and the lower does not; empty where the halves do not
        equal the whole.
    """
    above, below = set(), set()
    try:
        for words, mask, whole in cases:
            hidden = _run(lower, words, mask)
            output = _run(upper, hidden.detach(), mask)
            real = slice(None) if mask is None else mask
            if not torch.allclose(output[real], whole[real]):
                return set()
            above, below = above | _leaves(output), below | _leaves(hidden)
    except Exception as error:  # every family raises its own errors
        if explain(error):
            raise
        return set()
    return above - below


def _leaves(output: Tensor) -> set[int]:
    """Ids of the tensors that get a gradient from `output`."""
    leaves, seen, nodes = set(), set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return leaves


def load_encoder(folder: Path, upper_layers: "UpperLayers" = 0, setting: str = "upper_layers") -> Encoder:
    """Build the pretrained encoder in `folder`, in fp32 and evaluation mode.

    Args:
        folder: Holds config.json and the weights, as one file or as shards with their index.
        upper_layers: Number of its last layers that `upper` runs, or `all`, see `Encoder`.
        setting: The params.yaml key that sets it, for messages.

    Raises:
        QcError: Its files are missing or broken, or it is no encoder that this pipeline can use.
    """
    published = read_json(folder / CONFIG)
    # Imported here: it takes two seconds, and the model from scratch needs no encoder.
    from transformers import AutoModel
    from transformers.utils import logging

    _check_family(published, folder / CONFIG)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # keeps the random state of the caller
            model, loading = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        raise QcError(f"{folder}: weights cannot be read: {_words(error)}; `dvc checkout` restores them") from None
    except Exception as error:  # every family raises its own errors
        if explain(error):  # such as no memory
            raise
        raise QcError(f"{folder / CONFIG}: transformers cannot build this encoder: {_words(error)}") from None
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise QcError(
            f"{folder}: no weights for {', '.join(missing[:3])} ({len(missing)} missing in all); take an "
            "encoder whose config.json and weights belong together"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a copy in memory, not a view of the file
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # not used here; some families call it unasked
    use_attention(model)
    return Encoder(model.eval(), upper_layers, setting)


def use_attention(model: nn.Module) -> None:
    """Have a model of `transformers` attend by `attention`, where its family lets one choose.

    The masks of all families are built without a look at their content, for which a GPU would have to be waited for.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionInterface.register(TRIAL_ATTENTION, _note)
    for name in (ATTENTION, TRIAL_ATTENTION):
        AttentionMaskInterface.register(name, partial(_build_mask, sdpa_mask))
    AttentionMaskInterface.register(EAGER, partial(_build_mask, eager_mask))
    if model.is_backend_compatible():
        model.set_attn_implementation(ATTENTION)
    elif model.config._attn_implementation == "eager":
        model.config._attn_implementation = EAGER


def _build_mask(
    build: Callable[..., Tensor | None],
    *,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    **options: Any,
) -> Tensor | None:
    """Build a mask as `transformers` does, left out only where nothing is padded by the caller's word."""
    skip = allow_is_bidirectional_skip and attention_mask is None
    return build(attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **options)


def _attend(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend as a layer of `transformers` asks for it: to mixed values (B, T, heads, D)."""
    more = getattr(module, "keys_and_values", None)
    if more is not None:
        k, v = (
            torch.cat((new.to(old).expand(old.shape[0], -1, -1, -1), old), dim=2)  # len() would fix an export's batch
            for new, old in zip(more, (k, v), strict=True)
        )
        mask = None if mask is None else nn.functional.pad(mask, (more.shape[2], 0), value=True)
    if k.shape[1] != q.shape[1] or options.get("position_bias") is not None:  # heads share keys; a learned bias
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, q, k, v, mask, **options)
    bias = None if mask is None else attention_bias(mask)
    mixed = attention(q, k, v, bias, options.get("dropout", 0.0), options.get("scaling"))
    return mixed.transpose(1, 2).contiguous(), None


def _note(module: nn.Module, q: Tensor, k: Tensor, *given: Any, **options: Any) -> tuple[Tensor, None]:
    """Attend, and write the number of keys' heads and their width down in the module that asks for it."""
    module.heads_and_width = (k.shape[1], k.shape[3])
    return _attend(module, q, k, *given, **options)


def use_cheap_dropout(module: nn.Module) -> None:
    """Replace every `torch.nn.Dropout` in a module by `Dropout`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))


def _check_family(published: Mapping[str, Any], path: Path) -> None:
    """Refuse a model that is no encoder of `transformers`, by its config.json at `path`."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    family = published.get("model_type")
    if family not in CONFIG_MAPPING:
        fault = "needs code from its repository, which is never run"
        if "auto_map" not in published:
            fault = "is unknown to this version of transformers"
    elif published.get("is_encoder_decoder", CONFIG_MAPPING[family].is_encoder_decoder):
        fault = "is an encoder-decoder"
    elif published.get("is_decoder") or family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        fault = "is a decoder, or does not read text"
    else:
        return
    raise _refusal(path, family, fault)


def _refusal(path: Path, family: object, fault: str) -> QcError:
    """Error about a family that this pipeline cannot use, as config.json at `path` names it."""
    return QcError(f"{path}: model_type {family!r} {fault}; {ADVICE}")


def _words(error: Exception) -> str:
    """Message of another library's error in one line."""
    return printable(" ".join(str(error).split())) or type(error).__name__
