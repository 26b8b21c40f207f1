"""Prefix tuning: a frozen encoder, a few trainable vectors before the question, and a linear head.

    [prefix (P, E); word vectors (T, E)] -> positions, norm, frozen layers -> mean over the question -> logits

Only `prefix` and `head` are trained. The prefix vectors stand before the word vectors like P more words: they take the
first P positions and pass everything the family does with words. Every layer attends to them; the mean leaves them out.

Source: Li and Liang, "Prefix-Tuning", ACL 2021; vectors at the input alone as in Lester et al., "The Power of Scale for
Parameter-Efficient Prompt Tuning", EMNLP 2021.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from qc.models.classifier import Task
from qc.models.encoder import Encoder
from qc.models.head import HierarchicalHead
from qc.models.pooling import masked_mean
from qc.models.pretrained import EncoderClassifier


class PrefixClassifier(EncoderClassifier):
    """A frozen encoder steered by trainable prefix vectors.

    Args:
        encoder: The pretrained encoder; frozen here, and always run without dropout.
        prefix_length: Number of trainable vectors; 0 trains the head alone.
        classes: Number of classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
        prefix_std: Standard deviation of the prefix vectors before training.
    """

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
        prefix = prefix_std * torch.randn(prefix_length, encoder.embedding_size)
        self.prefix = nn.Parameter(prefix) if prefix_length else None
        self.head = HierarchicalHead(encoder.hidden_size, classes, coarse_of)

    @classmethod
    def create(cls, config: Any, task: Task, encoder: Encoder | None) -> Self:
        """Build an untrained model, see `Classifier.create`."""
        return cls(encoder, cls.prefix_positions(config), task.classes, task.coarse_of, config.prefix_std)

    @classmethod
    def prefix_positions(cls, config: Any) -> int:
        """Number of prefix vectors."""
        return config.prefix_length or 0

    @property
    def output_layer(self) -> HierarchicalHead:
        """The head."""
        return self.head

    @property
    def has_frozen_part(self) -> bool:
        """False with a prefix: every layer attends to it, so nothing can be run in advance."""
        return self.prefix is None

    def train(self, mode: bool = True) -> Self:
        """Switch the head's mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def frozen_features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Pooled output of the encoder without a prefix: ids (B, T), mask (B, T) bool or None -> (B, 1, H)."""
        return masked_mean(self.encoder(self.encoder.words(input_ids, mask), mask), mask)[:, None]

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, T) ids with special tokens, or `frozen_features` (B, 1, H).
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        if self.prefix is None:
            features = inputs if inputs.is_floating_point() else self.frozen_features(inputs, mask)
            return self.head(features[:, 0])
        P = len(self.prefix)
        words = torch.cat((self.prefix.expand(inputs.shape[0], -1, -1), self.encoder.words(inputs, mask)), dim=1)
        seen = None if mask is None else nn.functional.pad(mask, (P, 0), value=True)  # (B, P + T)
        return self.head(masked_mean(self.encoder(words, seen)[:, P:], mask))
