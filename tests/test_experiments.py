"""What users of `dvc exp` do daily, each for real."""

import csv
import json
import re
import statistics
import subprocess
import time

import pytest
from optuna.trial import TrialState, create_trial

from qc.commands.sweep import SPACES, choose, rank
from qc.files import read_json
from tests.conftest import STAGES

STALLED = 300  # seconds without a change of the queue, after which its workers are taken for dead


def experiments(project):
    """What `dvc exp show` has of every experiment, by name."""
    by_name = {}
    for row in json.loads(project.run("dvc", "exp", "show", "--json")):
        for experiment in row.get("experiments") or []:
            for state in experiment["revs"]:
                by_name[experiment["name"]] = state["data"]
    return by_name


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
    made = {name: data for name, data in experiments(queue).items() if name not in earlier}
    assert len(made) == 2
    lengths = set()
    for name, data in made.items():
        log = queue.run("dvc", "queue", "logs", name)
        ran = re.findall(r"Running stage '(\w+)'", log)
        assert [stage for stage in ran if stage in STAGES] == ["fetch", "train_prefix", "evaluate"]
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
    assert queue.repro() == ["fetch", "train_scratch", "evaluate"]
    queue.run("dvc", "exp", "save", "--name", "saved")
    metrics = experiments(queue)["saved"]["metrics"]
    assert metrics["metrics/train_scratch.json"]["data"] == read_json(queue.root / "metrics/train_scratch.json")
    queue.run("git", "branch", "--quiet", "-D", "kept")


def test_experiments_are_listed_by_their_mean_validation_accuracy(queue):
    """The record is changed and saved, rather than trained."""
    names = ("scratch", "prefix", "distilbert")
    values = {"high": (0.5, 0.5, 0.6), "one-is-best": (0.9, 0.2, 0.1), "low": (0.1, 0.1, 0.1)}
    for name, accuracies in values.items():
        for model, accuracy in zip(names, accuracies, strict=True):
            (queue.root / f"metrics/train_{model}.json").write_text(json.dumps({"valid_accuracy": accuracy}))
        queue.set("train_prefix.prefix_length", len(name))
        queue.run("dvc", "exp", "save", "--name", name)
    (queue.root / "metrics/train_prefix.json").unlink()  # the workspace has no score of one model

    rows = list(csv.DictReader(queue.run("qc", "experiments", "--format", "csv").splitlines()))
    order = [row["experiment"] for row in rows]
    assert [name for name in order if name in values] == ["high", "one-is-best", "low"]
    assert order[-1] == "workspace"
    row = rows[order.index("one-is-best")]
    assert [row[f"{model} valid"] for model in names] == ["0.900", "0.200", "0.100"]
    test = read_json(queue.root / "metrics/test_prefix.json")["accuracy"]
    assert row["prefix test"] == f"{test:.3f}"
    assert row["changed"] == "train_prefix.prefix_length=11"
    assert rows[order.index("main")]["changed"] == ""
    text = queue.run("qc", "experiments", "--by", "scratch").splitlines()
    assert text[1].startswith("one-is-best ")
    assert max(map(len, text)) <= 160
    assert "--num: invalid value 0; expected 1 or more" in queue.run("qc", "experiments", "--num", "0", status=2)


def trials(said):
    """The trials that a sweep printed: number, and the accuracy of each seed."""
    lines = re.findall(r"trial (\d+) of \d+: accuracy ([\d. ]+):", said)
    return {int(number): [float(accuracy) for accuracy in accuracies.split()] for number, accuracies in lines}


def test_a_sweep_begins_with_params_yaml_reads_no_test_split_and_goes_on_where_it_was(queue):
    (queue.root / "data/split/tiny-bert/test.parquet").unlink()
    queue.set("train_prefix.head_learning_rate", "null")  # a value to begin with, like that of the rest
    said = queue.run("qc", "sweep", "--trials", "1", "--seeds", "1")
    for model in ("scratch", "distilbert"):
        valid = read_json(queue.root / f"reports/train_{model}.json")["valid"]
        assert f"{model}, trial 1 of 1: accuracy {valid['accuracy']:.3f}: " in said
        assert re.search(rf"^1\. params\.yaml .* {valid['loss']:.3f}$", said, re.M)
    assert "'learning_rate': 0.05, 'head_learning_rate': 0.05" in said
    assert said.count("1. params.yaml") == said.count("chosen: the values of params.yaml") == len(SPACES)

    more = queue.run("qc", "sweep", "distilbert", "--trials", "2", "--seeds", "1")  # the first is of the search above
    assert list(trials(more)) == [2]
    assert "fine-tuned encoder: 2 trials" in more
    queue.set("train_scratch.epochs", 1)  # another search: what was found with two epochs says nothing of one
    assert list(trials(queue.run("qc", "sweep", "scratch", "--trials", "1", "--seeds", "1"))) == [1]
    assert queue.run("git", "status", "--porcelain") == " M params.yaml\n"
    assert "invalid value other; expected models of scratch" in queue.run("qc", "sweep", "other", status=2)
    assert "--trials: invalid value 0; expected 1 or more" in queue.run("qc", "sweep", "--trials", "0", status=2)


