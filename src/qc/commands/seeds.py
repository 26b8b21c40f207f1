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
from tqdm import tqdm

from qc.commands.tables import seed_table
from qc.errors import QcError
from qc.evaluation.scores import COMPARED
from qc.files import write_json
from qc.models.registry import MODELS
from qc.paths import METRICS, SEEDS

DEFAULT = ["1", "2", "3", "4", "5"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("seeds", nargs="*", metavar="SEED", help=f"default: {' '.join(DEFAULT)}")


def run(arguments: Namespace) -> int:
    """Run every seed and print the table; the exit status."""
    given = arguments.seeds or DEFAULT
    if len(set(given)) < 2 or not all(re.fullmatch(r"0|[1-9]\d{0,8}", seed) for seed in given):
        raise QcError(f"seeds: invalid value {' '.join(given)}; expected two or more different numbers from 0")
    bar = tqdm(dict.fromkeys(given), desc="seeds", unit="seed", disable=None)
    seeds = {seed: run_seed(seed) for seed in bar}
    write_json(SEEDS, seeds)
    print(seed_table(seeds))
    return 0


def run_seed(seed: str) -> dict[str, Any]:
    """Run the pipeline with a training seed, in place of an earlier run of it; the scores of each model."""
    name = f"seed-{seed}"
    if name in run_dvc("exp", "list", "--name-only", stdout=subprocess.PIPE).split():
        run_dvc("exp", "remove", name)
    run_dvc("exp", "run", "--temp", "--name", name, f"--set-param=seed={seed}")
    scores, valid = (
        {model: metrics_show(str(METRICS / file.format(model)), rev=name) for model in MODELS}
        for file in ("test_{}.json", "train_{}.json")
    )
    return {model: valid[model] | {score: scores[model][score] for score in COMPARED} for model in MODELS}


def run_dvc(*arguments: str, **options: Any) -> str:
    """Run `dvc` in a session of its own, and interrupt it together with its stage when this process ends.

    `options` are those of `subprocess.Popen`; returns what it printed, where they ask for that.

    Raises:
        QcError: It failed.
    """
    command = ["dvc", *arguments]
    print(" ".join(command), flush=True)
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            raise
    if process.returncode:
        raise QcError(f"`{' '.join(command)}` failed, see above")
    return printed or ""
