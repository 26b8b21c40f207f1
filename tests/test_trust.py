"""What gets in and what gets out: no code from data, no word of the machine in an output, no part without a pin."""

import contextlib
import re
import runpy
import shutil
import sys
import tomllib
import traceback
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml

from qc.errors import QcError
from qc.inference.predictor import load
from tests.conftest import CLASSES, MARK, ROOT, STAGES, write_record

UNPICKLING = {"pickle.find_class", "marshal.load"}


def watch(*programs):
    """Run modules as programs, each with its arguments, and tell on standard error of all that is unpickled."""

    def hook(event, arguments):
        if event in UNPICKLING:
            stack = "".join(traceback.format_stack()[-6:-1])
            print(f"UNPICKLED {arguments}\n{stack}", file=sys.stderr, flush=True)

    sys.addaudithook(hook)
    for program in programs:
        sys.argv = program.split(" ")
        with contextlib.suppress(SystemExit):
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def watched(project, *programs):
    """What programs say when they are watched."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.test_trust import watch; watch(*sys.argv[1:])"
    return project.run(sys.executable, "-c", script, *programs)


@pytest.mark.soak
def test_nothing_is_unpickled_by_any_stage_or_command(restored):
    (restored.root / "pickled.py").write_text("import pickle; pickle.loads(b'cbuiltins\\nlen\\n.')\n")
    assert "UNPICKLED" in watched(restored, "pickled")  # the watch does not sleep
    (restored.root / "pickled.py").unlink()
    told = watched(restored, *(f"stages.{stage}" for stage in STAGES), "qc predict who?", "qc export --model prefix")
    assert "UNPICKLED" not in told, told
    assert "tfidf_svm" in told  # all ran
    assert any(f"{name} " in told for name in CLASSES)  # an answer
    assert "model.onnx" in told


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name",
    [
        "models/prefix/model.safetensors",
        "data/encoders/tiny-bert/model.safetensors",
        "data/split/tiny-bert/test.parquet",
    ],
)
def test_a_pickle_in_the_place_of_a_file_is_refused_and_never_run(restored, tmp_path, name):
    trace, path = tmp_path / "was-here", restored.root / name
    np.save(tmp_path / "bomb.npy", np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    path.write_bytes((tmp_path / "bomb.npy").read_bytes())
    told = restored.stage("evaluate", status=1)
    assert "error: " in told
    assert name in told
    assert not trace.exists()
    np.load(tmp_path / "bomb.npy", allow_pickle=True)  # whoever does unpickle it runs it
    assert trace.exists()


def test_weights_that_are_not_the_fetched_ones_are_refused(restored, tmp_path):
    shutil.copytree(restored.root / "models/prefix", tmp_path / "models/prefix")
    shutil.copytree(restored.mirror / "tiny-distilbert", tmp_path / "data/encoders/tiny-bert")
    write_record(tmp_path / "data/encoders/tiny-bert")
    with pytest.raises(QcError, match=r"tiny-bert/config\.json: SHA-256 .* was trained with "):
        load(tmp_path / "models/prefix")


def test_no_output_tells_of_the_environment_or_the_machine(restored):
    """The mark is searched for in all that a marked project wrote: outputs, lock file, cache, report, commits."""
    assert MARK in str(restored.root)
    assert restored.env["HF_TOKEN"] == MARK
    restored.run("qc", "report")
    restored.run("qc", "export", "--model", "prefix")
    restored.run("dvc", "exp", "run", "--name", "marked", "-S", "train_scratch.epochs=1")
    searched = [path for path in restored.root.rglob("*") if path.is_file()]
    searched = [path for path in searched if not {".git", "tmp"} & set(path.relative_to(restored.root).parts[:2])]
    searched = [path for path in searched if path.parent.name != "__pycache__"]  # Python's, of code that ran here
    assert len(searched) > 150
    for path in searched:
        content = path.read_bytes()
        assert MARK.encode() not in content, path
        if content.startswith(b"PAR1"):
            table = pyarrow.parquet.read_table(path)
            assert MARK not in f"{table.to_pydict()}{table.schema.metadata}", path
    commits = restored.run("git", "rev-list", "--all").split()
    assert len(commits) > 2  # an experiment is a commit, too
    restored.run("git", "grep", "--quiet", MARK, *commits, status=1)
    restored.run("dvc", "exp", "remove", "marked")


def lock(name):
    """The versions that a lock file names, by package."""
    lines = [line.partition(";")[0].split("==") for line in (ROOT / name).read_text().splitlines() if line[0] != "#"]
    return {package.lower().replace("_", "-"): version for package, version in lines}


def test_every_dependency_is_pinned_and_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    base, extras = project["project"]["dependencies"], project["project"]["optional-dependencies"]
    own, *tools = extras["dev"]
    assert own == f"{project['project']['name']}[{','.join(name for name in extras if name != 'dev')}]"
    used = [*base, *(requirement for name, extra in extras.items() if name != "dev" for requirement in extra)]
    direct = [*used, *tools]
    run, dev = (lock(name) for name in ("requirements.txt", "requirements-dev.txt"))
    assert not run.keys() & dev.keys()
    for requirement in used:  # a stage depends on these, and on no tool of development
        assert requirement.partition("==")[0].lower() in run
    assert {"pytest", "ruff", "hypothesis"} <= dev.keys()
    locked = run | dev
    for requirement in [*direct, *project["build-system"]["requires"]]:
        name, version = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", requirement).groups()
        assert locked.get(name.lower().replace("_", "-"), version) == version, requirement
    assert all(re.fullmatch(r"\d[\w.+!]*", version) for version in locked.values())


def test_the_workflow_may_only_read_and_its_actions_are_pinned_by_commit():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert "permissions" not in job
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step
                    checkout = step["uses"].startswith("actions/checkout@")
                    assert not checkout or step["with"]["persist-credentials"] is False
                assert "${{" not in step.get("run", ""), step  # nothing that an outsider wrote is put into a script
