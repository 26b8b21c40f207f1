"""The section `train_distilbert` of params.yaml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from qc.models.parameters import EncoderTrainingConfig
from qc.schema import Fraction, Positive


class DistilbertTrainingConfig(EncoderTrainingConfig):
    """The trained layers of a fine-tuned encoder, and its head."""

    layers_key: ClassVar[str] = "trainable_layers"
    trainable_layers: Annotated[int, Field(ge=0)] | Literal["all"]
    head_hidden_size: Positive
    dropout: Fraction
    pooling: Literal["cls", "mean"]
