"""The gate: planted changes of metrics, and what `qc check` says of them."""

import csv
import io
import json
import math
import os
import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.__main__ import main
from qc.commands.gate import compare, exit_status, read_metrics, summary, table
from qc.config.settings import GateRule
from qc.errors import QcError
from tests.conftest import ROOT

N = 200


def csv_text(rows):
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


def files(right=180, skip=0, questions=range(N), models=("m",), labels="AB", **scores):
    """Texts of the scores and predictions of models; all but the first `skip` are correct until `right` are."""
    rows = [["id", "text", "label", *models]]
    for n, key in enumerate(questions):
        text = f'a "quoted" question\x85 with odd\u2028breaks, number {key}'
        rows.append([n, text, labels[key % 2], *[labels[(key + (not skip <= n < skip + right)) % 2]] * len(models)])
    content = {name: {"accuracy": right / len(questions), **scores} for name in models}
    return json.dumps(content | {"baselines": {"majority": {"accuracy": 0.5}}}), csv_text(rows)


def read(scores, predictions):
    return read_metrics(scores, predictions, ["scores.json", "predictions.csv"], "here")


def side(*arguments, **options):
    return read(*files(*arguments, **options))


def rule(metric="m.accuracy", better="higher", **limits):
    return GateRule(metric=metric, better=better, **limits)


def judge(rules, base, new):
    """The finding of the one metric that the rules match."""
    [finding] = compare(rules if isinstance(rules, list) else [rules], base, new)[0]
    return finding


LOSS = {"metric": "m.loss", "better": "lower"}


@pytest.mark.parametrize(
    ("limits", "base", "new", "verdict"),
    [
        # Accuracy, of 200 questions.
        ({}, 180, 179, "REGRESSION"),
        ({}, 180, 180, "same"),
        ({}, 180, 181, "better"),
        ({"absolute": 0.01}, 180, 178, "holds: worse, within bounds"),  # 0.9 - 0.89 is over 0.01 in binary
        ({"absolute": 0.01}, 180, 177, "REGRESSION"),
        ({"p_value": 0.05}, 180, 174, "REGRESSION"),  # 6 lost, none won: p = 2 / 2^6
        ({"p_value": 0.05}, 180, 175, "holds: worse, too few questions differ to tell it from chance"),
        ({"p_value": 2**-5}, 180, 174, "holds: worse, too few questions differ to tell it from chance"),  # p is no less
        ({"p_value": 0.001}, 180, 169, "REGRESSION"),  # 11 lost: p = 2 / 2^11 = 0.00098
        ({"p_value": 0.001}, 180, 170, "holds: worse, too few questions differ to tell it from chance"),
        ({"absolute": 0.1, "p_value": 0.05}, 180, 174, "holds: worse, within bounds"),
        # Losses.
        (LOSS | {"relative": 0.1}, 0.5, 0.55, "holds: worse, within bounds"),
        (LOSS | {"relative": 0.1}, 0.5, 0.551, "REGRESSION"),
        (LOSS | {"relative": 0.1}, 0.5, 0.4, "better"),
        (LOSS | {"absolute": 0.2, "relative": 0.1}, 0.5, 0.56, "REGRESSION"),  # the tighter bound counts
        (LOSS | {"absolute": 0.2, "relative": 0.1}, 4.0, 4.25, "REGRESSION"),
        (LOSS, 0.5, 0.500001, "REGRESSION"),  # the last digit that is written
        (LOSS, 0.5, None, "REGRESSION: not a number"),
        (LOSS, 0.5, math.nan, "REGRESSION: not a number"),
        (LOSS, 0.5, "0.4", "REGRESSION: not a number"),
        (LOSS, 0.5, True, "REGRESSION: not a number"),
        (LOSS, None, 0.5, "cannot compare: base is not a number"),
    ],
)
def test_a_change_is_judged_by_bounds_and_by_chance(limits, base, new, verdict):
    sides = [side(loss=value) if "metric" in limits else side(value) for value in (base, new)]
    finding = judge(rule(**limits), *sides)
    assert finding.verdict == verdict
    assert exit_status([finding]) == (1 if "REGRESSION" in verdict else 2 if "cannot" in verdict else 0)


