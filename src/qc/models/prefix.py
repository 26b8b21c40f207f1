"""Prefix tuning: a frozen encoder, a few trainable vectors that its last layers attend to, and a linear head.

    input_ids -> lower layers -> upper layers, attending to the prefix as well -> mean over the question -> logits

Only the prefix and `head` are trained. The output of the lower layers never changes, so it is computed once. The prefix
has one of two forms:

- `key_value`: P keys and P values in every upper layer, (2, heads, P, D) each; ALBERT's layers share them. They take no
  position, and nothing but attention is computed for them. For families that let one choose their attention
- `vector`: P vectors (P, H) before the question, which pass through the upper layers beside it; the mean leaves them
  out. Where all layers are upper ones they stand before the word vectors (E) like P more words: they take the first P
  positions and pass everything the family does with words

Source: Li and Liang, "Prefix-Tuning", ACL 2021, for keys and values; vectors before the words as in Lester et al., "The
Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; before a later layer as in Liu et al., "Late Prompt
Tuning", Findings of EMNLP 2022.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from qc.errors import QcError
from qc.models.common import Classifier, HierarchicalHead, Task, masked_mean
from qc.models.encoder import Encoder, load_encoder

if TYPE_CHECKING:
    from qc.models.prefix_parameters import PrefixForm, PrefixTrainingConfig


class PrefixClassifier(Classifier):
    """A frozen encoder steered by a trainable prefix.

    Args:
        encoder: The pretrained encoder; frozen here, and always run without dropout. Its upper layers see the prefix.
        prefix_length: Number P of trainable vectors, or of keys and values a layer; 0 trains the head alone.
        classes: Number of classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
        prefix_form: `key_value` or `vector`, see above.
        prefix_std: Standard deviation of the prefix before training.
    """

    load_encoder = staticmethod(load_encoder)

    def __init__(
        self,
        encoder: Encoder,
        prefix_length: int,
        classes: int,
        coarse_of: Sequence[int] = (),
        prefix_form: "PrefixForm" = "vector",
        prefix_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.sizes = {
            "prefix_form": prefix_form,
            "prefix_length": prefix_length,
            "classes": classes,
            "coarse_of": list(coarse_of),
        }
        self.encoder = encoder.requires_grad_(False)
        self.prefix = None
        if prefix_length and prefix_form == "vector":
            width = encoder.hidden_size if encoder.lower_layers else encoder.embedding_size
            self.prefix = nn.Parameter(prefix_std * torch.randn(prefix_length, width))
        elif prefix_length:
            encoder.add_keys_and_values(prefix_length, prefix_std)
        self.head = HierarchicalHead(encoder.hidden_size, classes, coarse_of)

    @classmethod
    def create(cls, config: "PrefixTrainingConfig", task: Task, encoder: Encoder | None) -> Self:
        """Build an untrained model, see `Classifier.create`."""
        length, form, std = config.prefix_length or 0, config.prefix_form, config.prefix_std
        return cls(encoder, length, task.classes, task.coarse_of, form, std)

    @classmethod
    def prefix_positions(cls, config: "PrefixTrainingConfig") -> int:
        """Number of prefix vectors before a question; keys and values take no position."""
        return 0 if config.prefix_form == "key_value" else config.prefix_length or 0

    @classmethod
    def check_encoder(cls, config: "PrefixTrainingConfig", encoder: Encoder) -> None:
        """Raise QcError where the encoder's attention takes no keys and values, and the section wants them."""
        if config.prefix_form == "key_value" and config.prefix_length and not encoder.takes_keys_and_values:
            raise QcError(
                "params.yaml: train_prefix.prefix_form: invalid value 'key_value'; expected vector for encoders of "
                f"{encoder.model.config.model_type!r}, whose attention takes no further keys and values"
            )

    @property
    def has_frozen_part(self) -> bool:
        """True where some layers do not see the prefix, or there is none."""
        return not self.prefix_length or self.encoder.lower_layers > 0

    @property
    def pools_features(self) -> bool:
        """True without a prefix."""
        return not self.prefix_length

    def train(self, mode: bool = True) -> Self:
        """Switch the head's mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run the lower layers, see `Classifier.features`; without a prefix all layers and the mean."""
        words = self.encoder.words(input_ids, mask)
        if not self.prefix_length:
            return masked_mean(self.encoder(words, mask), mask)[:, None]
        return self.encoder.lower(words, mask)

    def classify(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Run the upper layers with the prefix, the mean and the head, see `Classifier.classify`."""
        if not self.prefix_length:
            return self.head(features[:, 0])
        if self.prefix is None:
            return self.head(masked_mean(self.encoder.upper(features, mask), mask))
        P = len(self.prefix)
        hidden = torch.cat((self.prefix.expand(features.shape[0], -1, -1), features), dim=1)  # (B, P + T, H)
        seen = None if mask is None else nn.functional.pad(mask, (P, 0), value=True)  # (B, P + T)
        return self.head(masked_mean(self.encoder.upper(hidden, seen)[:, P:], mask))
