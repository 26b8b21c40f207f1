"""The command `qc`, also `python -m qc`; run from the top of the repository.

Like the stages, and unlike the rest of `qc`, it reads params.yaml and knows where metrics are.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qc.artifacts import new_file
from qc.errors import QcError
from qc.gate import (
    VERDICTS,
    Side,
    flatten,
    judge,
    markdown_table,
    other_questions,
    read_predictions,
    status,
    terminal_table,
)
from qc.presets import difference, lay_over, list_presets, read_preset
from qc.revisions import default_base, find_commit, read_at
from qc.schema import read
from qc.settings import Settings

PARAMS = Path("params.yaml")
METRICS = Path("metrics/evaluate.json")
PREDICTIONS = Path("metrics/predictions.csv")
PRESETS = Path("presets")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status."""
    parser = argparse.ArgumentParser(prog="qc", description="Question classification, done right.")
    commands = parser.add_subparsers(dest="command", required=True)
    check_parser = commands.add_parser(
        "check",
        help="did metrics get worse?",
        description="Hold the working tree's metrics against those of a git revision, by the rules under gate in "
        "params.yaml. Exit status: 0 holds, 1 regression, 2 cannot compare.",
    )
    check_parser.add_argument(
        "--base", metavar="REV", help="any git revision; default: the merge base with main, else HEAD"
    )
    check_parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too, as Markdown")
    preset_parser = commands.add_parser(
        "preset",
        help="lay a named set of parameters over params.yaml",
        description="Lay presets/NAME.yaml over params.yaml; comments and order stay. "
        "`git checkout params.yaml` undoes it.",
    )
    which = preset_parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="the preset")
    which.add_argument("--list", action="store_true", help="tell what presets there are")
    preset_parser.add_argument("--dry-run", action="store_true", help="only print the difference")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "check":
            return check(parsed.base, parsed.markdown)
        return print_presets() if parsed.list else preset(parsed.name, parsed.dry_run)
    except QcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(revision: str | None, markdown: Path | None) -> int:
    """Compare, print the table, write it as Markdown if asked; the exit status."""
    rules = read(Settings, PARAMS, str(PARAMS)).gate.rules
    commit, what = default_base() if revision is None else (find_commit(revision), revision)
    new = _side(_text(METRICS), _text(PREDICTIONS), "")
    base = _side(read_at(commit, METRICS), read_at(commit, PREDICTIONS), f"{commit[:9]}:")
    findings = judge(rules, base, new)
    found = status(findings)
    headline = f"metrics gate: {VERDICTS[found]}; base {commit[:9]} ({what})"
    notes = []
    if different := other_questions(base, new):
        notes.append(f"the test questions are others than at the base: {different}; no score of theirs can be compared")
    if base.predictions is None or new.predictions is None:
        notes.append(f"{PREDICTIONS} is not on both sides: no drop could be tested for chance")
    print("\n".join([terminal_table(findings), *notes, headline]))
    if markdown is not None:
        with new_file(markdown) as temporary:
            lines = [f"### {headline}", markdown_table(findings), *notes]
            temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return found


def print_presets() -> int:
    """Tell what presets there are; the exit status."""
    for name in list_presets(PRESETS):
        found = read_preset(PRESETS, name)
        print(f"{name:<14} {found.purpose}\n{'':<14} takes {found.takes}")
    return 0


def preset(name: str, dry_run: bool) -> int:
    """Lay a preset over params.yaml, and print the difference; the exit status."""
    read(Settings, PARAMS, str(PARAMS))
    before = PARAMS.read_text(encoding="utf-8")
    found = read_preset(PRESETS, name)
    after = lay_over(before, found)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / PARAMS
        tried.write_text(after, encoding="utf-8")
        read(Settings, tried, f"{PARAMS} under {found.path}")
    print("\n".join(difference(before, after)) or f"{PARAMS} holds the values of {found.path} already")
    if not dry_run and before != after:
        with new_file(PARAMS) as temporary:
            temporary.write_text(after, encoding="utf-8")
        print(f"{PARAMS}: written; `git checkout {PARAMS}` undoes it; `dvc repro` runs it. It takes {found.takes}")
    return 0


def _text(path: Path) -> str | None:
    """A file's text; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def _side(metrics: str | None, predictions: str | None, prefix: str) -> Side:
    """A side from the text of its files; `prefix` stands before their names in messages."""
    if metrics is None:
        remedy = "name another with --base" if prefix else "`dvc repro` makes it"
        raise QcError(f"{prefix}{METRICS}: not there, so there is nothing to compare; {remedy}")
    try:
        content = json.loads(metrics)
        if not isinstance(content, dict):
            raise ValueError(f"expected keys and values, found {type(content).__name__}")
    except ValueError as error:
        raise QcError(f"{prefix}{METRICS}: not valid JSON: {error}; `dvc repro` makes it anew") from None
    rows = None if predictions is None else read_predictions(predictions, f"{prefix}{PREDICTIONS}")
    return Side(flatten(content), rows)


if __name__ == "__main__":
    sys.exit(main())
