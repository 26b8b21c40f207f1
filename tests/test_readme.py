"""The README's numbers are those of the committed record."""

import json
import subprocess

from stages.results import BEGIN, END, MODELS, result_table, with_block
from tests.conftest import ROOT


def committed(path):
    return subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, text=True, capture_output=True, check=True).stdout


def test_the_result_table_is_that_of_the_committed_metrics():
    trainings = {name: json.loads(committed(f"metrics/train_{name}.json")) for name in MODELS}
    table = result_table(json.loads(committed("metrics/evaluate.json")), trainings)
    readme = committed("README.md")
    assert with_block(readme, BEGIN, END, table) == readme
