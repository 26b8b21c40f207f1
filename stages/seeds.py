"""The pipeline with training seeds 1 to 5 -> metrics/seeds.json; run by `make seeds`, not a stage of the DAG.

Each seed is a DVC experiment, `seed-1` to `seed-5`, run in a folder of its own; the split stays as it is. What was run
before comes from DVC's run cache.

    python -m stages.seeds              1 to 5
    python -m stages.seeds 7 8 9        others
"""

import re
import sys
from typing import Any

from qc.artifacts import write_json
from qc.errors import QcError
from qc.settings import Settings
from stages.entry import run
from stages.experiments import read_metrics, run_experiment
from stages.results import MODELS, SEEDS, seed_table

NUMBERS = (1, 2, 3, 4, 5)
SCORES = ("accuracy", "macro_f1", "loss", "ece")


def run_seed(seed: int) -> dict[str, Any]:
    """Run the pipeline with a training seed; the scores of each model."""
    name = f"seed-{seed}"
    run_experiment(name, {"seed": seed})
    scores = read_metrics("evaluate.json", name)
    return {
        model: {
            "valid_accuracy": read_metrics(f"train_{model}.json", name)["valid"]["accuracy"],
            **{score: scores[model][score] for score in SCORES},
        }
        for model in MODELS
    }


def main(_: Settings) -> None:
    """Run every seed, print the table."""
    asked = sys.argv[1:] or [str(seed) for seed in NUMBERS]
    if len(set(asked)) < 2 or not all(re.fullmatch(r"0|[1-9]\d{0,8}", seed) for seed in asked):
        raise QcError(f"seeds: {' '.join(asked)} is not possible; allowed: two or more different numbers from 0")
    seeds = {seed: run_seed(int(seed)) for seed in dict.fromkeys(asked)}
    write_json(SEEDS, seeds)
    print(seed_table(seeds))


if __name__ == "__main__":
    run(main)
