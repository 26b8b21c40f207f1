"""List presets, or apply presets/NAME.yaml to params.yaml.

Only the values that differ are changed; comments and order stay. `git checkout params.yaml` undoes it.
"""

from argparse import ArgumentParser, Namespace

from qc.config.presets import apply_preset, changed_lines, list_presets, read_preset
from qc.config.settings import Settings
from qc.errors import QcError
from qc.files import new_file
from qc.paths import PARAMS, PRESETS
from qc.schema import parse_yaml
from qc.stage import load_settings


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", nargs="?", help="the preset")
    parser.add_argument("--list", action="store_true", help="list the presets")
    parser.add_argument("--dry-run", action="store_true", help="only print the difference")


def run(arguments: Namespace) -> int:
    """Apply a preset to params.yaml, or list the presets; the exit status."""
    name = arguments.name
    if arguments.list == bool(name) or (arguments.list and arguments.dry_run):
        raise QcError("expected either the name of a preset, or --list alone")
    if arguments.list:
        for listed in list_presets(PRESETS):
            preset = read_preset(PRESETS, listed)
            print(f"{listed:<14} {preset['purpose']}\n{'':<14} time: {preset['takes']}")
        return 0
    load_settings()
    before, path = PARAMS.read_text(encoding="utf-8"), PRESETS / f"{name}.yaml"
    after = apply_preset(before, PRESETS, name)
    parse_yaml(Settings, after, f"{PARAMS} under {path}")
    print("\n".join(changed_lines(before, after)) or f"{PARAMS} has the values of {path} already")
    if not arguments.dry_run and before != after:
        with new_file(PARAMS) as temporary:
            temporary.write_text(after, encoding="utf-8")
        takes = read_preset(PRESETS, name)["takes"]
        print(f"{PARAMS}: written; `git checkout {PARAMS}` undoes it; `dvc repro` runs it. Time: {takes}")
    return 0