def test_a_trial_below_the_median_gets_no_further_seed_and_the_best_is_a_command(queue):
    queue.set("train_scratch.epochs", 4)
    said = queue.run("qc", "sweep", "scratch", "--trials", "10", "--seeds", "2")
    tried = trials(said)
    assert list(tried) == list(range(1, 11))
    whole = []  # accuracies of the first seed of the trials that got both
    for accuracies in tried.values():
        pruned = len(whole) >= 3 and accuracies[0] < statistics.median(whole)
        assert len(accuracies) == (1 if pruned else 2), tried
        if not pruned:
            whole.append(accuracies[0])
    assert 3 < len(whole) < 10, "no trial was pruned, or all of them"
    assert f"transformer from scratch: 10 trials, {10 - len(whole)} of them pruned" in said
    ranked = sorted((statistics.mean(seeds) for seeds in tried.values() if len(seeds) == 2), reverse=True)
    shown = [float(row.split()[-4]) for row in said.splitlines() if re.match(r"\d+\. ", row)]
    assert shown[:4] == pytest.approx(ranked[:4], abs=0.001)
    [chosen] = re.findall(r"^chosen: dvc exp run (.*)$", said, re.M)
    assert "-S train_scratch." in chosen


def test_values_that_do_not_fit_are_a_failed_trial_unless_they_are_those_of_params_yaml(queue):
    """Three heads divide 12, the size of params.yaml, and none of the proposed sizes."""
    queue.set("train_scratch.hidden_size", 12)
    queue.set("train_scratch.heads", 3)
    said = queue.run("qc", "sweep", "scratch", "--trials", "6", "--seeds", "1")
    assert re.search(r"failed: .*hidden_size: invalid value (128|256); expected a multiple of", said), said
    assert "chosen: " in said and "Traceback" not in said
    queue.set("max_length", 5000)
    [line] = queue.run("qc", "sweep", "distilbert", "--trials", "1", status=2).splitlines()
    assert line.startswith("error: params.yaml: max_length: invalid value 5000")


def test_a_killed_sweep_goes_on_and_a_damaged_file_is_named(queue):
    sweep = ["qc", "sweep", "scratch", "--seeds", "1", "--trials"]
    env = {**queue.env, **queue.forking()}
    with subprocess.Popen([*sweep, "99"], cwd=queue.root, env=env, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        process.kill()
    assert first.startswith("scratch, trial 1 of 99: accuracy ")
    said = queue.run(*sweep, "1")
    assert trials(said) == {}  # that one is of the killed search
    assert "chosen: " in said
    storage = queue.root / ".state/sweep.db"
    storage.write_bytes(b"damaged" + storage.read_bytes()[7:])
    [line] = queue.run(*sweep, "4", status=2).splitlines()
    assert line.startswith("error: .state/sweep.db: file is not a database; ")
    assert line.endswith("if the file is damaged, remove it, and the search begins again")


def trial(accuracy, loss):
    seeds = {"accuracies": [accuracy, accuracy], "losses": [loss, loss], "params": {}}
    return create_trial(state=TrialState.COMPLETE, value=accuracy, user_attrs=seeds)


PRUNED = create_trial(state=TrialState.PRUNED, user_attrs={"accuracies": [0.99], "losses": [0.1], "params": {}})


@pytest.mark.parametrize(("of_params", "of_other", "chosen"), [(0.80, 0.82, 0), (0.80, 0.84, 1), (0.82, 0.80, 0)])
def test_the_sweep_leaves_the_defaults_unless_they_are_worse_by_more_than_a_standard_error(of_params, of_other, chosen):
    tried = [trial(of_params, 1.0), trial(of_other, 1.0), PRUNED]  # which says nothing
    assert choose(tried, 200) is tried[chosen]  # a standard error of 200 is 0.026 or so


def test_of_trials_with_the_same_accuracy_the_one_of_lower_loss_is_better():
    tried = [trial(0.85, 0.5), PRUNED, trial(0.85, 0.3), trial(0.85, 0.4)]
    assert [better.user_attrs["losses"][0] for better in rank(tried)] == [0.3, 0.4, 0.5]
