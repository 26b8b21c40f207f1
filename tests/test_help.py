"""`qc`: its help, its options, and where it runs."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from qc.__main__ import COMMANDS, main, parse_arguments
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
EXAMPLES = [line.strip() for line in TEXT.splitlines() if line.startswith("    qc ")]
REQUIRED = {"export": ["--model", "prefix"], "cross-validate": ["prefix"], "preset": ["trec"]}


def module_of(name):
    return importlib.import_module(f"qc.commands.{name.replace('-', '_')}")


def parse(*arguments):
    return parse_arguments(arguments[0], module_of(arguments[0]), arguments[1:])


def test_help_lists_every_command_with_its_time_on_any_screen(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)} \({re.escape(command.time)}\)$", printed, re.M)
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_describes_it_and_says_what_it_costs(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert module_of(name).__doc__.strip() in printed
    assert f"Takes {COMMANDS[name].time}." in printed


def test_the_pages_name_every_command_and_no_other():
    assert set(re.findall(r"(?:`|^    )qc ([a-z][a-z-]+)", TEXT, re.M)) <= set(COMMANDS)
    for name in COMMANDS:
        assert f"qc {name}" in TEXT


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_pages_is_a_call_that_the_command_accepts(example):
    words = shlex.split(example.partition("; ")[0].partition(" > ")[0], comments=True)[1:]
    parse(*(word for word in words if word != "..."))


@pytest.mark.parametrize(("given", "said"), [("predcit", "invalid choice: 'predcit'"), ("", "required: COMMAND")])
def test_an_unknown_or_missing_command_is_refused(given, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(given.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "key", "values"),
    [
        ("cross-validate scratch --folds 2 epochs=1 --seeds 2 dropout=0", "changes", ["epochs=1", "dropout=0"]),
        ("predict one --top 2 two --json", "texts", ["one", "two"]),
        ("sweep scratch --trials 2 prefix", "models", ["scratch", "prefix"]),
        ("predict one --top 2 -- -two --three", "texts", ["one", "-two", "--three"]),
        ("preset --dry-run trec", "name", "trec"),
        ("preset trec --dry-run", "name", "trec"),
    ],
)
def test_options_stand_anywhere_between_other_arguments(line, key, values):
    assert getattr(parse(*line.split()), key) == values


def test_after_two_dashes_there_are_no_options(here, capsys):
    assert main(["predict", "--json", "--", "-who"]) == 0
    assert '"text": "-who"' in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict"])  # whose model may be anywhere
def test_in_a_subfolder_every_command_names_the_top_in_one_line(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "docs")
    assert main([name, *REQUIRED.get(name, [])]) == 2
    said = capsys.readouterr()
    top = f"run this from the top of the repository: cd {ROOT}"
    assert said.err == f"error: {ROOT / 'docs'}: a subfolder of the project; {top}\n"
    assert said.out == ""


@pytest.fixture
def checkout(tmp_path):
    """The files of a checkout that `qc preset` reads, and its code."""
    for name in ("src/qc", "presets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(folder, *arguments, **environment):
    command = [sys.executable, "-m", "qc", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, text=True, capture_output=True)


def test_the_environment_of_another_copy_runs_nothing(checkout):
    done = run(checkout, "preset", "--list", PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 2
    assert f"error: this `qc` is the code of {ROOT}, not that of the project here; `make run` " in done.stderr
    assert done.stdout == ""


def test_a_checkout_runs_its_own_code_without_installation_under_any_variables_of_python(checkout):
    (checkout / "presets/mine.yaml").write_text("purpose: p\ntakes: t\nparams: {seed: 2}\n")
    odd = {"PYTHONPATH": "src", "PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "2"}
    assert "mine " in run(checkout, "preset", "--list", **odd).stdout
    printed = run(checkout, "preset", "--help", **odd).stdout
    assert "None" not in printed
    assert "list presets, or apply one to params.yaml\nTakes a second." in printed
