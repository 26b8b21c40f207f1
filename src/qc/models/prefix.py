"""Prefix tuning: a frozen encoder, a few trainable vectors before the question, and a linear head.

    [prefix (P, E); word vectors (T, E)] -> positions, norm, frozen layers -> mean over the question -> logits

Only `prefix` and `head` are trained. The prefix vectors stand before the word vectors like P more words: they take the
first P positions and pass whatever the family does with words. Every layer attends to them; the mean leaves them out.

Source: Li and Liang, "Prefix-Tuning", ACL 2021; vectors at the input alone as in Lester et al., "The Power of Scale for
Parameter-Efficient Prompt Tuning", EMNLP 2021.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qc.models.encoder import Encoder
from qc.models.output import OutputLayer
from qc.models.scratch import masked_mean


class PrefixClassifier(nn.Module):
    """A frozen encoder steered by trainable prefix vectors.

    Args:
        encoder: The pretrained encoder; frozen here, and always run without dropout.
        prefix_length: Number of trainable vectors; 0 trains the head alone.
        classes: Number of classes.
        coarse_of: For each fine class, the coarse class it lies in; empty for no second task (`OutputLayer`).
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
        self.encoder = encoder.requires_grad_(False)
        prefix = prefix_std * torch.randn(prefix_length, encoder.embedding_size)
        self.prefix = nn.Parameter(prefix) if prefix_length else None
        self.head = OutputLayer(encoder.hidden_size, classes, coarse_of)

    @property
    def output_layer(self) -> OutputLayer:
        """Where the logits come from."""
        return self.head

    @property
    def keeps_frozen(self) -> bool:
        """Whether there is something for `frozen` to run: every layer attends to a prefix."""
        return self.prefix is None

    def train(self, mode: bool = True) -> "PrefixClassifier":
        """Switch the head's mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def frozen(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """The pooled output of the encoder without a prefix: ids (B, T), mask (B, T) bool or None -> (B, 1, H)."""
        return masked_mean(self.encoder(self.encoder.words(input_ids, mask), mask), mask)[:, None]

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, T) ids with special tokens, or what `frozen` made of them.
            mask: (B, T) bool, True where a token is real; None when nothing is padded.

        Returns:
            logits (B, classes + fine classes)
        """
        if self.prefix is None:
            hidden = inputs if inputs.is_floating_point() else self.frozen(inputs, mask)
            return self.head(hidden[:, 0])
        P = len(self.prefix)
        words = torch.cat((self.prefix.expand(inputs.shape[0], -1, -1), self.encoder.words(inputs, mask)), dim=1)
        seen = None if mask is None else nn.functional.pad(mask, (P, 0), value=True)  # (B, P + T)
        return self.head(masked_mean(self.encoder(words, seen)[:, P:], mask))
