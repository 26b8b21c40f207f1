"""qc check: did metrics get worse?"""

from argparse import Namespace
from pathlib import Path

from qc.artifacts import new_file, parse_json
from qc.commands import METRICS, PARAMS
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
from qc.revisions import default_base, find_commit, read_at
from qc.schema import read
from qc.settings import Settings

EVALUATION = METRICS / "evaluate.json"
PREDICTIONS = METRICS / "predictions.csv"


def run(arguments: Namespace) -> int:
    """Compare, print the table, write it as Markdown if asked; the exit status."""
    revision, markdown = arguments.base, arguments.markdown
    rules = read(Settings, PARAMS, str(PARAMS)).gate.rules
    commit, what = default_base() if revision is None else (find_commit(revision), revision)
    new = _side(_text(EVALUATION), _text(PREDICTIONS), "")
    base = _side(read_at(commit, EVALUATION), read_at(commit, PREDICTIONS), f"{commit[:9]}:")
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


def _text(path: Path) -> str | None:
    """A file's text; None where there is none."""
    try:
        return path.read_bytes().decode("utf-8")  # not read_text, which would change line ends
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def _side(metrics: str | None, predictions: str | None, prefix: str) -> Side:
    """A side from the text of its files; `prefix` stands before their names in messages."""
    if metrics is None:
        remedy = "name another with --base" if prefix else "`dvc repro` makes it"
        raise QcError(f"{prefix}{EVALUATION}: not there, so there is nothing to compare; {remedy}")
    try:
        content = parse_json(metrics)
    except ValueError as error:
        raise QcError(f"{prefix}{EVALUATION}: not valid JSON: {error}; `dvc repro` makes it anew") from None
    rows = None if predictions is None else read_predictions(predictions, f"{prefix}{PREDICTIONS}")
    return Side(flatten(content), rows)
