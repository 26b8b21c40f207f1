"""qc check: did metrics get worse?"""

from argparse import Namespace
from collections.abc import Sequence
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

FILES = {  # scores and predictions of a split
    "valid": (METRICS / "validation.json", METRICS / "validation_predictions.csv"),
    "test": (METRICS / "evaluate.json", METRICS / "predictions.csv"),
}


def run(arguments: Namespace) -> int:
    """Compare, print the table, write it as Markdown if asked; the exit status."""
    revision, markdown, split = arguments.base, arguments.markdown, arguments.split
    rules = read(Settings, PARAMS, str(PARAMS)).gate.rules
    commit, what = default_base() if revision is None else (find_commit(revision), revision)
    files = FILES[split]
    here, there = [_text(path) for path in files], [read_at(commit, path) for path in files]
    if revision is None and here == there and commit == find_commit("HEAD"):
        raise QcError(
            f"the base, {what}, is HEAD, and the {split} scores here are those of HEAD: nothing would be compared; if "
            "that is meant, name it: --base HEAD"
        )
    new, base = _side(files, here, ""), _side(files, there, f"{commit[:9]}:")
    findings = judge(rules, base, new)
    found = status(findings)
    headline = f"metrics gate on {split}: {VERDICTS[found]}; base {commit[:9]} ({what})"
    notes = []
    if different := other_questions(base, new):
        notes.append(f"the questions are others than at the base: {different}; no score of theirs can be compared")
    if base.predictions is None or new.predictions is None:
        notes.append(f"{files[1]} is not on both sides: no drop could be tested for chance")
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


def _side(files: tuple[Path, Path], texts: Sequence[str | None], prefix: str) -> Side:
    """A side from the files of scores and predictions, and their texts; `prefix` stands before names in messages."""
    (scores, predicted), (metrics, predictions) = files, texts
    if metrics is None:
        remedy = "name another with --base" if prefix else "`dvc repro` makes it"
        raise QcError(f"{prefix}{scores}: not there, so there is nothing to compare; {remedy}")
    try:
        content = parse_json(metrics)
    except ValueError as error:
        raise QcError(f"{prefix}{scores}: not valid JSON: {error}; `dvc repro` makes it anew") from None
    rows = None if predictions is None else read_predictions(predictions, f"{prefix}{predicted}")
    return Side(flatten(content), rows)