def test_chance_is_asked_of_the_questions_on_which_one_side_alone_is_correct():
    assert judge(rule(p_value=0.05), side(180), side(174)).test == (6, 0, pytest.approx(2 / 2**6))
    finding = judge(rule(p_value=0.05), side(180), side(178, skip=7))
    assert finding.test == (7, 5, pytest.approx(0.774414))  # scipy.stats.binomtest(7, 12)
    assert finding.verdict == "holds: worse, may be chance"


def test_predictions_of_another_run_are_refused():
    predictions = "text,label,m\nq,A,A\nr,A,B\n"
    with pytest.raises(
        QcError, match=r"the scores here have m.accuracy 0.50001, but by the predictions beside them it"
    ):
        read('{"m": {"accuracy": 0.50001}}', predictions)
    assert read('{"m": {"accuracy": 0.5000001}}', predictions).metrics == {("m", "accuracy"): 0.5000001}


def test_the_first_rule_that_matches_decides_and_a_star_is_one_key():
    base, new = side(ece=0.1), side(ece=0.2)
    rules = [rule("m.ece", "lower", absolute=1.0), rule("*.ece", "lower")]
    assert judge(rules, base, new).verdict == "holds: worse, within bounds"
    base, new = (side(ece=0.1, calibrated={"ece": value}) for value in (0.1, 0.9))
    assert judge(rule("*.ece", "lower"), base, new).verdict == "same"
    assert judge(rule("*.*.ece", "lower"), base, new).verdict == "REGRESSION"


@pytest.mark.parametrize("pattern", ["*.f1.*", "m.f1.NUM*", "m.f1.NUM?date"])
def test_a_class_name_with_a_dot_is_one_key(pattern):
    base, new = (side(f1={"NUM.date": value}) for value in (0.9, 0.01))
    finding = judge(rule(pattern), base, new)
    assert (finding.metric, finding.verdict) == (("m", "f1", "NUM.date"), "REGRESSION")
    assert compare([rule("m.f1.NUM.date"), rule("m.f1.date")], base, new)[0] == []


def test_a_renamed_model_has_vanished_and_the_new_one_has_no_base():
    findings, _ = compare([rule("*.accuracy")], side(models=["old"]), side(models=["young"]))
    assert {finding.metric[0]: finding.verdict for finding in findings} == {
        "young": "not compared: not in the base", "old": "REGRESSION: vanished"
    }  # fmt: skip
    assert exit_status(findings) == 1
    assert summary(findings) == "Of 1 compared metrics, worse than the rules allow: `old.accuracy`."


def test_a_regression_weighs_more_than_what_cannot_be_compared_and_nothing_compared_is_no_success():
    rules = [rule(), rule("m.loss", "lower")]
    findings, _ = compare(rules, side(180, loss=None), side(170, loss=0.5))
    assert [exit_status(findings), exit_status(findings[1:]), exit_status([])] == [1, 2, 2]
    assert summary(findings[1:]) == "Of 1 compared metrics, worse than the rules allow: none."
    only_new, _ = compare([rule("m.loss", "lower")], side(), side(loss=0.5))
    assert exit_status(only_new) == 2


# Which questions are compared.


def test_accuracy_and_macro_f1_are_computed_on_the_common_questions_and_other_scores_are_not_compared():
    """By hand: of A, B, B, B one B is taken for A, so that F1 is 2/3 of A and 4/5 of B."""
    base = "text,label,m\nx,A,A\ny,B,B\nz,B,B\nw,B,B\ngone,C,C\n"
    new = "text,label,m\nx,A,A\ny,B,B\nz,B,A\nw,B,B\nmore,C,A\n"
    scores = (
        '{"m": {"accuracy": 1, "macro_f1": 1, "loss": 1}}',
        '{"m": {"accuracy": 0.6, "macro_f1": 0.9, "loss": 9}}',
    )
    sides = [read(*texts) for texts in zip(scores, (base, new), strict=True)]
    for score, by_hand in (("accuracy", 3 / 4), ("macro_f1", (2 / 3 + 4 / 5) / 2)):
        finding = judge(rule(f"m.{score}"), *sides)
        assert (finding.base, finding.new) == (1.0, pytest.approx(by_hand))
    assert judge(rule("m.loss", "lower"), *sides).verdict == "not compared: other questions"


