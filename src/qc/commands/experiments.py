"""List the experiments of a commit: what each changed, and its validation and test accuracy of every model.

The best comes first, by the mean validation accuracy of the models, or by that of one model with --by. Test accuracy
is shown, and sorts nothing. `dvc exp show` has a column for every parameter and metric instead.
"""

import csv
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from dvc.repo import Repo
from dvc.repo.experiments.serialize import ExpState
from dvc.utils.flatten import flatten
from tabulate import tabulate

from qc.errors import QcError
from qc.models.registry import MODELS
from qc.paths import METRICS, PARAMS

FORMATS = {"text": "plain", "markdown": "github", "csv": ""}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Name of the experiment, `workspace`, or the branch or commit that it started from.
        changed: Values of params.yaml that differ from those of that commit, by dotted key.
        valid: Validation accuracy of each model that has been trained.
        test: Test accuracy of each model that has been evaluated.
    """

    name: str
    changed: Mapping[str, Any]
    valid: Mapping[str, float]
    test: Mapping[str, float]

    def score(self, model: str | None) -> float:
        """Validation accuracy of a model, or the mean of all; -1 where it is missing."""
        found = [self.valid.get(name, -1.0) for name in ([model] if model else MODELS)]
        return mean(found) if min(found) >= 0 else -1.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--by", choices=list(MODELS), help="sort by this model; default: by the mean of all")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="experiments of the last N commits; default: 1")
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="default: text")


def run(arguments: Namespace) -> int:
    """Print the table; the exit status."""
    if arguments.num < 1:
        raise QcError(f"--num: invalid value {arguments.num}; expected 1 or more")
    rows = sorted(collect(arguments.num), key=lambda row: -row.score(arguments.by))
    header = ["experiment", "changed", *(f"{name} {split}" for split in ("valid", "test") for name in MODELS)]
    cells = [
        [
            row.name,
            " ".join(f"{key}={value}" for key, value in row.changed.items()),
            *(f"{found[name]:.3f}" if name in found else "" for found in (row.valid, row.test) for name in MODELS),
        ]
        for row in rows
    ]
    if arguments.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *cells])
    else:
        print(tabulate(cells, header, tablefmt=FORMATS[arguments.format], disable_numparse=True))
    return 0


def collect(commits: int) -> Iterator[Row]:
    """Read the workspace, the last commits and their experiments from DVC."""
    with Repo() as repo:
        workspace, *bases = repo.experiments.show(num=commits)
    yield _row("workspace", workspace, _params(bases[0]) if bases else {})
    for base in bases:
        before = _params(base)
        yield _row(base.name or base.rev[:7], base, before)
        for experiment in base.experiments or []:
            yield _row(experiment.name or experiment.revs[0].rev[:7], experiment.revs[0], before)


def _row(name: str, state: ExpState, before: Mapping[str, Any]) -> Row:
    after = _params(state)
    changed = {key: value for key, value in after.items() if before.get(key, ...) != value}
    return Row(name, changed, _metrics(state, "train_{}", "valid_accuracy"), _metrics(state, "test_{}", "accuracy"))


def _params(state: ExpState) -> dict[str, Any]:
    found = state.data.params.get(str(PARAMS), {}) if state.data else {}
    return flatten(found.get("data") or {})


def _metrics(state: ExpState, file: str, key: str) -> dict[str, float]:
    files = {name: str(METRICS / f"{file.format(name)}.json") for name in MODELS}
    metrics = state.data.metrics if state.data else {}
    found = {name: (metrics.get(path, {}).get("data") or {}).get(key) for name, path in files.items()}
    return {name: value for name, value in found.items() if value is not None}
