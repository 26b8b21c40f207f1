"""The section `train_distilbert` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from qc.models.parameters import EncoderTrainingConfig, UpperLayers
from qc.schema import Fraction, Positive


class DistilbertTrainingConfig(EncoderTrainingConfig):
    """The trained layers of a fine-tuned encoder, and its head."""

    trainable_layers: Annotated[int, Field(ge=0)] | Literal["all"]
    head_hidden_size: Positive
    dropout: Fraction
    pooling: Literal["cls", "mean"]

    @property
    def upper_layers(self) -> UpperLayers:
        """Number of the encoder's last layers that are trained."""
        return self.trainable_layers
