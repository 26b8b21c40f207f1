"""`precision: portable`: one hash on this processor and, emulated, on one of the other maker."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qc.models.registry import MODELS
from tests.conftest import outputs

pytestmark = pytest.mark.soak

AMD = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
OTHER = "Haswell" if AMD else "EPYC"  # of the other maker, with AVX2 and without AVX-512
MADE = ("models/", "metrics/", "plots/", "reports/")


# One process: starting one under emulation takes most of the time.
TRAINS = """
from qc.paths import Folders
from qc.stage import run
def main(settings):
    from qc.models.registry import MODELS
    from qc.training.run import run_training
    from stages import evaluate
    for name in MODELS:
        run_training(name, settings, Folders())
    evaluate.main(settings)
run(main)
"""


def emulated(processor):
    assert shutil.which("qemu-x86_64"), "no qemu-x86_64; install it (Debian: apt-get install qemu-user)"
    return ["qemu-x86_64", "-cpu", processor]


@pytest.fixture(scope="module")
def portable(finished, tmp_path_factory):
    """A project before training, set to be portable."""
    project = finished.copy(tmp_path_factory.mktemp("portable") / "project")
    project.set("precision", "portable")
    project.set("device", "cpu")
    shutil.rmtree(project.root / "models")
    return project


def trained(project, root, *before):
    """Hashes of every output, on a processor."""
    copied = project.copy(root)
    command = [*before, sys.executable, "-c", TRAINS]
    done = subprocess.run(command, cwd=copied.root, env=copied.env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: about for path, about in outputs(copied).items() if path.startswith(MADE)}


@pytest.fixture(scope="module")
def native(portable, tmp_path_factory):
    return trained(portable, tmp_path_factory.mktemp("native") / "project")


def test_models_and_scores_are_the_same_on_a_processor_of_the_other_maker(portable, native, tmp_path):
    made = trained(portable, tmp_path / "project", *emulated(OTHER))
    assert {f"models/{name}/model.safetensors" for name in MODELS} <= made.keys()
    assert [path for path, about in native.items() if made.get(path) != about] == []


def test_without_it_the_bits_are_those_of_the_processor(portable, native, tmp_path):
    """Else the comparison above would prove nothing."""
    if not torch.cpu.get_capabilities().get("avx512_f"):
        pytest.skip("this processor has no AVX-512, so it may well do what an older one does")
    plain = portable.copy(tmp_path / "plain")
    plain.set("precision", "fp32")
    weights = "models/scratch/model.safetensors"
    assert trained(plain, tmp_path / "project")[weights] != native[weights]
