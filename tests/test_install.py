"""`pip install .` brings what predicting needs, and no more."""

import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the base alone; its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    pinned = ["--constraint", str(ROOT / "requirements.txt")]
    subprocess.run([*pip, "install", *build, str(ROOT), *pinned], check=True, capture_output=True)
    return folder / "bin"


def run(program, *arguments, cwd, env, status=0):
    environment = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_base_predicts_and_says_what_the_rest_needs(installed, finished):
    here = {"cwd": finished.root, "env": finished.env}
    expected = finished.run("qc", "predict", "who is it", "--json")
    assert run(installed / "qc", "predict", "who is it", "--json", **here) == expected
    script = "from qc import load; print(load('models/distilbert').predict(['who is it'])[0].label)"
    assert run(installed / "python", "-c", script, **here).strip()
    assert "qc export needs onnx; install it: pip install 'qc[export]'" in run(
        installed / "qc", "export", "--model", "prefix", status=2, **here
    )
    assert "pip install 'qc[pipeline]'" in run(installed / "qc", "check", status=2, **here)
    listed = run(installed / "python", "-m", "pip", "list", cwd=finished.root, env=finished.env).lower()
    for name in ("dvc", "datasets", "pyarrow", "scikit-learn", "matplotlib", "optuna", "onnx"):
        assert f"\n{name} " not in listed
