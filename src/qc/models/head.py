"""Hierarchical head: coarse classes, and optionally the fine classes within them as a second task.

    features (B, H) -> logits (B, classes + fine classes) -> coarse logits (B, classes)

In training the fine classes are a second task. In prediction their probabilities, summed by coarse class, are a second
opinion on the coarse class: the coarse logits are those of the geometric mean of both. Without fine classes the head is
a linear layer.

Source: Caruana, "Multitask Learning", Machine Learning 1997.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class HierarchicalHead(nn.Linear):
    """Linear layer whose first rows score the coarse classes, and the others the fine classes.

    Args:
        features: Size of the input vectors.
        classes: Number of coarse classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
    """

    def __init__(self, features: int, classes: int, coarse_of: Sequence[int] = ()) -> None:
        super().__init__(features, classes + len(coarse_of))
        self.classes = classes
        self.register_buffer("coarse_of", torch.tensor(coarse_of, dtype=torch.long), persistent=False)

    def coarse_logits(self, logits: Tensor) -> Tensor:
        """Combine both opinions: the mean of their log-probabilities, not normalized.

        Args:
            logits: (B, classes + fine classes), fp32.

        Returns:
            (B, classes)
        """
        if not len(self.coarse_of):
            return logits
        coarse = logits[:, : self.classes].log_softmax(dim=1)
        fine = logits[:, self.classes :].softmax(dim=1)  # (B, fine classes)
        summed = torch.zeros_like(coarse).index_add_(1, self.coarse_of, fine)
        return (coarse + summed.clamp_min(torch.finfo(coarse.dtype).tiny).log()) / 2
