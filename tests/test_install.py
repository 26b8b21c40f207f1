"""`pip install .` brings what predicting needs and no more; the lock files pin all that the rest needs."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.lock import HEADERS, NAME, resolve


def required(name, extras):
    """Names of a package and of all that it requires here, with some of its extras."""
    names = {canonicalize_name(name)}
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            names |= required(requirement.name, requirement.extras)
    return names


def pinned():
    """Version by package, of all lock files together."""
    lines = [line for file in HEADERS for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    versions = {Requirement(line).name: str(Requirement(line).specifier).removeprefix("==") for line in lines}
    assert len(versions) == len(lines)
    return {canonicalize_name(name): version for name, version in versions.items()}


def test_every_package_that_this_environment_needs_is_pinned_as_it_is_here():
    names = required(NAME, {"dev"}) - {NAME}
    assert {name: metadata.version(name).partition("+")[0] for name in names}.items() <= pinned().items()


@pytest.mark.soak
def test_every_package_that_an_ordinary_machine_needs_is_pinned(tmp_path, monkeypatch):
    """One with a GPU, say: from the package index alone, torch comes with CUDA's libraries."""
    monkeypatch.chdir(ROOT)
    resolved = resolve("dev", [str(ROOT / file) for file in HEADERS], str(tmp_path))
    assert {canonicalize_name(name): version for name, version in resolved.items()}.items() <= pinned().items()
    if sys.platform == "linux":
        assert "nvidia-cublas" in resolved


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
    for name in required(NAME, set()) - {NAME}:
        for top in {path.parts[0] for path in metadata.files(name) if path.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(metadata.distribution(name).locate_file(top))
    return folder / "bin"


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
    for command, extra in (("export --model prefix", "export"), ("check", "pipeline")):
        advice = f"at the top of the project: pip install '.[{extra}]'"
        assert advice in run(installed / "qc", *command.split(), status=2, **here)
    for name in ("dvc", "datasets", "pyarrow", "sklearn", "optuna", "onnx"):
        run(installed / "python", "-c", f"import {name}", status=1, **here)
