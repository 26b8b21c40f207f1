"""The section `train_scratch` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from qc.models.parameters import TrainingConfig
from qc.schema import Fraction, InvalidValue, Name, Positive


class ScratchTrainingConfig(TrainingConfig):
    """The transformer from scratch; its sizes are described in `qc.models.scratch.ScratchConfig`."""

    hidden_size: Annotated[int, Field(ge=2, multiple_of=2)]
    heads: Positive
    ffn_size: Positive
    layers: Positive
    convolution: Annotated[int, Field(ge=0, le=64)]
    pooling: Literal["mean", "mean_max"]
    head_dropout: Fraction
    norm: Literal["post", "pre"]
    mask_padding: bool
    min_count: Annotated[int, Field(ge=0)]
    tokenizer: Name
    dropout: Fraction

    @property
    def tokenizer_name(self) -> str:
        """Name of the encoder whose tokenizer the model uses."""
        return self.tokenizer

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.heads:
            raise InvalidValue("hidden_size", self.hidden_size, f"a multiple of heads, which is {self.heads}")
        return self
