"""What users of `dvc exp` do daily, each for real."""

import json
import re
import time

import pytest

from qc.commands.sweep_report import TrialResult, choose
from qc.files import read_json

STALLED = 300  # seconds without a change of the queue, after which its workers are taken for dead


def experiments(project):
    """What `dvc exp show` has of every experiment, by name."""
    found = {}
    for row in json.loads(project.run("dvc", "exp", "show", "--json")):
        for experiment in row.get("experiments") or []:
            for state in experiment["revs"]:
                found[experiment["name"]] = state["data"]
    return found


def wait_for(project):
    """Wait until the queue is empty; what it says then."""
    before, since = "", time.monotonic()
    while re.search(r"(Queued|Running)\n", f"{(said := project.run('dvc', 'queue', 'status'))}\n".replace(" \n", "\n")):
        if said != before:
            before, since = said, time.monotonic()
        assert time.monotonic() - since < STALLED, said
        time.sleep(1)
    return said


def states(project):
    """States of runs that did not finish, in the user's own folder."""
    return {path for path in project.root.glob(".state/*/*") if path.name != "lock"}


@pytest.fixture
def queue(restored):
    """The finished project; the queue's workers and the experiments go after the test."""
    yield restored
    restored.run("dvc", "queue", "stop", "--kill")
    restored.run("dvc", "queue", "remove", "--all")
    restored.run("dvc", "exp", "remove", "--all-commits")


@pytest.mark.soak
def test_two_workers_run_a_grid_and_retrain_only_what_it_changes(queue):
    before, earlier = states(queue), experiments(queue)
    queue.run("dvc", "exp", "run", "--queue", "-S", "train_prefix.prefix_length=0,3", "-S", "train_prefix.epochs=1")
    queue.run("dvc", "queue", "start", "--jobs", "2")
    said = wait_for(queue)
    assert said.count("Success") == 2
    found = {name: data for name, data in experiments(queue).items() if name not in earlier}
    assert len(found) == 2
    lengths = set()
    for name, data in found.items():
        log = queue.run("dvc", "queue", "logs", name)
        assert re.findall(r"Running stage '(\w+)'", log) == ["settings", "train_prefix", "evaluate"]
        lengths.add(data["params"]["params.yaml"]["data"]["train_prefix"]["prefix_length"])
        metrics = {path: content["data"] for path, content in data["metrics"].items()}
        assert metrics["metrics/train_prefix.json"].keys() == {"valid_accuracy"}
        assert metrics["metrics/train_scratch.json"] == read_json(queue.root / "metrics/train_scratch.json")
    assert lengths == {0, 3}
    assert queue.run("git", "status", "--porcelain") == ""
    assert states(queue) == before


@pytest.mark.soak
def test_an_experiment_is_compared_applied_branched_and_saved(queue):
    queue.run("dvc", "exp", "run", "--name", "slow", "-S", "train_distilbert.learning_rate=1e-4")
    assert read_json(queue.root / "models/distilbert/config.json")
    changed = queue.run("dvc", "exp", "diff", "--all")
    assert "train_distilbert.learning_rate" in changed
    queue.run("git", "checkout", "--quiet", "--force", ".")
    queue.run("dvc", "checkout", "--quiet", "--force")
    assert "main" in queue.run("git", "branch", "--show-current")
    queue.run("dvc", "exp", "apply", "slow")
    assert "learning_rate: 0.0001" in queue.params.read_text()
    assert queue.repro() == []
    queue.run("dvc", "exp", "branch", "slow", "kept")
    assert "learning_rate: 0.0001" in queue.run("git", "show", "kept:params.yaml")
    queue.set("train_scratch.epochs", 1)
    assert queue.repro() == ["train_scratch", "evaluate"]
    queue.run("dvc", "exp", "save", "--name", "saved")
    metrics = experiments(queue)["saved"]["metrics"]
    assert metrics["metrics/train_scratch.json"]["data"] == read_json(queue.root / "metrics/train_scratch.json")
    queue.run("git", "branch", "--quiet", "-D", "kept")


def test_a_sweep_chooses_by_validation_alone_and_goes_on_where_it_was(queue):
    (queue.root / "data/split/test.parquet").unlink()  # not read
    said = queue.run("qc", "sweep", "--trials", "1", "--seeds", "1")
    page = (queue.root / "docs/sweep.md").read_text()
    for model in ("scratch", "prefix", "distilbert"):
        valid = read_json(queue.root / f"reports/train_{model}.json")["valid"]
        assert f"{model}, trial 0: {valid['accuracy']:.3f} of validation" in said  # the first trial is params.yaml's
    assert page.count("| 1. (params.yaml) |") == 3
    assert "<svg" in (queue.root / "docs/sweep.svg").read_text()
    queue.run("git", "checkout", "--quiet", "docs")

    more = queue.run("qc", "sweep", "scratch", "--trials", "2", "--seeds", "1")
    assert re.findall(r"scratch, trial (\d+): ", more) == ["1"]
    assert "**transformer from scratch**, 2 trials" in more
    queue.set("train_scratch.epochs", 1)  # another search: what was found with two epochs says nothing of one
    again = queue.run("qc", "sweep", "scratch", "--trials", "1", "--seeds", "2")
    assert "scratch, trial 0: " in again
    assert "of validation, 2 seeds" in again
    assert queue.run("git", "status", "--porcelain") == " M params.yaml\n"
    assert "invalid value other; expected models of scratch" in queue.run("qc", "sweep", "other", status=2)
    assert "--trials: invalid value 0; expected 1 or more" in queue.run("qc", "sweep", "--trials", "0", status=2)


@pytest.mark.parametrize(("of_params", "of_other", "chosen"), [(0.80, 0.82, 0), (0.80, 0.84, 1), (0.82, 0.80, 0)])
def test_the_sweep_leaves_the_defaults_unless_they_are_worse_by_more_than_a_standard_error(of_params, of_other, chosen):
    trials = [TrialResult(n, {}, [score, score], [1.0, 1.0]) for n, score in enumerate((of_params, of_other))]
    trials.append(TrialResult(2, {}, [0.99], [0.1]))  # pruned: it says nothing
    assert choose(trials, 200).number == chosen  # a standard error of 200 is 0.026 or so
