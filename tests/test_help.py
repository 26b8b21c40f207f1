"""`qc --help`, and what the pages say of it."""

import importlib
import re
import shlex

import pytest

from qc.__main__ import COMMANDS, _parser, main
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
EXAMPLES = [line.strip() for line in TEXT.splitlines() if line.startswith("    qc ")]


def module_of(name):
    return importlib.import_module(f"qc.commands.{name.replace('-', '_')}")


def test_every_command_has_a_module_and_every_module_a_command():
    modules = {path.stem.replace("_", "-") for path in (ROOT / "src/qc/commands").glob("*.py")} - {"--init--"}
    assert modules == set(COMMANDS)


def test_help_lists_every_command_with_its_time(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)} \({re.escape(command.time)}\)$", printed, re.M)


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
    _parser(words[0], module_of(words[0])).parse_args([word for word in words if word != "..."])


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predcit"])
    assert ended.value.code == 2
    assert "invalid choice: 'predcit'" in capsys.readouterr().err
