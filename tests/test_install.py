"""`pip install .` brings what predicting needs, and no more."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the base alone; its folder of programs.

    The project is installed there as `pip install .` does. What it requires, by the metadata of the packages, is linked
    from this environment, rather than loaded from a registry.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", str(ROOT)], check=True, capture_output=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in required("qc", set()) - {"qc"}:
        for top in {path.parts[0] for path in metadata.files(name) if path.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(metadata.distribution(name).locate_file(top))
    return folder / "bin"


def required(name, extras):
    """Names of a package and of all that it requires here, with some of its extras."""
    found = {name}
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": each}) for each in extras | {""}):
            found |= required(requirement.name, requirement.extras)
    return found


def run(program, *arguments, cwd, env, status=0):
    environment = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.soak
def test_the_base_predicts_and_says_what_the_rest_needs(installed, finished):
    here = {"cwd": finished.root, "env": finished.env}
    expected = finished.run("qc", "predict", "who is it", "--json")
    assert run(installed / "qc", "predict", "who is it", "--json", **here) == expected
    script = "from qc import load; print(load('models/distilbert').predict(['who is it'])[0].label)"
    assert run(installed / "python", "-c", script, **here).strip()
    assert "qc export needs onnx; at the top of the project: pip install '.[export]'" in run(
        installed / "qc", "export", "--model", "prefix", status=2, **here
    )
    assert "pip install '.[pipeline]'" in run(installed / "qc", "check", status=2, **here)
    for name in ("dvc", "datasets", "pyarrow", "sklearn", "optuna", "onnx"):
        run(installed / "python", "-c", f"import {name}", status=1, **here)
