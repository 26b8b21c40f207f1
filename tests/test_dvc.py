"""dvc.yaml against the code: dependencies, parameters, and the order of the packages."""

import ast
import json

import pytest
import yaml

from qc.models.registry import MODELS
from tests.conftest import ROOT, STAGES

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# They check and start a stage, and name models; they make no bytes.
EXEMPT = (
    "config/",
    "errors.py",
    "paths.py",
    "stage.py",
    "runtime/launch.py",
    "runtime/startup.py",
    "models/registry.py",
)
# A package may import those to its right.
ORDER = ["commands", "report", "evaluation", "training", "inference", "data", "models", "runtime", "config"]
SIDE_ROOM = "fetch"  # imports config alone, and only stages and commands import it


def imported(path):
    """Dotted names of the project that a file imports when it is run, those of a stage's main function included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if path.parent.name == "stages" else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ("qc", "stages"))
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("qc", "stages"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_file(name):
    """The project's file of a dotted name, or None."""
    base = (ROOT / "src" if name.startswith("qc") else ROOT).joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def closure(stage):
    """Every project file that a stage may import, but for the models that it gets from the registry."""
    found, waiting = set(), [f"stages.{stage}"]
    if stage.startswith("train_"):
        waiting.append(MODELS[stage.removeprefix("train_")].path.partition(":")[0])
    if stage == "evaluate":
        waiting += [model.path.partition(":")[0] for model in MODELS.values()]
    while waiting:
        path = module_file(waiting.pop())
        if path and path not in found:
            found.add(path)
            waiting += [] if is_exempt(path) else imported(path)
    return found


def covered_by(path, deps):
    return any(path == dep or dep in path.parents for dep in deps)


def code_deps(stage):
    return [ROOT / dep for dep in PIPELINE[stage]["deps"] if dep.startswith(("src/", "stages/"))]


def is_exempt(path):
    name = str(path.relative_to(ROOT / "src/qc")) if path.is_relative_to(ROOT / "src/qc") else path.name
    return path.name == "__init__.py" or name.startswith(EXEMPT)


def test_the_stages_are_those_of_the_design():
    assert list(PIPELINE) == ["settings", *STAGES]
    assert "data/settings.txt" in PIPELINE["fetch"]["deps"]  # on which all others depend
    for name in STAGES:
        program = "${launcher}" if name.startswith("train_") else "python"
        assert PIPELINE[name]["cmd"] == f"PYTHONPATH=src {program} -m stages.{name}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_imports_and_on_no_other(stage):
    deps, files = code_deps(stage), closure(stage)
    assert [path for path in files if not is_exempt(path) and not covered_by(path, deps)] == []
    assert [dep for dep in deps if not any(covered_by(path, [dep]) for path in files)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_packages_and_single_files_only_of_models(stage):
    for dep in PIPELINE[stage]["deps"]:
        if dep.startswith("src/qc/") and dep != "src/qc/files.py":
            assert dep.startswith("src/qc/models/") or (ROOT / dep).is_dir()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_pins_of_what_it_runs_with(stage):
    assert "requirements.txt" in PIPELINE[stage]["deps"]
    assert "requirements-dev.txt" not in PIPELINE[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_running_stage_loads_no_project_file_outside_its_closure(finished, stage):
    script = (
        "import atexit, json, runpy, sys\n"
        "def told():\n"
        "    loaded = [m for n, m in sys.modules.items() if n.split('.')[0] in ('qc', 'stages')]\n"
        "    files = [m.__file__ for m in loaded if m.__file__]\n"
        "    print('LOADED ' + json.dumps(files))\n"
        f"atexit.register(told)\nsys.argv = ['-m']\nrunpy.run_module('stages.{stage}', run_name='__main__')\n"
    )
    [line] = [line for line in finished.run("python", "-c", script).splitlines() if line.startswith("LOADED ")]
    found = {ROOT / path.partition("/project/")[2] for path in json.loads(line.removeprefix("LOADED "))}
    assert ROOT / "src/qc/stage.py" in found
    assert {path for path in found if not is_exempt(path)} <= closure(stage)


@pytest.mark.parametrize("path", sorted((ROOT / "src/qc").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down_only(path):
    package = path.relative_to(ROOT / "src/qc").parts[0]
    for name in imported(path):
        other = name.split(".")[1] if "." in name else ""
        if package in ORDER and other in ORDER:
            assert ORDER.index(other) >= ORDER.index(package), f"{package} imports {name}"
        if other == SIDE_ROOM:
            assert package in (SIDE_ROOM, "commands")
        if package == SIDE_ROOM:
            assert other in (SIDE_ROOM, "config", "errors", "files", "")
        if package in ("errors.py", "files.py", "paths.py"):
            assert other in ("errors", "")
        assert not name.startswith("stages")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    assert not [name for name in imported(ROOT / f"stages/{stage}.py") if name.startswith("stages")]


def test_modules_and_scripts_stay_short():
    for path in (ROOT / "src/qc").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, path
    for path in (ROOT / "stages").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100, path
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == {"__init__", *STAGES}


def settings_read(path):
    """The keys of params.yaml that a script reads, as `settings.KEY`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_params_are_those_it_reads(stage):
    found = settings_read(ROOT / f"stages/{stage}.py")
    if stage.startswith("train_"):
        run, trainer = (settings_read(ROOT / f"src/qc/training/{name}.py") for name in ("run", "trainer"))
        found = ((run | trainer) - {"training", "max_length_of"}) | {"max_length", stage}
    if stage == "evaluate":
        found |= {name for name in STAGES if name.startswith("train_")}  # for the model cards
    if "encoders_used" in found:
        used = {"train_scratch.tokenizer", "train_prefix.encoder", "train_distilbert.encoder"}
        found = (found - {"encoders_used"}) | used
    if stage in ("split", "evaluate"):
        found |= {"precision"}  # of their arithmetic, see `qc.stage`
    if stage == "tokenize":
        found = (found - {"fetch"}) | {"fetch.encoders"}
    assert set(PIPELINE[stage]["params"]) == found


@pytest.mark.parametrize("stage", [name for name in STAGES if name.startswith("train_")])
def test_training_never_depends_on_the_test_split(stage):
    deps = PIPELINE[stage]["deps"]
    assert "data/split/train.parquet" in deps
    assert not any(dep in ("data/split", "data/split/test.parquet") for dep in deps)


def test_what_only_describes_a_run_retrains_nothing():
    for stage in STAGES:
        assert ("src/qc/report" in PIPELINE[stage]["deps"]) == (stage == "evaluate")


def test_nothing_calls_home():
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "check_update = false" in config
