"""YAML files with a known shape: read with line numbers, checked key by key, refused in words.

Notable:
- a `Section` is a frozen, strictly typed part of a file, without room for unknown keys
- the faults of a file are told at once, a line each: file, line, key, value, what is allowed
- a file that aliases blow up, or that nests without end, is refused before anything walks through it
- numbers are read as DVC reads them: 1e-4 is a number, with or without a dot
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from qc.errors import QcError, from_the_top


class Section(BaseModel):
    """A part of a YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Refusal(ValueError):
    """A value that is impossible beside others; raised by a `Section`'s validator.

    Args:
        key: The dotted key, below the section that raises.
        value: What stands there.
        allowed: What may stand there.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(allowed)
        self.key, self.value, self.allowed = key, value, allowed


MOST_VALUES, DEEPEST = 10_000, 20  # in a file, and of keys in keys
TOO_MUCH = f"more than {MOST_VALUES} values, or more than {DEEPEST} in one another; remove aliases, or write less"
MOST_FAULTS, LONGEST_SHOWN = 20, 200  # told at once, and characters of anything that stands in a file

# What PyYAML and ruamel.yaml let through of numbers, dates and characters that are none.
NOT_A_VALUE = (ValueError, LookupError, ArithmeticError, AttributeError, TypeError)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with bounds, and with YAML 1.2's notion of a floating-point number."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        if self._values > MOST_VALUES or self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=TOO_MUCH, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep)
        except NOT_A_VALUE:
            problem = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


_Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

AnySection = TypeVar("AnySection", bound=Section)


def read(kind: type[AnySection], path: Path, name: str) -> AnySection:
    """Read and check a YAML file.

    Args:
        kind: The `Section` that describes the whole file.
        path: The file.
        name: What messages call it.

    Raises:
        QcError: It cannot be read, is not YAML, names a key twice, or holds a value that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QcError(f"{name}: no such file{from_the_top() or '; run this from the top of the repository'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{name}: cannot be read: {error}") from None
    return parse(kind, text, name)


def parse(kind: type[AnySection], text: str, name: str) -> AnySection:
    """Check the text of a YAML file; arguments and errors are as for `read`."""
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, _Loader)
        _note_lines(node, "", lines, name)
        content = _Loader("").construct_document(node) if node is not None else {}
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter of escapes that are no character
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f"{name}:{mark.line + 1}" if mark else name
        told = ": ".join(filter(None, (error.context, error.problem))) if mark else str(error)
        raise QcError(f"{where}: not valid YAML: {shown(' '.join(told.split()))}") from None
    return check(kind, content, name, lines)


def check(kind: type[AnySection], content: object, name: str, lines: Mapping[str, int] | None = None) -> AnySection:
    """Check parsed content; `lines` holds the line of every dotted key, the rest is as for `read`."""
    if not isinstance(content, Mapping):
        raise QcError(f"{name}: expected keys and values, found {shown(repr(content))}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [_explain(fault, kind, name, lines or {}) for fault in error.errors()[:MOST_FAULTS]]
        if error.error_count() > MOST_FAULTS:
            faults.append(f"{name}: and {error.error_count() - MOST_FAULTS} more")
        raise QcError("\n".join(faults)) from None


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int], name: str) -> None:
    """Fill `lines` with the line of every dotted key below `node`."""
    if len(lines) > MOST_VALUES or prefix.count(".") > DEEPEST:
        raise QcError(f"{name}: not valid YAML: {TOO_MUCH}")
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = f"{prefix}{key_node.value if isinstance(key_node, yaml.ScalarNode) else '?'}"
            if key in lines:
                raise QcError(f"{name}:{key_node.start_mark.line + 1}: {shown(key)} stands here twice; remove one")
            lines[key] = key_node.start_mark.line + 1
            _note_lines(value_node, f"{key}.", lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{prefix}{index}"] = item.start_mark.line + 1
            _note_lines(item, f"{prefix}{index}.", lines, name)


def _explain(fault: Mapping[str, Any], kind: type[Section], name: str, lines: Mapping[str, int]) -> str:
    """One line on one of pydantic's faults."""
    keys = [str(part) for part in fault["loc"] if not str(part).endswith("[key]")]
    value = fault["input"]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, Refusal):
        keys, value = [*keys, cause.key], cause.value
    key = ".".join(keys)
    line = lines.get(key) or lines.get(".".join(keys[:-1]))
    key, found = shown(key), shown(repr(value))
    where = f"{name}:{line}" if line else name
    if fault["type"] == "extra_forbidden":
        return f"{where}: {key}: {explain_unknown(keys[-1], _known_keys(kind, keys[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}: {key}: missing; git shows what stood here: git diff {name}"
    if isinstance(cause, ValueError):
        return f"{where}: {key}: {found} is not possible; allowed: {cause}"
    return f"{where}: {key}: {found} is not possible; allowed: {_allowed(fault['msg'])}"


def shown(text: str) -> str:
    """What stands in a file, on one line, and cut where it is too long to be read."""
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def explain_unknown(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is none of those known."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}allowed: {', '.join(known)}"


def _allowed(message: str) -> str:
    """What pydantic's message says may stand there."""
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
