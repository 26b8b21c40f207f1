"""Every value of params.yaml, checked: an unknown key, a wrong type or an impossible value is refused by name.

Notable:
- one frozen class a section; the three training sections share `Training`, how a model is trained
- what one section alone can decide is checked there, what takes two in `Settings`
- types are strict: a word where a number is due is an error, never turned into something
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from qc.references import NAME, check_encoder, check_questions, encoder_name, is_address
from qc.schema import Refusal, Section
from qc.sources import Sha256

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Word = Annotated[str, Field(min_length=1)]
QuestionsReference = Annotated[str, AfterValidator(check_questions)]
EncoderReference = Annotated[str, AfterValidator(check_encoder)]


class Columns(Section):
    """Where a .csv, .tsv or .jsonl file has its text and labels."""

    text: Word
    label: Word
    fine: Word | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = list(self.model_dump().values())
        for name in names:
            if names.count(name) > 1:
                raise Refusal("text", name, "three different columns")
        return self


class Fetch(Section):
    """Which files the fetch stage brings, see `qc.references`."""

    train: QuestionsReference
    test: QuestionsReference | None
    train_sha256: Sha256 | None
    test_sha256: Sha256 | None
    columns: Columns
    encoders: Annotated[list[EncoderReference], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.encoder_names()
        for reference, name in zip(self.encoders, names, strict=True):
            if names.count(name) > 1:
                raise Refusal("encoders", reference, f"each encoder named once, and no two called {name}")
        for key in ("train", "test"):
            if is_address(getattr(self, key) or "") and getattr(self, f"{key}_sha256") is None:
                raise Refusal(
                    f"{key}_sha256", None, f"the SHA-256 of what {key} names: what is at an address can change"
                )
        return self

    def encoder_names(self) -> list[str]:
        """What the encoders are called: the keys `encoder` of other sections, the folders in data/encoders."""
        return [encoder_name(reference) for reference in self.encoders]


class Tokenize(Section):
    """How questions become token ids."""

    lowercase: bool
    include_fine_label: bool


class Split(Section):
    """Which questions are trained on, chosen by and tested on."""

    seed: Seed
    valid: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    drop_test_questions: bool
    leak_above: Annotated[float, Field(ge=0, le=1)]
    leak_above_baseline: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid + self.test >= 1:
            raise Refusal(
                "test", self.test, f"less than {1 - self.valid:g}, so that valid + test leave questions to train on"
            )
        return self


class Training(Section):
    """How a model is trained, see `qc.training.Recipe`."""

    epochs: Positive
    patience: Positive
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


class TrainScratch(Training):
    """Sizes of the transformer from scratch, see `qc.models.scratch.ScratchConfig`."""

    width: Annotated[int, Field(ge=2, multiple_of=2)]
    heads: Positive
    ff_width: Positive
    layers: Positive
    norm: Literal["post", "pre"]
    mask_padding: bool
    min_count: Annotated[int, Field(ge=0)]
    tokenizer: Name
    dropout: Fraction

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise Refusal("width", self.width, f"a multiple of heads, which is {self.heads}")
        return self


class OnEncoder(Training):
    """How a model on a pretrained encoder is trained, see `qc.frozen.cache_frozen`."""

    encoder: Name
    cache_frozen: bool
    cache_memory: Annotated[float, Field(ge=0)]


class TrainPrefix(OnEncoder):
    """The prefix before a frozen encoder."""

    prefix_length: Annotated[int, Field(ge=0)] | None
    prefix_std: Annotated[float, Field(ge=0)]


class TrainDistilbert(OnEncoder):
    """What of an encoder is fine-tuned, and the head on it."""

    trainable_layers: Annotated[int, Field(ge=0)] | Literal["all"]
    head_width: Positive
    dropout: Fraction
    pooling: Literal["cls", "mean"]


class Rule(Section):
    """What the gate asks of the metrics that a pattern names, see `qc.gate.judge`."""

    metric: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")]
    better: Literal["higher", "lower"]
    absolute: Annotated[float, Field(ge=0)] | None = None
    relative: Annotated[float, Field(ge=0)] | None = None
    p_value: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.p_value is not None and not (self.metric.endswith(".accuracy") and self.better == "higher"):
            raise Refusal("p_value", self.p_value, "beside a metric MODEL.accuracy, better: higher, which it is for")
        return self


class Gate(Section):
    """When `qc check` says that metrics got worse."""

    rules: Annotated[list[Rule], Field(min_length=1)]


class Settings(Section):
    """The whole of params.yaml."""

    seed: Seed
    launcher: Annotated[str, Field(pattern=r"^\S.*$")]
    threads: Annotated[int, Field(ge=1, le=1024)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    compile: bool
    max_length: Positive
    fetch: Fetch
    tokenize: Tokenize
    split: Split
    train_scratch: TrainScratch
    train_prefix: TrainPrefix
    train_distilbert: TrainDistilbert
    gate: Gate

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = self.fetch.encoder_names()
        for key, name in self.encoders_used().items():
            if name not in known:
                raise Refusal(key, name, f"an encoder of fetch.encoders: {', '.join(known)}")
        return self

    def encoders_used(self) -> dict[str, str]:
        """Name of every encoder that a training stage asks for, by key."""
        return {
            "train_scratch.tokenizer": self.train_scratch.tokenizer,
            "train_prefix.encoder": self.train_prefix.encoder,
            "train_distilbert.encoder": self.train_distilbert.encoder,
        }
