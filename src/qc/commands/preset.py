"""qc preset: lay a named set of parameters over params.yaml."""

from argparse import Namespace
from pathlib import Path

from qc.artifacts import new_file
from qc.commands import PARAMS
from qc.presets import difference, lay_over, list_presets, read_preset
from qc.schema import parse, read
from qc.settings import Settings

PRESETS = Path("presets")


def run(arguments: Namespace) -> int:
    """Lay a preset over params.yaml, or tell what presets there are; the exit status."""
    if arguments.list:
        print_presets()
    else:
        lay(arguments.name, arguments.dry_run)
    return 0


def print_presets() -> None:
    """Tell what presets there are."""
    for name in list_presets(PRESETS):
        found = read_preset(PRESETS, name)
        print(f"{name:<14} {found.purpose}\n{'':<14} takes {found.takes}")


def lay(name: str, dry_run: bool) -> None:
    """Lay a preset over params.yaml, and print the difference."""
    read(Settings, PARAMS, str(PARAMS))
    before = PARAMS.read_text(encoding="utf-8")
    found = read_preset(PRESETS, name)
    after = lay_over(before, found)
    parse(Settings, after, f"{PARAMS} under {found.path}")
    print("\n".join(difference(before, after)) or f"{PARAMS} holds the values of {found.path} already")
    if not dry_run and before != after:
        with new_file(PARAMS) as temporary:
            temporary.write_text(after, encoding="utf-8")
        print(f"{PARAMS}: written; `git checkout {PARAMS}` undoes it; `dvc repro` runs it. It takes {found.takes}")