@pytest.mark.parametrize(
    ("new", "removed", "added"),
    [
        (side(170, questions=range(1, N + 1)), 1, 1),
        (side(170, questions=range(N - 1)), 1, 0),
        (side(170, questions=[0, *range(N)]), 0, 1),  # a duplicate
        (side(170, questions=[*range(N - 1), 999]), 1, 1),  # a changed text
    ],
)
def test_a_question_that_one_side_alone_has_is_counted_and_not_compared(new, removed, added):
    findings, [note] = compare([rule()], side(180), new)
    assert note.startswith(f"{N - removed} questions are on both sides")
    assert f"; {removed} of the base are not here, {added} are new: accuracy and macro F1 are computed" in note
    assert findings[0].base == pytest.approx(180 / (N - removed) if removed else 0.9, abs=0.006)


@pytest.mark.parametrize("changed", [{"labels": "BA"}, {"questions": range(101, 300)}])
def test_with_less_than_half_of_the_questions_nothing_is_compared(changed):
    findings, notes = compare([rule(), rule("*.*.accuracy")], side(180), side(170, **changed))
    assert {finding.verdict for finding in findings} == {"not compared: other questions"}
    assert exit_status(findings) == 2
    assert "nothing is compared" in notes[0]


@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("AB"), st.sampled_from("AB")), min_size=1),
    st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False)),
    st.randoms(use_true_random=False),
)
def test_the_gate_is_silent_on_equal_sets(rows, scores, random):
    """In any order: the order of the questions is no change."""
    content = json.dumps({"m": {**scores, "accuracy": sum(label == answer for _, label, answer in rows) / len(rows)}})
    shuffled = random.sample(rows, len(rows))
    base, new = (read(content, csv_text([["text", "label", "m"], *order])) for order in (rows, shuffled))
    findings, notes = compare([rule(p_value=0.05), rule("*.*", "lower")], base, new)
    assert {finding.verdict for finding in findings} == {"same"}
    assert exit_status(findings) == 0
    assert notes[0] == f"{len(rows)} questions, the same on both sides."


ANSWERS = st.lists(st.tuples(*[st.sampled_from("AB")] * 3), min_size=1, max_size=30)  # the label, and what each says


@given(ANSWERS, st.sampled_from([None, 0.05, 0.6]))
def test_the_gate_knows_no_names_and_what_is_lost_one_way_is_won_the_other(rows, p_value):
    def one_side(column, model, names, text):
        answers = [(text.format(n), names[row[0]], names[row[column]]) for n, row in enumerate(rows)]
        share = sum(label == answer for _, label, answer in answers) / len(rows)
        return read(json.dumps({model: {"accuracy": share}}), csv_text([["text", "label", model], *answers]))

    same, other = {"A": "A", "B": "B"}, {"A": "Zebra", "B": "A"}
    base, new = (one_side(column, "m", same, "{} ?") for column in (1, 2))
    there = judge(rule(p_value=p_value), base, new)
    renamed = (one_side(column, "x.y", other, "{} !") for column in (1, 2))
    elsewhere = judge(rule("*.accuracy", p_value=p_value), *renamed)
    assert (elsewhere.base, elsewhere.new, elsewhere.verdict) == (there.base, there.new, there.verdict)
    assert elsewhere.test == there.test
    back = judge(rule(p_value=p_value), new, base)
    assert (back.base, back.new) == (there.new, there.base)
    assert (back.verdict == "better") == (there.new < there.base)
    if p_value:
        lost, won, p = there.test
        assert back.test == (won, lost, pytest.approx(p))
        assert (there.verdict == "REGRESSION") == (lost > won and p < p_value)


# The command, in a repository of its own.


def git(folder, *arguments):
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


FILES = {
    "valid": ("reports/validation.json", "metrics/validation_predictions.csv"),
    "test": ("reports/test.json", "metrics/predictions.csv"),
}


