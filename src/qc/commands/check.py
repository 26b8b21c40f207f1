"""Compare the metrics of the working tree with those of a git revision, by the rules under gate in params.yaml.

Exit status: 0 no regression, 1 regression, 2 cannot compare.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from qc.commands.gate import VERDICTS, apply_rules, exit_status, markdown_table, terminal_table
from qc.commands.metric_set import MetricSet, flatten, question_difference, read_predictions
from qc.commands.revisions import default_base, find_commit, read_at
from qc.errors import QcError
from qc.files import new_file, parse_json
from qc.paths import METRICS, REPORTS
from qc.stage import load_settings

FILES = {  # scores and predictions of a split
    "valid": (REPORTS / "validation.json", METRICS / "validation_predictions.csv"),
    "test": (REPORTS / "test.json", METRICS / "predictions.csv"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--base", metavar="REV", help="any git revision; default: the merge base with main")
    parser.add_argument(
        "--split",
        choices=["valid", "test"],
        default="valid",
        help="whose scores; default: valid, since test questions that decide again and again are no test any more",
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too, as Markdown")


def run(arguments: Namespace) -> int:
    """Compare, print the table, write it as Markdown if asked; the exit status."""
    revision, markdown, split = arguments.base, arguments.markdown, arguments.split
    rules = load_settings().gate.rules
    commit, what = default_base() if revision is None else (find_commit(revision), revision)
    files = FILES[split]
    here, there = [_text(path) for path in files], [read_at(commit, path) for path in files]
    if revision is None and here == there and commit == find_commit("HEAD"):
        raise QcError(
            f"the base, {what}, is HEAD, and the {split} scores here are those of HEAD: nothing would be compared; to "
            "compare all the same: --base HEAD"
        )
    new, base = _read_set(files, here, ""), _read_set(files, there, f"{commit[:9]}:")
    findings = apply_rules(rules, base, new)
    found = exit_status(findings)
    headline = f"metrics gate on {split}: {VERDICTS[found]}; base {commit[:9]} ({what})"
    notes = []
    if different := question_difference(base, new):
        notes.append(f"the questions differ from those of the base: {different}; their scores cannot be compared")
    if base.predictions is None or new.predictions is None:
        notes.append(f"{files[1]} is not on both sides: no drop could be tested for chance")
    print("\n".join([terminal_table(findings), *notes, headline]))
    if markdown is not None:
        with new_file(markdown) as temporary:
            lines = [f"### {headline}", markdown_table(findings), *notes]
            temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return found


def _text(path: Path) -> str | None:
    """Read a text file; None where it is missing."""
    try:
        return path.read_bytes().decode("utf-8")  # not read_text, which would change line ends
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def _read_set(files: tuple[Path, Path], texts: Sequence[str | None], prefix: str) -> MetricSet:
    """Parse scores and predictions from the texts of their files; `prefix` stands before file names in messages."""
    (scores, predicted), (metrics, predictions) = files, texts
    if metrics is None:
        remedy = "name another with --base" if prefix else "`dvc repro` makes it"
        raise QcError(f"{prefix}{scores}: no such file; {remedy}")
    try:
        content = parse_json(metrics)
    except ValueError as error:
        raise QcError(f"{prefix}{scores}: not valid JSON: {error}; `dvc repro` makes it anew") from None
    rows = None if predictions is None else read_predictions(predictions, f"{prefix}{predicted}")
    return MetricSet(flatten(content), rows)
