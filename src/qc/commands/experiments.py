"""List the experiments of a commit: validation and test accuracy of every model, and what each changed.

The best comes first, by the mean validation accuracy of the models, or by that of one model with --by. Test accuracy
is shown, and sorts nothing. `dvc exp show` has a column for every parameter and metric instead.
"""

import csv
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.serialize import ExpState
from dvc.utils.flatten import flatten
from tabulate import tabulate

from qc.errors import QcError
from qc.models.registry import MODELS
from qc.paths import METRICS, PARAMS

FORMATS = {"text": "plain", "markdown": "github", "csv": ""}
SCORES = {"valid": ("train_{}.json", "valid_accuracy"), "test": ("test_{}.json", "accuracy")}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--by", choices=list(MODELS), help="sort by this model; default: by the mean of all")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="experiments of the last N commits; default: 1")
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="default: text")


def run(arguments: Namespace) -> int:
    """Print the table; the exit status."""
    if arguments.num < 1:
        raise QcError(f"--num: invalid value {arguments.num}; expected 1 or more")
    models = [arguments.by] if arguments.by else MODELS

    def rank(row: dict[str, Any]) -> float:
        scores = [row[f"{name} valid"] for name in models]
        return 1.0 if None in scores else -mean(scores)  # unfinished ones last

    rows = sorted(collect(arguments.num), key=rank)
    rows = [
        {key: f"{cell:.3f}" if isinstance(cell, float) else cell or "" for key, cell in row.items()} for row in rows
    ]
    if arguments.format == "csv":
        table = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        print(tabulate(rows, "keys", tablefmt=FORMATS[arguments.format], disable_numparse=True))
    return 0


def collect(commits: int) -> Iterator[dict[str, Any]]:
    """Read the workspace, the last commits and their experiments from DVC: a row each.

    Raises:
        QcError: DVC cannot read the project.
    """
    try:
        with Repo() as repo:
            states = repo.experiments.show(num=commits)
    except DvcException as error:
        raise QcError(f"{error}; `qc doctor` says more") from None
    if not states:
        raise QcError("the repository has no commit, from which experiments start: git add --all && git commit")
    workspace, *bases = states
    yield _row("workspace", workspace, bases[0] if bases else workspace)
    for base in bases:
        yield _row(base.name or base.rev[:7], base, base)
        for experiment in base.experiments or []:
            yield _row(experiment.name or experiment.revs[0].rev[:7], experiment.revs[0], base)


def _row(name: str, state: ExpState, base: ExpState) -> dict[str, Any]:
    """Make a row: name, accuracies, which may be missing, and the parameters that differ from those of `base`."""
    before, after = (flatten(_content(side, "params", PARAMS)) for side in (base, state))
    scores = {
        f"{model} {split}": _content(state, "metrics", METRICS / file.format(model)).get(key)
        for split, (file, key) in SCORES.items()
        for model in MODELS
    }
    changed = [f"{key}={value}" for key, value in after.items() if before.get(key, ...) != value]
    return {"experiment": name, **scores, "changed": " ".join(changed)}


def _content(state: ExpState, kind: str, path: Path) -> dict[str, Any]:
    files = getattr(state.data, kind, None) or {}
    return files.get(str(path), {}).get("data") or {}
