"""The section `train_prefix` of params.yaml."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from qc.models.parameters import EncoderTrainingConfig
from qc.schema import Positive

PrefixForm = Literal["key_value", "vector"]


class PrefixTrainingConfig(EncoderTrainingConfig):
    """The prefix of the last layers of a frozen encoder; its forms are described in `qc.models.prefix`."""

    layers_key: ClassVar[str] = "prefix_layers"
    prefix_form: PrefixForm
    prefix_length: Annotated[int, Field(ge=0)] | None
    prefix_layers: Positive | Literal["all"]
    prefix_std: Annotated[float, Field(ge=0)]
