"""The section `train_prefix` of params.yaml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from qc.models.parameters import EncoderTrainingConfig
from qc.schema import Positive


class PrefixTrainingConfig(EncoderTrainingConfig):
    """The prefix before the last layers of a frozen encoder."""

    layers_key: ClassVar[str] = "prefix_layers"
    prefix_length: Annotated[int, Field(ge=0)] | None
    prefix_layers: Positive | Literal["all"]
    prefix_std: Annotated[float, Field(ge=0)]
