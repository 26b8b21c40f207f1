"""The training sections of params.yaml: what all models share. What a model adds is in `NAME_parameters.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from qc.schema import Fraction, Name, Positive, Section

UpperLayers = int | Literal["all"]
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

    def tokens_kept(self, default: int) -> int:
        """Number of tokens kept of a question, special tokens not counted; `default` is that of all models."""
        return self.max_length or default


class EncoderTrainingConfig(TrainingConfig):
    """A model on a pretrained encoder; its frozen part is described in `qc.training.precomputed`.

    Attributes:
        layers_key: The key of `upper_layers`.
    """

    layers_key: ClassVar[str]
    encoder: Name
    cache_frozen: bool
    cache_memory: Annotated[float, Field(ge=0)]

    @property
    def tokenizer_name(self) -> str:
        """Name of the encoder."""
        return self.encoder

    @property
    def upper_layers(self) -> UpperLayers:
        """Number of the encoder's last layers that run in every step; those below them run once."""
        return getattr(self, self.layers_key)