def write(folder, right=180, split="valid", **options):
    """Scores and predictions of distilbert on a split."""
    scores = {"macro_f1": 0.8, "loss": 0.4, "ece": 0.05}
    for name, text in zip(FILES[split], files(right, models=["distilbert"], **scores | options), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


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


def check(capsys, *arguments, status):
    """Run `qc check`; what it printed, runs of spaces as one."""
    assert main(["check", *arguments]) == status
    return re.sub(" +", " ", capsys.readouterr().out)


def refused(capsys, *arguments):
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    return captured.err


def test_a_planted_regression_is_caught_and_explained(repository, capsys):
    write(repository, right=170)
    printed = check(capsys, status=1)
    assert "distilbert.accuracy 0.9000 0.8500 -0.0500 REGRESSION (10 lost, 0 won, p = 0.00195)\n" in printed
    assert "distilbert.loss 0.4000 0.4000 +0.0000 same\n" in printed
    assert "200 questions, the same on both sides.\nLost are the questions that only the base answers" in printed
    assert "p is how often luck alone makes lost and won at least so uneven: if both were equally" in printed
    assert "A p below 0.05 takes at least 6 such questions: with fewer, even a large drop passes." in printed
    summary, headline = printed.splitlines()[-2:]
    assert summary == "Of 4 compared metrics, worse than the rules allow: `distilbert.accuracy`."
    assert headline.startswith("metrics gate on valid: regression; base ")


def test_a_committed_regression_is_caught_against_the_merge_base(repository, capsys):
    branch(repository, right=170)
    git(repository, "checkout", "--quiet", "main")
    write(repository, right=100)
    git(repository, "commit", "--quiet", "--all", "--message", "main went on")
    git(repository, "checkout", "--quiet", "change")
    printed = check(capsys, status=1)
    assert "distilbert.accuracy 0.9000 0.8500" in printed
    assert printed.rstrip().endswith("(the merge base with main)")
    check(capsys, "--base", "HEAD", status=0)
    check(capsys, "--base", "main", status=0)


def test_validation_decides_unless_test_is_asked_for(repository, capsys):
    write(repository, right=181)
    write(repository, right=170, split="test")
    assert "metrics gate on valid: holds" in check(capsys, status=0)
    assert "metrics gate on test: regression" in check(capsys, "--split", "test", status=1)


# Whose rules decide.


def with_rule(repository, text, old='metric: "*.ece", better: lower, absolute: 0.05'):
    path = repository / "params.yaml"
    path.write_text(path.read_text().replace(old, text))


def test_a_change_cannot_loosen_its_own_gate(repository, capsys):
    write(repository, right=170)
    with_rule(repository, "absolute: 1.0, p_value", old="absolute: 0.01, p_value")
    printed = check(capsys, status=1)
    assert "The rules under gate in params.yaml changed: those of the base decide.\n" in printed
    git(repository, "commit", "--quiet", "--all", "--message", "loosened")
    printed = check(capsys, "--base", "HEAD", status=0)
    assert "rules under gate" not in printed


@pytest.mark.parametrize("content", [None, "seed: 1\n", "gate: [\n"])
def test_without_rules_at_the_base_those_of_the_working_tree_decide(repository, capsys, content):
    path = repository / "params.yaml"
    rules = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    git(repository, "commit", "--quiet", "--all", "--message", "no gate yet")
    path.write_text(rules)
    write(repository, right=170)
    printed = check(capsys, "--base", "HEAD", status=1)
    assert "params.yaml of the base has no valid section gate: the rules here decide.\n" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metric: "*.eec", better: lower', "gate.rules.3.metric: '*.eec' matches no metric"),
        ('metric: "*.ece", better: lower, p_value: 0.05', "gate.rules.3.p_value: invalid value 0.05"),
        ('metric: "*.ece", better: smaller', "gate.rules.3.better"),
    ],
)
def test_an_impossible_rule_is_refused(repository, capsys, text, message):
    with_rule(repository, text)
    assert message in refused(capsys, "--base", "HEAD")


# The table as Markdown.


