"""`precision: portable`: one hash on processors of different makers, native and emulated."""

import shutil
import subprocess
import sys

import pytest
import torch

from qc.errors import QcError
from qc.models.registry import MODELS
from qc.runtime.device import pick_precision
from tests.conftest import outputs

OTHERS = ("Haswell", "EPYC")  # Intel's and AMD's, with AVX2 and without AVX-512
MADE = ("models/", "metrics/", "plots/", "reports/")


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
    command = [*before, sys.executable, "-m", "tests.portable"]
    done = subprocess.run(command, cwd=copied.root, env=copied.env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: about for path, about in outputs(copied).items() if path.startswith(MADE)}


@pytest.fixture(scope="module")
def native(portable, tmp_path_factory):
    return trained(portable, tmp_path_factory.mktemp("native") / "project")


@pytest.mark.soak
@pytest.mark.parametrize("processor", OTHERS)
def test_models_and_scores_are_the_same_on_processors_of_other_makers(portable, native, processor, tmp_path):
    made = trained(portable, tmp_path / "project", *emulated(processor))
    assert {f"models/{name}/model.safetensors" for name in MODELS} <= made.keys()
    assert [path for path, about in native.items() if made.get(path) != about] == []


@pytest.mark.soak
def test_without_it_the_bits_are_those_of_the_processor(portable, native, tmp_path):
    """Else the comparison above would prove nothing."""
    if not torch.cpu.get_capabilities().get("avx512_f"):
        pytest.skip("this processor has no AVX-512, so it may well do what an older one does")
    plain = portable.copy(tmp_path / "plain")
    plain.set("precision", "fp32")
    weights = "models/scratch/model.safetensors"
    assert trained(plain, tmp_path / "project")[weights] != native[weights]


def test_it_is_refused_on_a_gpu_and_without_avx2(restored, monkeypatch):
    restored.set("precision", "portable")
    told = restored.stage("train_scratch", status=1)
    assert "device: invalid value 'auto'; expected cpu beside precision: portable" in told
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": False})
    with pytest.raises(QcError, match="precision: invalid value 'portable': this processor has no AVX2; expected fp32"):
        pick_precision("portable", torch.device("cpu"))


def test_it_is_fp32_and_reaches_every_stage_that_computes(restored):
    assert pick_precision("portable", torch.device("cpu")) == "fp32"
    restored.set("device", "cpu")
    for precision, told in (("portable", "AVX2 COMPATIBLE"), ("fp32", "None")):
        restored.set("precision", precision)
        assert told in restored.run(sys.executable, "-c", PRINTS)


PRINTS = """
import os
from qc.stage import run
def main(settings):
    import torch
    print(torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR"))
run(main)
"""
