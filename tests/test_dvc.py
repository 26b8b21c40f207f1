"""dvc.yaml against the code: what a stage loads, what reruns when a line changes, and the order of the rooms."""

import ast
import json

import pytest
import yaml

from tests.conftest import ROOT, STAGES

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TRAINING = [stage for stage in STAGES if stage.startswith("train_")]
# Every stage loads them; they check the settings and start the stage, and decide nothing that it computes.
EXEMPT = (
    "config/",
    "errors.py",
    "paths.py",
    "schema.py",
    "stage.py",
    "runtime/launch.py",
    "runtime/startup.py",
    "models/registry.py",
)


def covered(name, stage):
    """Whether a stage declares a file, or a folder above it, as a dependency."""
    return any(f"{name}/".startswith(f"{dep}/") for dep in PIPELINE[stage]["deps"])


def exempt(name):
    inside = name.removeprefix("src/qc/")
    return inside.startswith(EXEMPT) or inside.endswith(("__init__.py", "_parameters.py", "models/parameters.py"))


def test_the_pipeline_has_the_seven_stages_and_each_runs_its_script():
    assert list(PIPELINE) == STAGES
    for name in STAGES:
        program = "${launcher}" if name in TRAINING else "python"
        assert PIPELINE[name]["cmd"] == f"PYTHONPATH=src:. {program} -m stages.{name}"
        assert "requirements.txt" in PIPELINE[name]["deps"]
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == {"__init__", *STAGES}


def test_the_first_stage_reads_all_of_params_and_removes_nothing_before_it_starts():
    assert "params.yaml" in PIPELINE["fetch"]["deps"]
    assert all(output[name]["persist"] for output in PIPELINE["fetch"]["outs"] for name in output)
    for stage in STAGES[1:]:  # DVC's run cache takes no stage whose outputs persist
        assert "persist" not in str(PIPELINE[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_running_stage_loads_the_code_that_it_declares_and_no_other(finished, stage):
    script = (
        "import atexit, json, runpy, sys\n"
        "def tell():\n"
        "    loaded = [m for n, m in sys.modules.items() if n.split('.')[0] in ('qc', 'stages')]\n"
        "    print('LOADED ' + json.dumps([m.__file__ for m in loaded if m.__file__]))\n"
        f"atexit.register(tell)\nsys.argv = ['-m']\nrunpy.run_module('stages.{stage}', run_name='__main__')\n"
    )
    [line] = [line for line in finished.run("python", "-c", script).splitlines() if line.startswith("LOADED ")]
    loaded = {path.partition("/project/")[2] for path in json.loads(line.removeprefix("LOADED "))}
    loaded.add(f"stages/{stage}.py")
    assert [name for name in loaded if not covered(name, stage) and not exempt(name)] == []
    for dep in PIPELINE[stage]["deps"]:
        if dep.startswith(("src/", "stages/")):
            assert any(f"{name}/".startswith(f"{dep}/") for name in loaded), f"{dep} is declared and not used"


# Libraries that take a fifth of a second or more to load, and that a stage can do without.
NOT_LOADED = {
    "fetch": ["numpy", "pandas", "torch"],
    "tokenize": ["scipy", "sklearn", "torch", "transformers"],
    "split": ["sklearn", "torch", "transformers"],
    "train_scratch": ["datasets", "pandas", "scipy", "sklearn", "transformers"],
}


@pytest.mark.parametrize(("stage", "libraries"), NOT_LOADED.items())
def test_a_stage_does_not_wait_for_libraries_that_it_can_do_without(finished, stage, libraries):
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('LOADED', *sys.modules))\n"
        f"sys.argv = ['-m']\nrunpy.run_module('stages.{stage}', run_name='__main__')\n"
    )
    # The variable is for an interpreter of its own: a forked one has all libraries loaded.
    said = finished.run("python", "-c", script, PYTHONHASHSEED="0")
    [line] = [line for line in said.splitlines() if line.startswith("LOADED ")]
    assert "qc.stage" in line.split()
    assert {*libraries} & {*line.split()} == set()