def test_the_table_is_appended_to_a_file(repository, tmp_path, capsys):
    write(repository, right=170)
    file = tmp_path / "new folder/summary.md"
    check(capsys, "--markdown", str(file), status=1)
    first = file.read_text()
    headline, told, *_ = first.strip().split("\n\n")
    assert headline.startswith("### metrics gate on valid: regression; base ")
    assert told == "Of 4 compared metrics, worse than the rules allow: `distilbert.accuracy`."
    allowed = "Allowed to be worse: `*.accuracy` by 0.01, or by more where p is 0.05 or above; `*.macro_f1` by 0.1; "
    assert f"{allowed}`*.loss` by 25 % of the base; `*.ece` by 0.05.\n" in first
    row = "| `distilbert.accuracy` | 0.9000 | 0.8500 | -0.0500 | **REGRESSION (10 lost, 0 won, p = 0.00195)** |"
    assert row in re.sub(" +", " ", first)
    assert "\n\nLost are the questions that only the base answers correctly, won those that only this version " in first
    file.write_text("# earlier step\n")
    check(capsys, "--markdown", str(file), status=1)
    assert file.read_text() == f"# earlier step\n{first}"


def test_a_metric_that_one_side_alone_has_is_missing_on_the_other():
    findings, _ = compare([rule("*.accuracy")], side(models=["old"]), side(models=["y|g"]))
    assert re.sub("  +", " ", table(findings, markdown=True)).splitlines()[2:] == [
        r"| `y\|g.accuracy` | missing | 0.9000 | | not compared: not in the base |",
        "| `old.accuracy` | 0.9000 | missing | | **REGRESSION: vanished** |",
    ]
    assert table(findings, markdown=False).splitlines() == [
        "metric           base      new    change  verdict",
        "y|g.accuracy  missing   0.9000            not compared: not in the base",
        "old.accuracy   0.9000  missing            REGRESSION: vanished",
    ]


def test_links_and_pipes_are_written_to_and_stay_what_they_are(repository, tmp_path, capsys):
    """Such as /dev/stdout, a link to a descriptor."""
    link, device = tmp_path / "link", tmp_path / "stdout"
    link.symlink_to(tmp_path / "target")
    end, start = os.pipe()
    device.symlink_to(f"/proc/self/fd/{start}")
    for path in (link, device):
        check(capsys, "--base", "HEAD", "--markdown", str(path), status=0)
    os.close(start)
    with os.fdopen(end) as pipe:
        expected = pipe.read()
    assert "### metrics gate on valid: holds" in expected
    assert (tmp_path / "target").read_text() == expected
    assert link.is_symlink() and device.is_symlink()


# What cannot be compared.


@pytest.mark.parametrize("missing", FILES["valid"])
def test_a_side_that_is_missing_is_named_with_a_remedy(repository, capsys, missing):
    """The number of questions may be the same, and the questions others, so predictions are needed too."""
    assert "no revision 'v9'" in refused(capsys, "--base", "v9")
    content = (repository / missing).read_text()
    (repository / missing).unlink()
    assert f"error: {missing}: no such file; run `dvc repro`" in refused(capsys, "--base", "HEAD")
    git(repository, "commit", "--quiet", "--all", "--message", "one file less")
    (repository / missing).write_text(content)
    assert f"{missing}: no such file; name another base: --base REV" in refused(capsys, "--base", "HEAD")


@pytest.mark.parametrize(
    ("branches", "cause", "remedy"),
    [
        ("--no-single-branch", "no merge base with origin/main", ["--unshallow"]),
        ("--single-branch", "no branch main is here to compare with", ["--unshallow", "origin", "main:main"]),
    ],
)
def test_a_part_of_a_clone_says_how_to_get_the_base(repository, tmp_path, monkeypatch, capsys, branches, cause, remedy):
    branch(repository, right=170)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", branches, "--branch=change", repository.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    message = refused(capsys)
    assert f"{cause}; this clone is shallow: `git fetch --unshallow` fetches the rest (in a workflow: fetch-" in message
    assert ("`git fetch origin main:main`" in message) == ("main:main" in remedy)
    assert "this clone is shallow" in refused(capsys, "--base", "HEAD~1")
    check(capsys, "--base", "HEAD", status=0)
    git(clone, "fetch", "--quiet", *remedy)
    check(capsys, status=1)


