"""dvc.yaml against the code: exact dependencies, exact parameters."""

import ast
import json
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT, STAGES

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def module_file(name):
    """The project's file for a dotted module name, or None."""
    for top in (ROOT, ROOT / "src"):
        base = top.joinpath(*name.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file() and name.split(".")[0] in ("qc", "stages"):
                return path
    return None


def imported(path):
    """Dotted names that a file imports, anywhere in it, packages on the way included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def closure(module):
    """Every project file that running `python -m module` may load."""
    found, waiting = set(), [module, module.split(".")[0]]
    while waiting:
        path = module_file(waiting.pop())
        if path and path not in found:
            found.add(path)
            waiting += imported(path)
    return found


def code_deps(stage):
    return {ROOT / dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")}


def test_the_stages_are_those_of_the_design():
    assert list(PIPELINE) == STAGES
    for name in STAGES:
        assert PIPELINE[name]["cmd"] == f"{'${launcher}' if name.startswith('train_') else 'python'} -m stages.{name}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_deps_are_its_import_closure(stage):
    assert code_deps(stage) == closure(f"stages.{stage}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_pins_of_what_it_runs_with(stage):
    assert "requirements.txt" in PIPELINE[stage]["deps"]
    assert "requirements-dev.txt" not in PIPELINE[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_closure_holds_every_project_file_that_python_loads(stage):
    script = (
        f"import json, sys, stages.{stage}; "
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('qc', 'stages')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert {ROOT / path for path in json.loads(done.stdout)} == closure(f"stages.{stage}")


def settings_read(path):
    """The keys of params.yaml that a file reads, as `settings.KEY`; the launcher is part of the stages' commands."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"
    } - {"launcher"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_params_are_those_it_reads(stage):
    scripts = [path for path in closure(f"stages.{stage}") if path.is_relative_to(ROOT / "stages")]
    found = set().union(*map(settings_read, scripts))
    if "encoders_used" in found:  # the encoders that `Settings.encoders_used` names
        used = {"train_scratch.tokenizer", "train_prefix.encoder", "train_distilbert.encoder"}
        found = (found - {"encoders_used"}) | used
    if stage == "tokenize":
        found = (found - {"fetch"}) | {"fetch.encoders"}
    assert set(PIPELINE[stage]["params"]) == found


@pytest.mark.parametrize("stage", [name for name in STAGES if name.startswith("train_")])
def test_training_never_depends_on_the_test_split(stage):
    deps = PIPELINE[stage]["deps"]
    assert "data/split/train.parquet" in deps
    assert not any(dep in ("data/split", "data/split/test.parquet") for dep in deps)


def test_nothing_calls_home():
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "check_update = false" in config
