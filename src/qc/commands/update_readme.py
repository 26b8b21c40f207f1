"""Write the results of the last run into README.md; write its other scores and the seeds into docs/evaluation.md.

The table over seeds is left out where reports/seeds.json is missing or of another run; `qc seeds` writes it.
"""

from argparse import ArgumentParser, Namespace

from qc.commands.check import refuse_stale_scores
from qc.commands.report import read_seeds
from qc.commands.tables import result_table, score_table, seed_table, write_block
from qc.files import read_json
from qc.models.registry import MODELS
from qc.paths import EVALUATION_PAGE, README, REPORTS, SEEDS
from qc.stage import load_settings

BEGIN, END = "<!-- results: written by `qc update-readme` -->", "<!-- end of results -->"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Write the tables; the exit status."""
    refuse_stale_scores()
    scores = read_json(REPORTS / "test.json")
    trainings = {name: read_json(REPORTS / f"train_{name}.json") for name in MODELS}
    write_block(README, BEGIN, END, result_table(scores, trainings))
    tables, seeds = [score_table(scores, list(MODELS))], read_seeds(load_settings().seed, scores)
    if seeds:
        tables.append(seed_table(seeds))
    else:
        print(f"{SEEDS}: missing, or of another run; its table is left out, `qc seeds` writes the file")
    write_block(EVALUATION_PAGE, BEGIN, END, "\n\n".join(tables))
    return 0