# What reruns when a file changes; later stages run only if the bytes change that they read.
RERUNS = {
    "fetch/hub.py": ["fetch"],
    "questions/reader.py": ["tokenize"],
    "questions/raw.py": ["tokenize"],
    "questions/tokenizers.py": ["tokenize"],
    "questions/text.py": ["tokenize", "split"],
    "split/audit.py": ["split"],
    "split/groups.py": ["split"],
    "training/loop.py": TRAINING,
    "training/optimizer.py": TRAINING,
    "training/checkpoints.py": TRAINING,
    "inference/batches.py": [*TRAINING, "evaluate"],
    "models/scratch.py": ["train_scratch", "evaluate"],
    "models/prefix.py": ["train_prefix", "evaluate"],
    "models/prefix_parameters.py": ["split", "train_prefix", "evaluate"],
    "models/encoder.py": ["train_prefix", "train_distilbert", "evaluate"],
    "evaluation/metrics.py": ["evaluate"],
    "evaluation/cards.py": ["evaluate"],
    "evaluation/baselines.py": ["evaluate"],
    "inference/predictor.py": [],
    "commands/gate.py": [],
    "commands/cross_validation.py": [],
    "commands/report_figures.py": [],
    "config/presets.py": [],
    "config/sources.py": ["fetch", "tokenize"],  # names decide folders and formats
    "commands/tables.py": [],
}


@pytest.mark.parametrize(("name", "stages"), RERUNS.items())
def test_a_change_reruns_the_stages_of_its_room_and_no_others(name, stages):
    assert (ROOT / "src/qc" / name).is_file()
    assert [stage for stage in STAGES if covered(f"src/qc/{name}", stage)] == stages


@pytest.mark.parametrize("stage", TRAINING)
def test_training_never_depends_on_the_test_split(stage):
    files = [dep.rpartition("/")[2] for dep in PIPELINE[stage]["deps"] if dep.startswith("data/split/")]
    assert files == ["train.parquet", "valid.parquet", "vocabulary.json"]


# A room may import those after it.
ORDER = [
    "commands", "config", "evaluation", "split", "training", "inference", "questions", "models", "runtime",
]  # fmt: skip
BASE = ("schema", "files", "paths", "errors")  # single files that any room may import, and that import only each other


def imported(path):
    """Dotted names of the project that a file imports when it runs; imports for type checkers are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {child for node in types for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in skipped and node.module.split(".")[0] in ("qc", "stages"):
            yield node.module


@pytest.mark.parametrize("path", sorted((ROOT / "src/qc").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down_only(path):
    room = path.relative_to(ROOT / "src/qc").parts[0].removesuffix(".py")
    for name in imported(path):
        assert not name.startswith("stages")
        other = name.split(".")[1] if "." in name else ""
        if room in ORDER and other in ORDER:
            assert ORDER.index(other) >= ORDER.index(room), f"{room} imports {name}"
        if other == "fetch":
            assert room in ("fetch", "commands")
        if room == "fetch":
            assert other in ("fetch", "config", *BASE)
        if room in BASE:
            assert other in BASE
        if other == "paths":
            assert room in ("commands", "stage", *BASE), f"{room} knows paths"


# Stages read these values of params.yaml besides those of their own section.
SHARED = {
    "fetch": {"fetch"},
    "tokenize": {"fetch.encoders", "tokenize"},
    "split": {
        "max_length", "precision", "split",
        "train_distilbert.encoder", "train_prefix.encoder", "train_scratch.tokenizer",
        *(f"{stage}.max_length" for stage in TRAINING),
    },
    "evaluate": {"class_weights", "device", "precision", "seed", "threads", *TRAINING},
}  # fmt: skip
TRAINED = {"class_weights", "compile", "device", "max_length", "precision", "seed", "threads"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_params_are_those_that_it_reads(stage):
    assert set(PIPELINE[stage]["params"]) == SHARED.get(stage, TRAINED | {stage})


def test_nothing_calls_home():
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "check_update = false" in config
