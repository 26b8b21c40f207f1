"""The last layer of every model: the coarse class of a question, and the fine class that lies within it.

    features (B, H) -> logits (B, classes + fine classes) -> coarse logits (B, classes)

The fine classes are a second task in training; in prediction their probabilities, summed by coarse class, are a second
opinion on the coarse one: the logits are those of the geometric mean of the two. Without fine classes this is a linear
layer.

Source: Caruana, "Multitask Learning", Machine Learning 1997.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class OutputLayer(nn.Linear):
    """A linear layer whose first rows tell the coarse class, and the others the fine class.

    Args:
        width: Size of the features.
        classes: Number of coarse classes.
        coarse_of: For each fine class, the number of the coarse class it lies in; empty for no second task.
    """

    def __init__(self, width: int, classes: int, coarse_of: Sequence[int] = ()) -> None:
        super().__init__(width, classes + len(coarse_of))
        self.classes = classes
        self.register_buffer("coarse_of", torch.tensor(coarse_of, dtype=torch.long), persistent=False)

    def coarse_logits(self, logits: Tensor) -> Tensor:
        """Log of the geometric mean of the two opinions' probabilities, that is the mean of their logs; not normalized.

        Args:
            logits: (B, classes + fine classes), fp32.

        Returns:
            (B, classes)
        """
        if not len(self.coarse_of):
            return logits
        own = logits[:, : self.classes].log_softmax(dim=1)
        fine = logits[:, self.classes :].softmax(dim=1)  # (B, fine classes)
        summed = torch.zeros_like(own).index_add_(1, self.coarse_of, fine)
        return (own + summed.clamp_min(torch.finfo(own.dtype).tiny).log()) / 2
