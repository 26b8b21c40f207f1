"""References of params.yaml to question files and encoders: pinned in data/sources.yaml, or any other.

questions   train_2000.label                        pinned
            data/own/tickets.csv                    a path
            https://example.org/questions.jsonl     an address
encoders    all-MiniLM-L6-v2                        pinned
            hub:owner/name@revision                 a repository of the hub, called `name` from there on
            data/own/my-encoder                     a folder, called `my-encoder`
"""

import re
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

TABLES = (".csv", ".tsv")
FORMATS = (".label", *TABLES, ".jsonl")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"hub:(?P<repository>{NAME}/(?P<name>{NAME}))@(?P<revision>[0-9a-f]{{40}})")


@dataclass(frozen=True)
class HubReference:
    """A repository of the hub at one commit.

    Attributes:
        repository: `owner/name`.
        revision: The commit, 40 hex digits.
    """

    repository: str
    revision: str


def is_address(reference: str) -> bool:
    """Whether a reference to a question file is an address."""
    return "://" in reference


def file_format(reference: str) -> str:
    """Extension of a question file, which names its format: `.csv`."""
    path = urlsplit(reference).path if is_address(reference) else reference
    return PurePath(path).suffix.lower()


def check_questions(reference: str) -> str:
    """Return a reference to a question file; ValueError with what is expected where it is invalid."""
    if is_address(reference) and urlsplit(reference).scheme not in ("http", "https"):
        raise ValueError("an address that begins with http:// or https://")
    if file_format(reference) not in FORMATS:
        raise ValueError(f"a label file of data/sources.yaml, or a path or address that ends in {', '.join(FORMATS)}")
    return reference


def check_corrections(reference: str) -> str:
    """Return the path of a file of corrections; ValueError with what is expected where it is invalid."""
    if is_address(reference) or file_format(reference) not in TABLES:
        raise ValueError(f"a path that ends in {' or '.join(TABLES)}")
    return reference


def hub_reference(reference: str) -> HubReference | None:
    """Parse a reference to the hub; None where it is another kind of reference."""
    found = _HUB.fullmatch(reference)
    return HubReference(found["repository"], found["revision"]) if found else None


def is_folder(reference: str) -> bool:
    """Whether a reference to an encoder is the path of a folder."""
    return "/" in reference and not reference.startswith("hub:")


def encoder_name(reference: str) -> str:
    """Name of an encoder: its folder in data/encoders."""
    found = _HUB.fullmatch(reference)
    return found["name"] if found else PurePath(reference).name


def check_encoder(reference: str) -> str:
    """Return a reference to an encoder; ValueError with what is expected where it is invalid."""
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
