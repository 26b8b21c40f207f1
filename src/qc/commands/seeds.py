"""Run the pipeline with several training seeds and write reports/seeds.json.

Each seed is a DVC experiment, `seed-1` to `seed-5`, run in a folder of its own; workspace and split stay as they are.
Stages that ran before come from DVC's run cache.
"""

import contextlib
import os
import re
import signal
import subprocess
from argparse import ArgumentParser, Namespace
from typing import Any

from dvc.api import metrics_show

from qc.errors import QcError
from qc.evaluation.tables import seed_table
from qc.files import write_json
from qc.models.registry import MODELS
from qc.paths import METRICS, SEEDS

DEFAULT = ["1", "2", "3", "4", "5"]
SCORES = ("accuracy", "macro_f1", "loss", "ece")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("seeds", nargs="*", metavar="SEED", help=f"default: {' '.join(DEFAULT)}")


def run(arguments: Namespace) -> int:
    """Run every seed and print the table; the exit status."""
    given = arguments.seeds or DEFAULT
    if len(set(given)) < 2 or not all(re.fullmatch(r"0|[1-9]\d{0,8}", seed) for seed in given):
        raise QcError(f"seeds: invalid value {' '.join(given)}; expected two or more different numbers from 0")
    seeds = {seed: run_seed(int(seed)) for seed in dict.fromkeys(given)}
    write_json(SEEDS, seeds)
    print(seed_table(seeds))
    return 0


def run_seed(seed: int) -> dict[str, Any]:
    """Run the pipeline with a training seed; the scores of each model."""
    name = f"seed-{seed}"
    run_experiment(name, f"--set-param=seed={seed}")
    scores = _read_metrics("evaluate.json", name)
    return {
        model: {
            "valid_accuracy": _read_metrics(f"train_{model}.json", name)["valid_accuracy"],
            **{score: scores[model][score] for score in SCORES},
        }
        for model in MODELS
    }


def run_experiment(name: str, *arguments: str) -> None:
    """Run a DVC experiment in a folder of its own; it replaces one of the same name.

    Raises:
        QcError: A stage failed.
    """
    if name in _dvc("list", "--name-only", stdout=subprocess.PIPE).split():
        _dvc("remove", name)
    _dvc("run", "--temp", "--name", name, *arguments)


def _read_metrics(file: str, experiment: str) -> dict[str, Any]:
    return metrics_show(str(METRICS / file), rev=experiment)


def _dvc(*arguments: str, stdout: int | None = None) -> str | None:
    """Run `dvc exp` in a session of its own, and interrupt it together with its stage when this process ends."""
    command = ["dvc", "exp", *arguments]
    print(" ".join(command), flush=True)
    with subprocess.Popen(command, text=True, stdout=stdout, start_new_session=True) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            raise
    if process.returncode:
        raise QcError(f"`{' '.join(command)}` failed, see above")
    return printed
