"""Named sets of parameters, laid over params.yaml.

    presets/NAME.yaml
        purpose: what it is for
        takes: how long, on what machine
        params: {train_prefix: {prefix_length: 5}, ...}

Notable:
- only the values that differ are touched: comments, order and the form of the others stay
- a key that params.yaml does not have is refused, and so is a whole that would be impossible
"""

import difflib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap

from qc.errors import QcError
from qc.schema import NOT_A_VALUE, Section, explain_unknown, parse, shown


class PresetFile(Section):
    """The content of presets/NAME.yaml."""

    purpose: Annotated[str, Field(min_length=1)]
    takes: Annotated[str, Field(min_length=1)]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A preset, and where it was read from.

    Attributes:
        path: Its file.
        purpose: What it is for, in a sentence.
        takes: How long it takes, and on what machine.
        params: Values by section and key, as in params.yaml.
    """

    path: Path
    purpose: str
    takes: str
    params: CommentedMap


def list_presets(folder: Path) -> list[str]:
    """Names of the presets in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(folder: Path, name: str) -> Preset:
    """Read presets/NAME.yaml.

    Raises:
        QcError: There is none of this name, or it does not hold what a preset holds.
    """
    if name not in list_presets(folder):
        raise QcError(f"no preset {name!r}; there are: {', '.join(list_presets(folder)) or 'none'}")
    path = folder / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{path}: cannot be read: {error}") from None
    parse(PresetFile, text, str(path))
    content = _load(text, str(path))
    return Preset(path, content["purpose"], content["takes"], content["params"])


def lay_over(text: str, preset: Preset) -> str:
    """The text of params.yaml with a preset's values in their places.

    Raises:
        QcError: The preset has a key that the text has not.
    """
    params = _load(text, "params.yaml")
    _lay(params, preset.params, "", preset.path)
    file = io.StringIO()
    _yaml().dump(params, file)
    return file.getvalue()


def difference(before: str, after: str) -> Iterator[str]:
    """The lines of params.yaml that differ, old ones after `-`, new ones after `+`, under the section they are in."""
    section = ""
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        mark, rest = line[:1], line[2:]
        if mark == " " and rest[:1].strip(" #"):
            section = rest
        if mark in "+-":
            if section and rest.startswith(" "):
                yield section
            section = ""
            yield f"{mark} {rest}"


def _lay(params: CommentedMap, overlay: CommentedMap, prefix: str, path: Path) -> None:
    for key, value in overlay.items():
        name = f"{prefix}{key}"
        if key not in params:
            raise QcError(f"{path}:{_line(overlay, key)}: {name}: {explain_unknown(str(key), map(str, params))}")
        if isinstance(value, CommentedMap) and isinstance(params[key], CommentedMap):
            _lay(params[key], value, f"{name}.", path)
        elif isinstance(value, CommentedMap) or isinstance(params[key], CommentedMap):
            raise QcError(
                f"{path}:{_line(overlay, key)}: {name}: a section where params.yaml has a value, or the reverse"
            )
        elif params[key] != value:
            params[key] = value


def _line(content: CommentedMap, key: str) -> int:
    return content.lc.key(key)[0] + 1


def _yaml() -> YAML:
    """A reader and writer that keeps comments, quotes and the form of numbers."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _load(text: str, name: str) -> CommentedMap:
    try:
        content: Any = _yaml().load(text)
    except (YAMLError, AssertionError, *NOT_A_VALUE) as error:
        raise QcError(f"{name}: not valid YAML: {shown(' '.join(str(error).split()))}") from None
    if not isinstance(content, Mapping):
        raise QcError(f"{name}: expected keys and values, found {shown(repr(content))}")
    return content
