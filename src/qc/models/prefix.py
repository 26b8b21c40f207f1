"""Prefix tuning: a frozen encoder, a few trainable vectors before the question, and a linear head.

    input_ids -> lower layers -> [prefix (P, H); question (T, H)] -> upper layers -> mean over the question -> logits

Only `prefix` and `head` are trained. All upper layers attend to the prefix; the mean leaves it out. The output of the
lower layers never changes, so it is computed once.

Where all layers are upper ones, the prefix stands before the word vectors (E) like P more words: it takes the first P
positions and passes everything the family does with words.

Source: Li and Liang, "Prefix-Tuning", ACL 2021; vectors before the words alone as in Lester et al., "The Power of Scale
for Parameter-Efficient Prompt Tuning", EMNLP 2021; before a later layer as in Liu et al., "Late Prompt Tuning",
Findings of EMNLP 2022.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from qc.models.common import Classifier, HierarchicalHead, Task, masked_mean
from qc.models.encoder import Encoder, load_encoder

if TYPE_CHECKING:
    from qc.models.prefix_parameters import PrefixTrainingConfig


class PrefixClassifier(Classifier):
    """A frozen encoder steered by trainable prefix vectors.

    Args:
        encoder: The pretrained encoder; frozen here, and always run without dropout. Its upper layers see the prefix.
        prefix_length: Number of trainable vectors; 0 trains the head alone.
        classes: Number of classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
        prefix_std: Standard deviation of the prefix vectors before training.
    """

    load_encoder = staticmethod(load_encoder)

    def __init__(
        self,
        encoder: Encoder,
        prefix_length: int,
        classes: int,
        coarse_of: Sequence[int] = (),
        prefix_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.sizes = {"prefix_length": prefix_length, "classes": classes, "coarse_of": list(coarse_of)}
        self.encoder = encoder.requires_grad_(False)
        width = encoder.hidden_size if encoder.lower_layers else encoder.embedding_size
        prefix = prefix_std * torch.randn(prefix_length, width)
        self.prefix = nn.Parameter(prefix) if prefix_length else None
        self.head = HierarchicalHead(encoder.hidden_size, classes, coarse_of)

    @classmethod
    def create(cls, config: "PrefixTrainingConfig", task: Task, encoder: Encoder | None) -> Self:
        """Build an untrained model, see `Classifier.create`."""
        return cls(encoder, cls.prefix_positions(config), task.classes, task.coarse_of, config.prefix_std)

    @classmethod
    def prefix_positions(cls, config: "PrefixTrainingConfig") -> int:
        """Number of prefix vectors."""
        return config.prefix_length or 0

    @property
    def has_frozen_part(self) -> bool:
        """True where some layers do not see the prefix, or there is none."""
        return self.prefix is None or self.encoder.lower_layers > 0

    @property
    def pools_features(self) -> bool:
        """True without a prefix."""
        return self.prefix is None

    def train(self, mode: bool = True) -> Self:
        """Switch the head's mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run the lower layers, see `Classifier.features`; without a prefix all layers and the mean."""
        words = self.encoder.words(input_ids, mask)
        if self.prefix is None:
            return masked_mean(self.encoder(words, mask), mask)[:, None]
        return self.encoder.lower(words, mask)

    def classify(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Run the upper layers with the prefix, the mean and the head, see `Classifier.classify`."""
        if self.prefix is None:
            return self.head(features[:, 0])
        P = len(self.prefix)
        hidden = torch.cat((self.prefix.expand(features.shape[0], -1, -1), features), dim=1)  # (B, P + T, H)
        seen = None if mask is None else nn.functional.pad(mask, (P, 0), value=True)  # (B, P + T)
        return self.head(masked_mean(self.encoder.upper(hidden, seen)[:, P:], mask))
