"""Write the result tables of the last run, and of the last `qc seeds`, into README.md."""

from argparse import ArgumentParser, Namespace

from qc.errors import QcError
from qc.evaluation.tables import result_table, seed_table, write_block
from qc.files import read_json
from qc.models.registry import MODELS
from qc.paths import README, REPORTS, SEEDS

BEGIN, END = "<!-- results: written by `qc update-readme` -->", "<!-- end of results -->"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Write the tables; the exit status."""
    if not SEEDS.exists():
        raise QcError(f"{SEEDS}: no such file; `qc seeds` writes it")
    trainings = {name: read_json(REPORTS / f"train_{name}.json") for name in MODELS}
    results = result_table(read_json(REPORTS / "test.json"), trainings)
    write_block(README, BEGIN, END, f"{results}\n\n{seed_table(read_json(SEEDS))}")
    return 0
