"""YAML files of a known shape: read with line numbers, checked key by key, refused with messages.

Notable:
- a `Section` is a frozen, strictly typed part of a file; unknown keys are errors
- all faults of a file are reported at once, a line each: file, line, key, value, what is expected
- the reader is DVC's own (ruamel.yaml, YAML 1.2), so that both see the same values
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from qc.errors import QcError, from_the_top, printable

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Word = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

NOT_A_VALUE = (ValueError, LookupError, ArithmeticError, AttributeError, TypeError)  # of malformed numbers and dates


class Section(BaseModel):
    """A part of a YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class InvalidValue(ValueError):
    """A value that is invalid beside others; raised by a `Section`'s validator.

    Args:
        key: The dotted key, below the section that raises.
        value: The value.
        expected: The valid values.
    """

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(expected)
        self.key, self.value = key, value


AnySection = TypeVar("AnySection", bound=Section)


def read_yaml(kind: type[AnySection], path: Path, name: str) -> AnySection:
    """Read and check a YAML file.

    Args:
        kind: The `Section` that describes the whole file.
        path: The file.
        name: Its name in messages.

    Raises:
        QcError: It cannot be read, is not YAML, has a key twice, or an invalid value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QcError(f"{name}: no such file{from_the_top() or '; run this from the top of the repository'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{name}: cannot be read: {error}") from None
    return parse_yaml(kind, text, name)


def parse_yaml(kind: type[AnySection], text: str, name: str) -> AnySection:
    """Check the text of a YAML file; arguments and errors are as for `read_yaml`."""
    content = load_yaml(text, name)
    lines: dict[str, int] = {}
    return validate(kind, _to_plain(content, "", lines), name, lines)


def load_yaml(text: str, name: str, yaml: YAML | None = None) -> CommentedMap:
    """Parse the text of a YAML file that holds keys and values; errors are as for `read_yaml`."""
    try:
        content = (yaml or YAML()).load(text)
    except (YAMLError, AssertionError, RecursionError, *NOT_A_VALUE) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{name}:{mark.line + 1}" if mark else name
        reason = ": ".join(filter(None, (error.context, error.problem))) if mark else str(error)
        raise QcError(f"{where}: not valid YAML: {printable(' '.join(reason.split()))}") from None
    content = CommentedMap() if content is None else content
    if not isinstance(content, CommentedMap):
        raise QcError(f"{name}: expected keys and values, found {printable(repr(content))}")
    return content


def _to_plain(node: Any, prefix: str, lines: dict[str, int]) -> Any:
    """Turn ruamel's types into Python's, and note the line of every dotted key in `lines`."""
    if isinstance(node, CommentedMap):
        for key in node:
            lines[f"{prefix}{key}"] = line_of(node, key)
        return {key: _to_plain(value, f"{prefix}{key}.", lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[f"{prefix}{index}"] = line_of(node, index)
        return [_to_plain(value, f"{prefix}{index}.", lines) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    return next((kind(node) for kind in (int, float, str) if isinstance(node, kind)), node)


def line_of(node: CommentedMap | CommentedSeq, key: object) -> int:
    """Line of a key or item; 0 where ruamel noted none, as for merged keys and tagged nodes."""
    place = (node.lc.data or {}).get(key)
    return place[0] + 1 if place else 0


def validate(kind: type[AnySection], content: object, name: str, lines: Mapping[str, int] | None = None) -> AnySection:
    """Check parsed content; `lines` holds the line of every dotted key, the rest is as for `read_yaml`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise QcError("\n".join(_explain(fault, kind, name, lines or {}) for fault in error.errors())) from None


def _explain(fault: Mapping[str, Any], kind: type[Section], name: str, lines: Mapping[str, int]) -> str:
    """Message about one of pydantic's faults."""
    keys = [str(part) for part in fault["loc"] if not str(part).endswith("[key]")]
    value = fault["input"]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        keys, value = [*keys, cause.key], cause.value
    key = ".".join(keys)
    line = lines.get(key) or lines.get(".".join(keys[:-1]))
    key = printable(key)
    where = f"{name}:{line}" if line else name
    if fault["type"] == "extra_forbidden":
        return f"{where}: {key}: {explain_unknown(keys[-1], _known_keys(kind, keys[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}: {key}: missing; `git diff {name}` shows what was removed"
    expected = cause if isinstance(cause, ValueError) else _expected(fault["msg"])
    return f"{where}: {key}: invalid value {printable(repr(value))}; expected {expected}"


def explain_unknown(key: str, known: Iterable[str]) -> str:
    """Message for an unknown key."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}expected one of {', '.join(known)}"


def _expected(message: str) -> str:
    """The valid values, from pydantic's message."""
    message = re.sub(r"^(Input|List) should (be |have )?(a |an )?(valid )?", "", message)
    return message[0].lower() + message[1:]


def _known_keys(kind: type[Section], parents: list[str]) -> list[str]:
    """The keys that the section below `parents` may hold."""
    for parent in parents:
        annotation = kind.model_fields[parent].annotation if parent in kind.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        sections = [part for part in inner if isinstance(part, type) and issubclass(part, Section)]
        if sections:
            kind = sections[0]
    return list(kind.model_fields)
