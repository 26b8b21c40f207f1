"""What every model has in common, so that training, inference and reports treat them alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from qc.models.head import HierarchicalHead

if TYPE_CHECKING:
    from qc.models.encoder import Encoder, UpperLayers


@dataclass(frozen=True)
class Task:
    """What a new model is built for.

    Attributes:
        classes: Number of coarse classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
        max_length: Tokens kept of a question, special tokens not counted.
        vocab_size: Number of ids of the tokenizer.
        unknown_id: Its id of [UNK].
        pad_id: Its id of [PAD].
        token_counts: (at most vocab_size,) how often each id occurs in the training split.
    """

    classes: int
    coarse_of: Sequence[int]
    max_length: int
    vocab_size: int
    unknown_id: int
    pad_id: int
    token_counts: Tensor


class Classifier(nn.Module):
    """A network that maps (inputs, mask) to logits (B, classes + fine classes).

    Attributes:
        special_tokens: Whether questions keep the special tokens of the tokenizer.
        sizes: What `rebuild` needs, as `config.json` keeps it.
        output_layer: The head that the logits come from.
        has_frozen_part: Whether `frozen_features` may replace the token ids.
    """

    special_tokens: ClassVar[bool] = True
    has_frozen_part: bool = False
    sizes: dict[str, Any]
    output_layer: HierarchicalHead

    @classmethod
    def load_encoder(cls, folder: Path, upper_layers: "UpperLayers") -> "Encoder | None":
        """Load the pretrained encoder that the model needs; None for a model without one."""
        return None

    @classmethod
    def create(cls, config: Any, task: Task, encoder: "Encoder | None") -> Self:
        """Build an untrained model.

        Args:
            config: Its section of params.yaml.
            task: Classes, vocabulary and lengths.
            encoder: The pretrained encoder, where the section names one.
        """
        raise NotImplementedError

    @classmethod
    def rebuild(cls, sizes: Mapping[str, Any], trained: Mapping[str, Tensor], encoder: "Encoder | None") -> Self:
        """Build a model of the sizes of a trained one; its trained tensors are loaded afterwards."""
        return cls(encoder, **sizes)

    @classmethod
    def prefix_positions(cls, config: Any) -> int:
        """Positions that the model puts before a question's first token."""
        return 0

    pools_features: bool = False

    def frozen_features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run the frozen part: ids (B, T), mask (B, T) bool or None -> (B, T, H), or (B, 1, H) where it pools."""
        raise NotImplementedError
