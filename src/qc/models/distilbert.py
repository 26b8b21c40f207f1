"""Fine-tuning: the last layers of an encoder, or all of it, are trained together with a small head.

    input_ids -> frozen embeddings and lower layers -> trainable layers -> first token, or mean -> head -> logits

The output of `features` never changes in training, so it is computed once. Where every layer is trained, there is
nothing to compute in advance.

Source: Sanh et al., "DistilBERT", 2019.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from torch import Tensor, nn

from qc.models.common import Classifier, Dropout, HierarchicalHead, Task, masked_mean
from qc.models.encoder import Encoder, load_encoder, use_cheap_dropout

if TYPE_CHECKING:
    from qc.models.distilbert_parameters import DistilbertTrainingConfig


class DistilbertClassifier(Classifier):
    """An encoder whose last layers are trained together with a head.

    Args:
        encoder: The pretrained encoder; layers below its `upper_layers` are frozen here, and run without dropout.
        head_hidden_size: Size of the head's hidden layer.
        dropout: Dropout in the head, 0 to 1.
        pooling: `cls` takes the first token, `mean` averages the real tokens.
        classes: Number of classes.
        coarse_of: For each fine class, the number of its coarse class; empty for no second task.
    """

    load_encoder = staticmethod(load_encoder)

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
        self.encoder = encoder.requires_grad_(False)
        for parameter in encoder.trainable:
            parameter.requires_grad_(True)
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
    def create(cls, config: "DistilbertTrainingConfig", task: Task, encoder: Encoder | None) -> Self:
        """Build an untrained model, see `Classifier.create`."""
        return cls(encoder, config.head_hidden_size, config.dropout, config.pooling, task.classes, task.coarse_of)

    @property
    def has_frozen_part(self) -> bool:
        """True where embeddings and some layers are frozen."""
        return self.encoder.lower_layers > 0

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of the trained part; frozen layers stay in evaluation mode."""
        super().train(mode)
        if self.encoder.upper_layers != "all":
            self.encoder.eval()
            for layer in self.encoder.upper_modules:
                layer.train(mode)
        return self

    def features(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Run embeddings and frozen layers, see `Classifier.features`; word vectors alone where all are trained."""
        return self.encoder.lower(self.encoder.words(input_ids, mask), mask)

    def classify(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Run the trained layers, the pooling and the head, see `Classifier.classify`."""
        hidden = self.encoder.upper(features, mask)
        return self.head(hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask))
