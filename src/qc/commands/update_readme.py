"""Write the results of the last run into README.md; write its other scores and the seeds into docs/evaluation.md."""

from argparse import ArgumentParser, Namespace

from qc.commands.tables import result_table, score_table, seed_table, write_block
from qc.errors import QcError
from qc.files import read_json
from qc.models.registry import MODELS
from qc.paths import EVALUATION_PAGE, README, REPORTS, SEEDS

BEGIN, END = "<!-- results: written by `qc update-readme` -->", "<!-- end of results -->"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Write the tables; the exit status."""
    if not SEEDS.exists():
        raise QcError(f"{SEEDS}: no such file; `qc seeds` writes it")
    scores = read_json(REPORTS / "test.json")
    trainings = {name: read_json(REPORTS / f"train_{name}.json") for name in MODELS}
    write_block(README, BEGIN, END, result_table(scores, trainings))
    write_block(EVALUATION_PAGE, BEGIN, END, f"{score_table(scores, list(MODELS))}\n\n{seed_table(read_json(SEEDS))}")
    return 0
