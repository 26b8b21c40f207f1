"""The training sections of params.yaml: what all models share, and what each has of its own."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from qc.config.schema import InvalidValue, Section
from qc.config.values import Fraction, Name, Positive

SelectBy = Literal["accuracy", "macro_f1", "loss", "last"]


class TrainingConfig(Section):
    """How a model is trained.

    Attributes:
        epochs: Epochs at most.
        patience: Epochs without a better validation score after which training stops.
        select_by: Validation score that chooses the best epoch, whose weights are kept; `last`: none does, the last
            epoch is kept, and `patience` ends nothing.
        batch_size: Questions a step.
        learning_rate: Peak learning rate of AdamW.
        head_learning_rate: Peak learning rate of the head; None: the same.
        betas: AdamW's decay rates of the moments.
        eps: AdamW's term added to the denominator.
        weight_decay: Decoupled weight decay of matrices; biases and norms have none.
        schedule: `constant`, or `linear` down to 0 at the last epoch; both after the warm-up.
        warmup: Share of all steps over which the learning rate rises from 0.
        clip_norm: Longest gradient, by its 2-norm; None for no clipping.
        label_smoothing: Share of the target spread evenly over the classes.
        fine_weight: Weight of the loss of the fine classes beside that of the coarse ones; 0 leaves it out.
        max_length: Tokens kept of a question, special tokens not counted; None: that of all models.
    """

    epochs: Positive
    patience: Positive
    select_by: SelectBy
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    head_learning_rate: Annotated[float, Field(gt=0)] | None
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "linear"]
    warmup: Fraction
    clip_norm: Annotated[float, Field(gt=0)] | None
    label_smoothing: Fraction
    fine_weight: Annotated[float, Field(ge=0)]
    max_length: Positive | None

    @property
    def tokenizer_name(self) -> str:
        """Name of the encoder whose tokenizer the model uses."""
        raise NotImplementedError

    @property
    def upper_layers(self) -> int | Literal["all"]:
        """How many of an encoder's last layers are run in every step; those below them are run once."""
        return 0

    def tokens_kept(self, default: int) -> int:
        """Tokens that the model keeps of a question, special tokens not counted; `default` is that of all models."""
        return self.max_length or default


class ScratchTrainingConfig(TrainingConfig):
    """The transformer from scratch; the sizes are described in `qc.models.scratch.ScratchConfig`."""

    hidden_size: Annotated[int, Field(ge=2, multiple_of=2)]
    heads: Positive
    ffn_size: Positive
    layers: Positive
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


class EncoderTrainingConfig(TrainingConfig):
    """A model on a pretrained encoder; its frozen part is described in `qc.training.precomputed`."""

    encoder: Name
    cache_frozen: bool
    cache_memory: Annotated[float, Field(ge=0)]

    @property
    def tokenizer_name(self) -> str:
        """Name of the encoder."""
        return self.encoder


class PrefixTrainingConfig(EncoderTrainingConfig):
    """The prefix before the last layers of a frozen encoder."""

    prefix_length: Annotated[int, Field(ge=0)] | None
    prefix_layers: Positive | Literal["all"]
    prefix_std: Annotated[float, Field(ge=0)]

    @property
    def upper_layers(self) -> int | Literal["all"]:
        """How many of the encoder's last layers attend to the prefix."""
        return self.prefix_layers


class DistilbertTrainingConfig(EncoderTrainingConfig):
    """The trained layers of a fine-tuned encoder, and its head."""

    trainable_layers: Annotated[int, Field(ge=0)] | Literal["all"]
    head_hidden_size: Positive
    dropout: Fraction
    pooling: Literal["cls", "mean"]

    @property
    def upper_layers(self) -> int | Literal["all"]:
        """How many of the encoder's last layers are trained."""
        return self.trainable_layers
