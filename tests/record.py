"""The numbers in README and docs are those of the committed record: `python -m pytest tests/record.py`.

Only the maintainers' own record must satisfy this, so `make test` leaves it out: whoever commits a run of his own has
other numbers. `qc update-readme` writes the README's tables.
"""

import json
import subprocess

import yaml

from qc.commands.seeds import SCORES
from qc.commands.update_readme import BEGIN, END
from qc.evaluation.tables import replace_block, result_table, seed_table
from qc.models.registry import MODELS
from tests.project import ROOT


def committed(path):
    return subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, text=True, capture_output=True, check=True).stdout


def test_the_result_tables_are_those_of_the_committed_metrics():
    trainings = {name: json.loads(committed(f"reports/train_{name}.json")) for name in MODELS}
    tables = [
        result_table(json.loads(committed("reports/test.json")), trainings),
        seed_table(json.loads(committed("reports/seeds.json"))),
    ]
    readme = committed("README.md")
    assert replace_block(readme, BEGIN, END, "\n\n".join(tables)) == readme


def test_the_record_over_seeds_is_of_the_same_pipeline_as_the_record():
    seed = str(yaml.safe_load(committed("params.yaml"))["seed"])
    seeds, scores = (json.loads(committed(name)) for name in ("reports/seeds.json", "metrics/evaluate.json"))
    for name in MODELS:
        assert seeds[seed][name].items() >= {key: scores[name][key] for key in SCORES}.items()


def test_the_table_of_the_notebooks_protocol_ends_in_the_committed_accuracies():
    scores = json.loads(committed("reports/test.json"))
    table = committed("docs/notebook.md").partition("| as the notebook reports |")[2]
    for name, model in MODELS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {model.title} |"))
        assert row.split("|")[-2].strip() == f"{scores[name]['accuracy']:.3f}"
