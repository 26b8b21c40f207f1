"""The section `train_prefix` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from qc.models.parameters import EncoderTrainingConfig, UpperLayers
from qc.schema import Positive


class PrefixTrainingConfig(EncoderTrainingConfig):
    """The prefix before the last layers of a frozen encoder."""

    prefix_length: Annotated[int, Field(ge=0)] | None
    prefix_layers: Positive | Literal["all"]
    prefix_std: Annotated[float, Field(ge=0)]

    @property
    def upper_layers(self) -> UpperLayers:
        """Number of the encoder's last layers that attend to the prefix."""
        return self.prefix_layers
