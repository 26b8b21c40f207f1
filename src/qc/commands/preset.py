"""List presets, or apply presets/NAME.yaml to params.yaml.

Only the values that differ are changed; comments and order stay. `git checkout params.yaml` undoes it.
"""

from argparse import ArgumentParser, Namespace

from qc.config.presets import apply_preset, changed_lines, list_presets, read_preset
from qc.config.schema import parse_yaml
from qc.config.settings import Settings
from qc.files import new_file
from qc.paths import PARAMS, PRESETS
from qc.stage import load_settings


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="the preset")
    which.add_argument("--list", action="store_true", help="list the presets")
    parser.add_argument("--dry-run", action="store_true", help="only print the difference")


def run(arguments: Namespace) -> int:
    """Apply a preset to params.yaml, or list the presets; the exit status."""
    if arguments.list:
        print_presets()
    else:
        apply(arguments.name, arguments.dry_run)
    return 0


def print_presets() -> None:
    """List the presets."""
    for name in list_presets(PRESETS):
        found = read_preset(PRESETS, name)
        print(f"{name:<14} {found.purpose}\n{'':<14} takes {found.takes}")


def apply(name: str, dry_run: bool) -> None:
    """Apply a preset to params.yaml, and print the difference."""
    load_settings()
    before = PARAMS.read_text(encoding="utf-8")
    found = read_preset(PRESETS, name)
    after = apply_preset(before, found)
    parse_yaml(Settings, after, f"{PARAMS} under {found.path}")
    print("\n".join(changed_lines(before, after)) or f"{PARAMS} has the values of {found.path} already")
    if not dry_run and before != after:
        with new_file(PARAMS) as temporary:
            temporary.write_text(after, encoding="utf-8")
        print(f"{PARAMS}: written; `git checkout {PARAMS}` undoes it; `dvc repro` runs it. It takes {found.takes}")
