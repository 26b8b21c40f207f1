"""Fine-tuning the last layers of a distilled encoder, with a small head.

    input_ids -> frozen embeddings and lower layers -> trainable layers -> first token, or mean -> head -> logits

Notable: `frozen` is a call of its own, since its output never changes while training and need be computed only once.

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
        encoder: The pretrained encoder; all but its last layers are frozen here, and run without dropout.
        trainable_layers: How many of the last layers are trained, 0 to all.
        head_width: Width of the head's hidden layer.
        dropout: Dropout in the head, 0 to 1.
        pooling: `cls` takes the first token, `mean` averages the real tokens.
        classes: Number of classes.
        coarse_of: For each fine class, the coarse class it lies in; empty for no second task (`OutputLayer`).
    """

    def __init__(
        self,
        encoder: Encoder,
        trainable_layers: int,
        head_width: int,
        dropout: float,
        pooling: Literal["cls", "mean"],
        classes: int,
        coarse_of: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.first_trainable = len(encoder.layers) - trainable_layers
        self.encoder.layers[self.first_trainable :].requires_grad_(True)
        self.pooling = pooling
        self.head = nn.Sequential(
            nn.Linear(encoder.config.width, head_width),
            nn.LayerNorm(head_width),
            nn.ReLU(),
            nn.Dropout(dropout),
            OutputLayer(head_width, classes, coarse_of),
        )

    @property
    def output_layer(self) -> OutputLayer:
        """Where the logits come from."""
        return self.head[-1]

    def train(self, mode: bool = True) -> "DistilbertClassifier":
        """Switch the trained part's mode; embeddings and frozen layers stay in evaluation mode."""
        super().train(mode)
        self.encoder.embeddings.eval()
        self.encoder.layers[: self.first_trainable].eval()
        return self

    @torch.no_grad()
    def frozen(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Embeddings and frozen layers: ids (B, T), mask (B, T) bool or None -> (B, T, H)."""
        return self.encoder.run_layers(self.encoder.embeddings(input_ids), mask, last=self.first_trainable)

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, T) ids with special tokens, or what `frozen` made of them, (B, T, H).
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        hidden = inputs if inputs.is_floating_point() else self.frozen(inputs, mask)
        hidden = self.encoder.run_layers(hidden, mask, first=self.first_trainable)
        return self.head(hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask))
