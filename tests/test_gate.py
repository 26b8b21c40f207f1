"""The gate: planted changes of metrics, and what `qc check` says of them."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qc.__main__ import main
from qc.commands.gate import Outcome, apply_rules, exit_status
from qc.commands.metric_set import MetricSet, flatten, question_difference
from qc.config.settings import GateRule
from qc.errors import QcError
from tests.conftest import ROOT

N = 200


def side(right=180, model="m", questions=range(N), labels="AB", predictions=True, **metrics):
    """A side with an accuracy of `right` of the questions, the first ones."""
    rows = {
        str(key): {"id": str(key), "text": f"q{key}", "label": labels[key % 2], model: labels[(key + (n >= right)) % 2]}
        for n, key in enumerate(questions)
    }
    numbers = {"n_test": float(len(rows)), f"{model}.accuracy": right / len(rows)}
    return MetricSet(
        numbers | {name.replace("__", "."): value for name, value in metrics.items()}, rows if predictions else None
    )


def rule(metric="m.accuracy", better="higher", **limits):
    return GateRule(metric=metric, better=better, **limits)


def outcome(rules, base, new):
    [finding] = apply_rules(rules if isinstance(rules, list) else [rules], base, new)
    return finding.outcome


def test_without_bounds_any_drop_is_a_regression():
    assert outcome(rule(), side(180), side(179)) is Outcome.WORSE
    assert outcome(rule(), side(180), side(180)) is Outcome.SAME
    assert outcome(rule(), side(180), side(181)) is Outcome.BETTER


def test_an_absolute_bound_alone():
    bound = rule(absolute=0.01)
    assert outcome(bound, side(180), side(178)) is Outcome.WITHIN  # 0.9 - 0.89 is a little over 0.01 in binary
    assert outcome(bound, side(180), side(177)) is Outcome.WORSE


def test_a_relative_bound_alone():
    bound = rule("m.loss", "lower", relative=0.1)
    base = side(m__loss=0.5)
    assert outcome(bound, base, side(m__loss=0.55)) is Outcome.WITHIN
    assert outcome(bound, base, side(m__loss=0.551)) is Outcome.WORSE
    assert outcome(bound, base, side(m__loss=0.4)) is Outcome.BETTER


def test_of_two_bounds_the_tighter_one_counts():
    bound = rule("m.loss", "lower", absolute=0.2, relative=0.1)
    assert outcome(bound, side(m__loss=0.5), side(m__loss=0.56)) is Outcome.WORSE
    assert outcome(bound, side(m__loss=4.0), side(m__loss=4.25)) is Outcome.WORSE


def test_a_p_value_alone():
    paired = rule(p_value=0.05)
    assert outcome(paired, side(180), side(175)) is Outcome.CHANCE  # 5 questions lost, none won: p = 2 / 2^5
    assert outcome(paired, side(180), side(174)) is Outcome.WORSE  # 6 of them: p = 2 / 2^6
    [finding] = apply_rules([paired], side(180), side(174))
    assert finding.p_value == pytest.approx(2 / 2**6)


def test_predictions_of_another_run_are_no_excuse():
    stale = MetricSet(side(150).metrics, side(180).predictions)
    with pytest.raises(
        QcError, match=r"the scores here have m.accuracy 0.75, but by the predictions beside them m has 0.9"
    ):
        apply_rules([rule(p_value=0.05)], side(180), stale)
    with pytest.raises(QcError, match="at the base"):
        apply_rules([rule(p_value=0.05)], stale, side(180))


def test_a_real_drop_within_the_absolute_bound_holds():
    assert outcome(rule(absolute=0.1, p_value=0.05), side(180), side(174)) is Outcome.WITHIN


def test_without_predictions_the_bounds_alone_decide():
    both = rule(absolute=0.01, p_value=0.05)
    assert outcome(both, side(180, predictions=False), side(175)) is Outcome.WORSE
    assert outcome(both, side(180), side(175)) is Outcome.CHANCE


def test_the_first_rule_that_fits_decides_and_a_star_stays_within_its_part():
    rules = [rule("m.ece", "lower", absolute=1.0), rule("*.ece", "lower")]
    assert outcome(rules, side(m__ece=0.1), side(m__ece=0.2)) is Outcome.WITHIN
    base, new = side(m__ece=0.1, m__calibrated__ece=0.1), side(m__ece=0.1, m__calibrated__ece=0.9)
    assert outcome(rule("*.ece", "lower"), base, new) is Outcome.SAME
    assert outcome(rule("*.*.ece", "lower"), base, new) is Outcome.WORSE


def test_a_renamed_model_has_vanished_and_the_new_one_has_no_base():
    findings = apply_rules([rule("*.accuracy")], side(model="old"), side(model="young"))
    assert {finding.metric: finding.outcome for finding in findings} == {
        "young.accuracy": Outcome.NEW, "old.accuracy": Outcome.VANISHED
    }  # fmt: skip
    assert exit_status(findings) == 1


def test_what_is_no_number_is_a_regression_and_in_the_base_cannot_be_compared():
    nothing = flatten({"m": {"accuracy": None}})
    assert math.isnan(nothing["m.accuracy"])
    broken = MetricSet(nothing | {"n_test": float(N)}, None)
    assert outcome(rule(), side(), broken) is Outcome.NOT_A_NUMBER
    assert outcome(rule(), broken, side(predictions=False)) is Outcome.BASE_NOT_A_NUMBER
    for value in ("0.9", True, [0.9], math.inf):
        assert math.isnan(flatten({"accuracy": value})["accuracy"])


@pytest.mark.parametrize(
    "changed",
    [
        {"questions": range(1, N + 1)},
        {"questions": range(N - 1)},
        {"labels": "BA"},
        {"questions": range(N - 1), "predictions": False},
    ],
)
def test_scores_of_other_test_questions_are_not_compared(changed):
    base, new = side(180), side(170, **changed)
    assert question_difference(base, new)
    findings = apply_rules([rule()], base, new)
    assert findings[0].outcome is Outcome.OTHER_QUESTIONS
    assert exit_status(findings) == 2


def test_without_a_number_of_test_questions_nothing_is_known_to_differ():
    base = MetricSet({"m.accuracy": 0.9}, None)
    assert question_difference(base, side(180, predictions=False)) is None
    assert outcome(rule(p_value=0.05), base, MetricSet({"m.accuracy": 0.8}, {})) is Outcome.WORSE


def test_the_order_of_the_questions_is_no_change():
    base, new = side(180), side(180)
    shuffled = MetricSet(new.metrics, dict(reversed(new.predictions.items())))
    assert question_difference(base, shuffled) is None
    assert apply_rules([rule(p_value=0.05)], base, shuffled)[0].p_value == 1.0


def test_a_regression_weighs_more_than_what_cannot_be_compared():
    base = side(180, m__loss=math.nan)
    findings = apply_rules([rule(), rule("m.loss", "lower")], base, side(170, m__loss=0.5))
    assert {finding.outcome.status for finding in findings} == {1, 2}
    assert exit_status(findings) == 1


# The command, in a repository of its own.


def git(folder, *arguments):
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


FILES = {
    "valid": ("reports/validation.json", "metrics/validation_predictions.csv"),
    "test": ("reports/test.json", "metrics/predictions.csv"),
}


def write(folder, right=180, questions=range(N), split="valid", **scores):
    """Scores and predictions of the three models on a split, `right` being that of distilbert."""
    metrics = {f"n_{split}": len(questions)}
    for name in ("scratch", "prefix", "distilbert"):
        found = {"accuracy": (right if name == "distilbert" else 150) / len(questions)}
        metrics[name] = found | {"macro_f1": 0.8, "loss": 0.4, "ece": 0.05} | (scores if name == "distilbert" else {})
    scores_file, predictions_file = (folder / name for name in FILES[split])
    for file in (scores_file, predictions_file):
        file.parent.mkdir(exist_ok=True)
    scores_file.write_text(json.dumps(metrics))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["id", "text", "label", "scratch", "prefix", "distilbert"])
    for n, key in enumerate(questions):
        ordinary = "A" if n < 150 else "B"
        writer.writerow(
            [
                key,
                f'a "quoted" question\x85 with odd\u2028breaks, number {key}',
                "A",
                ordinary,
                ordinary,
                "A" if n < right else "B",
            ]
        )
    predictions_file.write_text(file.getvalue())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit on main with a distilbert of 180 of 200, in the working directory."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    git(root, "init", "--quiet", "--initial-branch=main")
    for split in FILES:
        write(root, split=split)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "base")
    monkeypatch.chdir(root)
    return root


def branch(repository, **changed):
    """A branch `change` with a commit of other metrics."""
    git(repository, "checkout", "--quiet", "-b", "change")
    write(repository, **changed)
    git(repository, "commit", "--quiet", "--all", "--message", "change")


def verdict(said, metric):
    [line] = [line for line in said.splitlines() if line.startswith(f"{metric} ")]
    return line


def test_a_planted_regression_is_caught(repository, capsys):
    write(repository, right=170)
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "0.9000 0.8500 -0.0500 REGRESSION (p = 0.00195)" in " ".join(verdict(said, "distilbert.accuracy").split())
    assert "same" in verdict(said, "prefix.accuracy")
    assert said.splitlines()[-1].startswith("metrics gate on valid: regression; base ")


def test_a_committed_regression_is_caught_against_the_merge_base(repository, capsys):
    branch(repository, right=170)
    git(repository, "checkout", "--quiet", "main")
    write(repository, right=100)
    git(repository, "commit", "--quiet", "--all", "--message", "main went on")
    git(repository, "checkout", "--quiet", "change")
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "0.9000  0.8500" in verdict(said, "distilbert.accuracy")
    assert said.rstrip().endswith("(the merge base with main)")
    assert main(["check", "--base", "HEAD"]) == 0
    assert main(["check", "--base", "main"]) == 0


def test_an_improvement_and_noise_within_bounds_pass(repository, capsys):
    write(repository, right=185, macro_f1=0.75, loss=0.45, ece=0.09)
    assert main(["check"]) == 0
    said = capsys.readouterr().out
    assert "better" in verdict(said, "distilbert.accuracy")
    assert all("within bounds" in verdict(said, f"distilbert.{name}") for name in ("macro_f1", "loss", "ece"))
    assert "metrics gate on valid: holds" in said


def test_a_changed_test_set_cannot_be_compared(repository, capsys):
    write(repository, right=198, questions=range(1, N + 1))
    assert main(["check"]) == 2
    assert "1 removed, 1 added, 0 with another text or label" in capsys.readouterr().out


def test_the_table_is_written_as_markdown(repository, tmp_path):
    write(repository, right=170)
    file = tmp_path / "check.md"
    assert main(["check", "--markdown", str(file)]) == 1
    text = file.read_text()
    assert text.startswith("### metrics gate on valid: regression; base ")
    assert "| `distilbert.accuracy` | 0.9000 | 0.8500 | -0.0500 | **REGRESSION (p = 0.00195)** |" in re.sub(
        " +", " ", text
    )


def refused(capsys, *arguments):
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    return captured.err


def test_a_missing_base_says_so(repository, capsys):
    assert "no revision 'v9'" in refused(capsys, "--base", "v9")
    git(repository, "rm", "--quiet", "--cached", "-r", "metrics", "reports")
    git(repository, "commit", "--quiet", "--message", "no metrics")
    assert "reports/validation.json: no such file" in refused(capsys, "--base", "HEAD")


def test_a_shallow_clone_says_how_to_get_the_base(repository, tmp_path, monkeypatch, capsys):
    branch(repository, right=170)
    shallow = tmp_path / "shallow"
    source = repository.as_uri()
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-single-branch", "--branch=change", source, str(shallow))
    monkeypatch.chdir(shallow)
    assert "no merge base with origin/main; this clone is shallow: `git fetch --unshallow`" in refused(capsys)
    assert "this clone is shallow" in refused(capsys, "--base", "HEAD~1")
    assert main(["check", "--base", "HEAD"]) == 0
    git(shallow, "fetch", "--quiet", "--unshallow")
    assert main(["check"]) == 1


def test_a_clone_of_one_branch_has_nothing_to_compare_with_and_says_how_to_get_it(
    repository, tmp_path, monkeypatch, capsys
):
    branch(repository, right=170)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=change", repository.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    told = refused(capsys)
    assert "no branch main is here to compare with; this clone is shallow" in told
    assert "fetch-depth: 0" in told
    git(clone, "fetch", "--quiet", "--unshallow")
    assert "no branch main is here to compare with; a clone of one branch" in refused(capsys)
    git(clone, "fetch", "--quiet", "origin", "main:main")
    assert main(["check"]) == 1


def test_without_main_a_base_must_be_named(repository, capsys):
    git(repository, "branch", "--quiet", "--move", "main", "trunk")
    write(repository, right=170)
    assert "name what to compare with: --base REV" in refused(capsys)
    assert main(["check", "--base", "HEAD"]) == 1


def test_what_is_compared_with_itself_is_refused_unless_it_is_asked_for(repository, capsys):
    assert "the merge base with main, is HEAD, and the valid scores here are those of HEAD" in refused(capsys)
    assert main(["check", "--base", "HEAD"]) == 0
    assert main(["check", "--base", "main"]) == 0
    write(repository, right=181)
    assert main(["check"]) == 0


def test_validation_decides_unless_test_is_asked_for(repository, capsys):
    write(repository, right=181)
    write(repository, right=170, split="test")
    assert main(["check"]) == 0
    assert "metrics gate on valid: holds" in capsys.readouterr().out
    assert main(["check", "--split", "test"]) == 1
    assert "metrics gate on test: regression" in capsys.readouterr().out


def test_a_repository_of_another_user_is_named_with_what_to_do(repository, tmp_path, monkeypatch, capsys):
    script = tmp_path / "git"
    script.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership in repository at x' >&2\nexit 128\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert f"git config --global --add safe.directory {repository}" in refused(capsys)


def test_a_subfolder_says_where_the_top_is(repository, monkeypatch, capsys):
    (repository / "dvc.yaml").write_text("stages: {}\n")
    (repository / "sub").mkdir()
    monkeypatch.chdir(repository / "sub")
    assert f"run this from the top of the repository: cd {repository}" in refused(capsys)


def test_outside_git_there_is_nothing_to_compare_with(repository, capsys, monkeypatch):
    (repository / ".git").rename(repository.parent / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert "no git repository" in refused(capsys)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("reports/validation.json", "{", "reports/validation.json: not valid JSON"),
        ("reports/validation.json", "[1]", "expected keys and values"),
        (
            "metrics/validation_predictions.csv",
            "id,text\n1,x\n",
            "metrics/validation_predictions.csv:1: no column label",
        ),
        (
            "metrics/validation_predictions.csv",
            "id,text,label\n1,x,A\n1,y,A\n",
            "metrics/validation_predictions.csv:3: id 1 occurs twice",
        ),
        (
            "metrics/validation_predictions.csv",
            "id,text,label\n1,x\n",
            "metrics/validation_predictions.csv:2: not as many values",
        ),
        ("params.yaml", "gate: 1\n", "params.yaml:1: gate: invalid value 1"),
    ],
)
def test_broken_files_are_named(repository, capsys, name, content, told):
    (repository / name).write_text(content)
    assert told in refused(capsys)


def test_nan_in_the_file_is_a_regression(repository, capsys):
    path = repository / "reports/validation.json"
    path.write_text(path.read_text().replace("0.9", "NaN"))
    assert main(["check"]) == 1
    assert "not a number" in verdict(capsys.readouterr().out, "distilbert.accuracy")


def with_rule(repository, text):
    path = repository / "params.yaml"
    path.write_text(path.read_text().replace('metric: "*.ece", better: lower, absolute: 0.05', text))


def test_a_rule_that_names_nothing_is_refused(repository, capsys):
    with_rule(repository, 'metric: "*.eec", better: lower')
    assert "gate.rules.3.metric: '*.eec' matches no metric" in refused(capsys, "--base", "HEAD")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('metric: "*.ece", better: lower, p_value: 0.05', "gate.rules.3.p_value: invalid value 0.05"),
        ('metric: "*.ece", better: smaller', "gate.rules.3.better"),
        ('metric: "*.ece", better: lower, absolut: 0.05', "did you mean absolute?"),
        ('metric: "*.ece", better: lower, absolute: -1', "gate.rules.3.absolute"),
    ],
)
def test_an_impossible_rule_is_refused(repository, capsys, text, told):
    with_rule(repository, text)
    assert told in refused(capsys)


def test_the_command_is_installed_under_both_names(repository):
    for command in ([sys.executable, "-m", "qc"], [str(Path(sys.executable).with_name("qc"))]):
        done = subprocess.run([*command, "check", "--base", "HEAD"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "metrics gate on valid: holds" in done.stdout
