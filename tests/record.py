"""The numbers in README and docs are those of the committed record: `python -m pytest tests/record.py`.

Only the maintainers' own record must satisfy this, so `make test` leaves it out: whoever commits a run of his own has
other numbers. `qc update-readme` writes the README's tables.
"""

import json
import subprocess

import yaml

from qc.commands.tables import replace_block, result_table, score_table, seed_table
from qc.commands.update_readme import BEGIN, END
from qc.models.registry import MODELS
from tests.project import ROOT


def committed(path):
    return subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, text=True, capture_output=True, check=True).stdout


def test_the_result_tables_are_those_of_the_committed_metrics():
    trainings = {name: json.loads(committed(f"reports/train_{name}.json")) for name in MODELS}
    scores, seeds = (json.loads(committed(f"reports/{name}.json")) for name in ("test", "seeds"))
    details = f"{score_table(scores, list(MODELS))}\n\n{seed_table(seeds)}"
    for page, block in (("README.md", result_table(scores, trainings)), ("docs/evaluation.md", details)):
        text = committed(page)
        assert replace_block(text, BEGIN, END, block) == text


def test_the_record_over_seeds_is_of_the_same_pipeline_as_the_record():
    seed = str(yaml.safe_load(committed("params.yaml"))["seed"])
    seeds = json.loads(committed("reports/seeds.json"))
    for name in MODELS:
        assert seeds[seed][name].items() >= json.loads(committed(f"metrics/test_{name}.json")).items()


def test_the_table_of_the_notebooks_protocol_ends_in_the_committed_accuracies():
    scores = json.loads(committed("reports/test.json"))
    table = committed("docs/notebook.md").partition("| as the notebook reports |")[2]
    for name, model in MODELS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {model.title} |"))
        assert row.split("|")[-2].strip() == f"{scores[name]['accuracy']:.3f}"


def test_the_labels_that_look_wrong_are_of_the_committed_splits():
    labels, data = (json.loads(committed(f"reports/{name}.json")) for name in ("labels", "data"))
    assert labels["split"].items() <= data["sha256"].items()
