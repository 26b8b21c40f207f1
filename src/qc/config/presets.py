"""Presets: named sets of values for params.yaml.

    presets/NAME.yaml
        purpose: what it is for
        takes: how long, on what machine
        params: {train_prefix: {prefix_length: 5}, ...}

Only the values that differ are changed: comments, order and the form of the other values stay.
"""

import difflib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from qc.errors import QcError
from qc.schema import Section, explain_unknown, line_of, load_yaml, read_yaml


class PresetFile(Section):
    """The content of presets/NAME.yaml."""

    purpose: Annotated[str, Field(min_length=1)]
    takes: Annotated[str, Field(min_length=1)]
    params: Mapping[str, Any]


def list_presets(folder: Path) -> list[str]:
    """Names of the presets in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(folder: Path, name: str) -> CommentedMap:
    """Read presets/NAME.yaml, with the form of its values: `purpose`, `takes` and `params`.

    Raises:
        QcError: There is no preset of this name, or its file is malformed.
    """
    if name not in list_presets(folder):
        raise QcError(f"unknown preset {name!r}; expected one of {', '.join(list_presets(folder)) or 'none'}")
    path = folder / f"{name}.yaml"
    read_yaml(PresetFile, path, str(path))
    return load_yaml(path.read_text(encoding="utf-8"), str(path), _yaml())


def apply_preset(text: str, folder: Path, name: str) -> str:
    """Put the values of a preset into the text of params.yaml.

    Raises:
        QcError: The preset has a key that params.yaml does not have; or as for `read_preset`.
    """
    params = load_yaml(text, "params.yaml", _yaml())
    _update(params, read_preset(folder, name)["params"], "", folder / f"{name}.yaml")
    file = io.StringIO()
    _yaml().dump(params, file)
    return file.getvalue()


def _update(params: CommentedMap, changes: CommentedMap, prefix: str, path: Path) -> None:
    for key, value in changes.items():
        if key not in params:
            fault = explain_unknown(str(key), map(str, params))
            raise QcError(f"{path}:{line_of(changes, key)}: {prefix}{key}: {fault}")
        if isinstance(value, CommentedMap) and isinstance(params[key], CommentedMap):
            _update(params[key], value, f"{prefix}{key}.", path)
        elif params[key] != value:  # an equal value keeps its form
            params[key] = value


def changed_lines(before: str, after: str) -> Iterator[str]:
    """List the lines of params.yaml that differ, old after `-`, new after `+`, under their section."""
    old, new, section = before.splitlines(), after.splitlines(), ""
    for line in [*difflib.unified_diff(old, new, n=len(old), lineterm="")][3:]:  # after its header
        mark, rest = line[:1], line[1:]
        if mark == " " and rest[:1].strip(" #"):
            section = rest
        if mark in "+-":
            if section and rest.startswith(" "):
                yield section
            section = ""
            yield f"{mark} {rest}"


def _yaml() -> YAML:
    """Make a reader and writer that keeps comments, quotes and the form of numbers."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
