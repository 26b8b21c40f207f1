"""The values of params.yaml, checked: an unknown key, a wrong type or an invalid value is an error.

Notable:
- one frozen class a section; the training sections share `TrainingConfig`
- a rule about one section is checked there, a rule about two in `Settings`
- types are strict: a word in the place of a number is an error
"""

from typing import Annotated, Literal, Self

from pydantic import Field, create_model, model_validator

from qc.config.sources import Corrections, EncoderReference, QuestionsReference, encoder_name, is_address
from qc.models.parameters import TrainingConfig
from qc.models.registry import MODELS
from qc.schema import InvalidValue, Positive, Section, Seed, Sha256, Word


class Columns(Section):
    """Names of the columns of a .csv, .tsv or .jsonl file."""

    text: Word
    label: Word
    fine: Word | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = list(self.model_dump().values())
        for name in names:
            if names.count(name) > 1:
                raise InvalidValue("text", name, "three different columns")
        return self


class FetchConfig(Section):
    """Files that the fetch stage brings, see `qc.config.sources`."""

    train: QuestionsReference
    test: QuestionsReference | None
    train_sha256: Sha256 | None
    test_sha256: Sha256 | None
    columns: Columns
    corrections: Corrections | None
    encoders: Annotated[list[EncoderReference], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.encoder_names()
        for reference, name in zip(self.encoders, names, strict=True):
            if names.count(name) > 1:
                raise InvalidValue("encoders", reference, f"each encoder named once, and no two called {name}")
        for key in ("train", "test"):
            if is_address(getattr(self, key) or "") and getattr(self, f"{key}_sha256") is None:
                raise InvalidValue(
                    f"{key}_sha256", None, f"the SHA-256 of what {key} names: what is at an address can change"
                )
        return self

    def encoder_names(self) -> list[str]:
        """Names of the encoders: folders in data/encoders, values of `encoder` in other sections."""
        return [encoder_name(reference) for reference in self.encoders]


class TokenizeConfig(Section):
    """How questions become token ids."""

    lowercase: bool
    include_fine_label: bool


class SplitConfig(Section):
    """Train, validation and test split."""

    seed: Seed
    valid: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    drop_test_questions: bool
    leak_above: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid + self.test >= 1:
            raise InvalidValue(
                "test", self.test, f"less than {1 - self.valid:g}, so that valid + test leave questions to train on"
            )
        return self


class GateRule(Section):
    """Limits of the metrics that a pattern matches, see docs/evaluation.md."""

    metric: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")]
    better: Literal["higher", "lower"]
    absolute: Annotated[float, Field(ge=0)] | None = None
    relative: Annotated[float, Field(ge=0)] | None = None
    p_value: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.p_value is not None and not (self.metric.endswith(".accuracy") and self.better == "higher"):
            raise InvalidValue(
                "p_value", self.p_value, "beside a metric MODEL.accuracy, better: higher, which it is for"
            )
        return self


class GateConfig(Section):
    """When `qc check` says that metrics got worse."""

    rules: Annotated[list[GateRule], Field(min_length=1)]


class _Settings(Section):
    """The whole of params.yaml but the sections of the models."""

    seed: Seed
    launcher: Annotated[str, Field(pattern=r"^\S.*$")]
    threads: Annotated[int, Field(ge=1, le=1024)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16", "portable"]
    compile: bool
    class_weights: Literal["balanced"] | None
    max_length: Positive
    fetch: FetchConfig
    tokenize: TokenizeConfig
    split: SplitConfig
    gate: GateConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.precision == "portable" and self.device != "cpu":
            raise InvalidValue("device", self.device, "cpu beside precision: portable, which is for CPUs")
        known = self.fetch.encoder_names()
        for model, section in self.training().items():
            key = "encoder" if "encoder" in type(section).model_fields else "tokenizer"
            if section.tokenizer_name not in known:
                expected = f"an encoder of fetch.encoders: {', '.join(known)}"
                raise InvalidValue(f"train_{model}.{key}", section.tokenizer_name, expected)
        return self

    def training(self) -> dict[str, TrainingConfig]:
        """Every section `train_NAME`, by NAME."""
        sections = ((key.removeprefix("train_"), getattr(self, key)) for key in type(self).model_fields)
        return {name: section for name, section in sections if isinstance(section, TrainingConfig)}


Settings = create_model(
    "Settings",
    __base__=_Settings,
    __doc__="The whole of params.yaml, with a section `train_NAME` for every model of the registry.",
    **{f"train_{name}": model.load_parameters() for name, model in MODELS.items()},
)
