"""Fine-tuning the last layers of an encoder, or all of it, with a small head.

    input_ids -> frozen embeddings and lower layers -> trainable layers -> first token, or mean -> head -> logits

Notable: `frozen` is a call of its own, since its output never changes while training and need be computed only once.
Where every layer is trained, there is nothing to keep.

Source: Sanh et al., "DistilBERT", 2019.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from qc.models.encoder import Encoder
from qc.models.output import OutputLayer
from qc.models.scratch import masked_mean


class DistilbertClassifier(nn.Module):
    """An encoder whose last layers are trained together with a head.

    Args:
        encoder: The pretrained encoder; what is not of its `trainable_layers` is frozen here, and run without dropout.
        head_width: Width of the head's hidden layer.
        dropout: Dropout in the head, 0 to 1.
        pooling: `cls` takes the first token, `mean` averages the real tokens.
        classes: Number of classes.
        coarse_of: For each fine class, the coarse class it lies in; empty for no second task (`OutputLayer`).
    """

    def __init__(
        self,
        encoder: Encoder,
        head_width: int,
        dropout: float,
        pooling: Literal["cls", "mean"],
        classes: int,
        coarse_of: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(encoder.trainable_layers == "all")
        for part in encoder.upper_parts():
            part.requires_grad_(True)
        self.pooling = pooling
        self.head = nn.Sequential(
            nn.Linear(encoder.hidden_size, head_width),
            nn.LayerNorm(head_width),
            nn.ReLU(),
            nn.Dropout(dropout),
            OutputLayer(head_width, classes, coarse_of),
        )

    @property
    def output_layer(self) -> OutputLayer:
        """Where the logits come from."""
        return self.head[-1]

    @property
    def keeps_frozen(self) -> bool:
        """Whether there is something for `frozen` to run."""
        return self.encoder.frozen_layers > 0

    def train(self, mode: bool = True) -> "DistilbertClassifier":
        """Switch the trained part's mode; embeddings and frozen layers stay in evaluation mode."""
        super().train(mode)
        if self.encoder.trainable_layers != "all":
            self.encoder.eval()
            for part in self.encoder.upper_parts():
                part.train(mode)
        return self

    @torch.no_grad()
    def frozen(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Embeddings and frozen layers: ids (B, T), mask (B, T) bool or None -> (B, T, H)."""
        return self._lower(input_ids, mask)

    def _lower(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """What `upper` takes, with gradients where word vectors are trained; arguments are as for `frozen`."""
        return self.encoder.lower(self.encoder.words(input_ids, mask), mask)

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, T) ids with special tokens, or what `frozen` made of them, (B, T, H).
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        hidden = inputs if inputs.is_floating_point() else self._lower(inputs, mask)
        hidden = self.encoder.upper(hidden, mask)
        return self.head(hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask))