def test_what_is_compared_with_itself_is_refused_unless_it_is_asked_for(repository, capsys):
    assert "the merge base with main, is HEAD, and the valid scores here are those of HEAD" in refused(capsys)
    assert "worse than the rules allow: none.\n" in check(capsys, "--base", "HEAD", status=0)
    check(capsys, "--base", "main", status=0)
    write(repository, right=181)
    check(capsys, status=0)
    git(repository, "branch", "--quiet", "--move", "main", "trunk")
    assert "no branch main is here to compare with" in refused(capsys)


def test_a_repository_of_another_user_is_named_with_what_to_do(repository, tmp_path, monkeypatch, capsys):
    script = tmp_path / "git"
    script.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership in repository at x' >&2\nexit 128\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert f"git config --global --add safe.directory {repository}" in refused(capsys)


def test_outside_git_there_is_nothing_to_compare_with(repository, capsys, monkeypatch):
    (repository / ".git").rename(repository.parent / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert "no git repository" in refused(capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FILES["valid"][0], "{", f"{FILES['valid'][0]}: not valid JSON"),
        (FILES["valid"][0], "[1]", "expected keys and values"),
        (FILES["valid"][0], f'{{"n": {"9" * 4000}}}', "too large"),
        (FILES["valid"][1], "id,text\n1,x\n", f"{FILES['valid'][1]}:1: no column label"),
        (FILES["valid"][1], "id\n1\n", f"{FILES['valid'][1]}:1: no column label, text; run `dvc repro`"),
        (FILES["valid"][1], "id,text,label\n1,x\n", f"{FILES['valid'][1]}:2: not as many values"),
        (FILES["valid"][1], 'id,text,label\n1,x,"A\n', f"{FILES['valid'][1]}:1: not CSV"),
        ("params.yaml", "gate: 1\n", "params.yaml:1: gate: invalid value 1"),
    ],
)
def test_broken_files_are_named(repository, capsys, name, content, message):
    (repository / name).write_text(content)
    assert message in refused(capsys)


# In a project of DVC: scores that are older than what they are made of.

COMMANDS = (["check", "--base", "HEAD"], ["report"], ["update-readme"])


def test_scores_of_other_data_are_refused_and_those_of_a_clone_without_data_are_not(restored, tmp_path):
    clone = restored.clone(tmp_path / "clone")
    assert "metrics gate on valid: holds" in clone.run("qc", "check", "--base", "HEAD")
    restored.set("split.seed", 2)
    assert restored.repro("split") == ["fetch", "split"]
    pages = [restored.root / name for name in ("README.md", "docs/evaluation.md")]
    before = [page.read_bytes() for page in pages]
    for command in COMMANDS:
        said = restored.run("qc", *command, status=2)
        assert said.startswith("error: the scores in reports are older than data/split/tiny-bert; run `dvc repro`")
    assert [page.read_bytes() for page in pages] == before
    assert not (restored.root / "report").exists()


def test_scores_of_another_model_are_refused(restored):
    weights = restored.root / "models/prefix/config.json"
    weights.chmod(0o644)
    weights.write_text(weights.read_text() + "\n")
    said = restored.run("qc", "check", "--base", "HEAD", status=2)
    assert said.startswith("error: the scores in reports are older than models/prefix; run `dvc repro`")


def test_scores_over_seeds_of_another_run_are_left_out(restored):
    scores = json.loads((restored.root / "reports/test.json").read_text())
    page = restored.root / "docs/evaluation.md"
    for change, shown in ((0.0, True), (0.1, False)):
        models = {
            name: {"accuracy": 0.5, "valid_accuracy": 0.5, "loss": scores[name]["loss"] + change}
            for name in ("scratch", "prefix", "distilbert")
        }
        (restored.root / "reports/seeds.json").write_text(json.dumps({"1": models, "2": models}))
        said = restored.run("qc", "update-readme")
        assert ("over seeds 1, 2" in page.read_text()) == shown
        assert ("reports/seeds.json: missing, or of another run; its table is left out" in said) == (not shown)
