"""Fine-tuning: the last layers of an encoder, or all of it, are trained together with a small head.

    input_ids -> frozen embeddings and lower layers -> trainable layers -> first token, or mean -> head -> logits

`frozen_features` is a method of its own: its output never changes in training, so it is computed once. Where every
layer is trained, there is nothing to compute in advance.

Source: Sanh et al., "DistilBERT", 2019.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from qc.models.classifier import Task
from qc.models.dropout import Dropout, use_cheap_dropout
from qc.models.encoder import Encoder
from qc.models.head import HierarchicalHead
from qc.models.pooling import masked_mean
from qc.models.pretrained import EncoderClassifier


class DistilbertClassifier(EncoderClassifier):
    """An encoder whose last layers are trained together with a head.

    Args:
        encoder: The pretrained encoder; layers below its `upper_layers` are frozen here, and run without dropout.
        head_hidden_size: Size of the head's hidden layer.
        dropout: Dropout in the head, 0 to 1.
        pooling: `cls` takes the first token, `mean` averages the real tokens.
        classes: Number of classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
    """

    layers_setting = "train_distilbert.trainable_layers"

    def __init__(
        self,
        encoder: Encoder,
        head_hidden_size: int,
        dropout: float,
        pooling: Literal["cls", "mean"],
        classes: int,
        coarse_of: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.sizes = {
            "head_hidden_size": head_hidden_size,
            "dropout": dropout,
            "pooling": pooling,
            "classes": classes,
            "coarse_of": list(coarse_of),
        }
        self.encoder = encoder.requires_grad_(encoder.upper_layers == "all")
        for part in encoder.upper_parts():
            part.requires_grad_(True)
        use_cheap_dropout(encoder)
        self.pooling = pooling
        self.head = nn.Sequential(
            nn.Linear(encoder.hidden_size, head_hidden_size),
            nn.LayerNorm(head_hidden_size),
            nn.ReLU(),
            Dropout(dropout),
            HierarchicalHead(head_hidden_size, classes, coarse_of),
        )

    @classmethod
    def create(cls, config: Any, task: Task, encoder: Encoder | None) -> Self:
        """Build an untrained model, see `Classifier.create`."""
        return cls(encoder, config.head_hidden_size, config.dropout, config.pooling, task.classes, task.coarse_of)

    @property
    def output_layer(self) -> HierarchicalHead:
        """The last layer of the head."""
        return self.head[-1]

    @property
    def has_frozen_part(self) -> bool:
        """True where embeddings and some layers are frozen."""
        return self.encoder.lower_layers > 0

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of the trained part; frozen layers stay in evaluation mode."""
        super().train(mode)
        if self.encoder.upper_layers != "all":
            self.encoder.eval()
            for part in self.encoder.upper_parts():
                part.train(mode)
        return self

    @torch.no_grad()
    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run embeddings and frozen layers: ids (B, T), mask (B, T) bool or None -> (B, T, H)."""
        return self._lower(input_ids, mask)

    def _lower(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """The input of `upper`; gradients flow where word vectors are trained."""
        return self.encoder.lower(self.encoder.words(input_ids, mask), mask)

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, T) ids with special tokens, or `frozen_features` (B, T, H).
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        return self.classify(self._lower(inputs, mask), mask)

    def classify(self, hidden, mask):
        hidden = self.encoder.upper(hidden, mask)
        return self.head(hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask))
