"""What decides the bits of a run before it begins: deterministic algorithms, portable arithmetic, the compiler."""

import json
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch

from qc.errors import QcError
from qc.models.scratch import ScratchClassifier
from qc.runtime.device import pick_precision, seed_everything
from qc.training.loop import fit
from tests.project import ROOT
from tests.test_training import CONFIG, SIZES, changed, task

PRINTS = """
import json, os
from qc.stage import run
def main(settings):
    import numpy, threadpoolctl, torch
    blas = [pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"]
    print(json.dumps({
        "torch": torch.backends.cpu.get_cpu_capability(), "numpy": numpy.show_config("dicts")["SIMD Extensions"],
        "blas": blas, "mkl": os.environ.get("MKL_CBWR"), "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }))
run(main)
"""


def test_a_process_does_not_go_through_the_objects_of_its_libraries_at_its_end():
    script = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold()[0])); "
        "from qc.runtime.startup import set_environment as go; go()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert (
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True).stdout == b"True 20000\n"
    )


def test_an_algorithm_whose_result_may_differ_is_refused():
    seed_everything(1, threads=1)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))


def run(folder, params, **env):
    """A stage that prints what computes in it, with a line of params.yaml replaced."""
    text = (ROOT / "params.yaml").read_text()
    for key, value in params.items():
        text = re.sub(rf"(?m)^{key}: [^#\n]*", f"{key}: {value}  ", text)
    (folder / "params.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    return subprocess.run([sys.executable, "-c", PRINTS], cwd=folder, env=environment, capture_output=True, text=True)


def test_portable_arithmetic_reaches_every_library_that_computes_whatever_the_user_set(tmp_path):
    user = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "", "MKL_CBWR": "AVX2"}
    told = json.loads(run(tmp_path, {"precision": "portable", "device": "cpu"}, **user).stdout)
    assert (told["torch"], told["mkl"], told["onednn"]) == ("AVX2", "COMPATIBLE", "AVX2")
    assert set(told["blas"]) == {"Haswell"}
    assert not [name for name in told["numpy"]["found"] if name.startswith(("AVX512", "X86_V4"))]


def test_portable_is_refused_beside_a_gpu_and_on_a_processor_without_avx2(tmp_path, monkeypatch):
    refused = run(tmp_path, {"precision": "portable", "device": "auto"})
    assert refused.returncode == 1
    assert "device: invalid value 'auto'; expected cpu beside precision: portable" in refused.stderr
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert pick_precision("portable", torch.device("cpu")) == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": False})
    with pytest.raises(QcError, match="precision: invalid value 'portable': this processor has no AVX2; expected fp32"):
        pick_precision("portable", torch.device("cpu"))


@pytest.mark.parametrize("compiled", [True, False])
def test_with_compile_and_only_then_the_training_passes_are_compiled(compiled, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    seed_everything(1, threads=1)
    questions = task(8, 1)
    fit(ScratchClassifier(SIZES), questions, questions, changed(CONFIG, epochs=1), 1, compiled=compiled)
    assert bool(graphs) == compiled
