"""Several processes that train one model: torchrun and Accelerate start the stages, for real, on CPUs."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from qc.errors import QcError
from qc.files import read_csv
from qc.runtime.launch import Launch, read_launch
from qc.runtime.process_group import local_device, local_threads, process_group
from tests.conftest import Project, free_port, in_soak, outputs
from tests.project import TRAINING

TORCHRUN = "torchrun --standalone --nproc-per-node="
TWO = f"{TORCHRUN}2".split()


@pytest.fixture(scope="module")
def split_project(tmp_path_factory):
    """A project up to its split, in which nothing but rounding tells one process from several: no dropout, in fp32."""
    project = Project(tmp_path_factory.mktemp("processes"))
    for name in ("tiny-bert", "tiny-distilbert"):
        path = project.mirror / name / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, **{key: 0.0 for key in config if "dropout" in key}}))
    project.write_sources()
    project.set("precision", "fp32")
    project.set("threads", 2)
    for name in TRAINING:
        project.set(f"{name}.epochs", 6)
        project.set(f"{name}.batch_size", 7)  # of 120 questions: the last batch has one, and no process but one a share
        project.set(f"{name}.patience", 2)
        project.set(f"{name}.eps", 1e-3)  # gradients that are 0 but for rounding, such as of a key's bias, move nothing
    for key in ("train_scratch.dropout", "train_scratch.head_dropout", "train_distilbert.dropout"):
        project.set(key, 0.0)
    project.set("train_scratch.learning_rate", 1e-2)
    project.repro("split")
    project.commit("split")
    return project


@pytest.fixture
def project(split_project, tmp_path):
    """A copy of it."""
    return split_project.copy(tmp_path / "project")


def curve(project, stage):
    rows = read_csv(project.root / f"plots/{stage}.csv")
    return [{name: float(value) for name, value in row.items()} for row in rows]


def assert_close(alone, together, stage):
    """Two projects' runs of a stage are one run up to rounding."""
    curves = curve(alone, stage), curve(together, stage)
    assert len(curves[0]) == len(curves[1])
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    name = stage.removeprefix("train_")
    weights = [load_file(project.root / f"models/{name}/model.safetensors") for project in (alone, together)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("stage", "processes"), in_soak(zip(TRAINING, (2, 3, 2), strict=True), but=("train_scratch", 2))
)
def test_several_processes_train_what_one_trains(project, tmp_path, stage, processes):
    alone = project.copy(tmp_path / "alone")
    alone.stage(stage)
    project.set("launcher", f"{TORCHRUN}{processes}")
    said = project.run("dvc", "repro", stage)
    assert f"{processes} processes" in said
    assert said.count("epoch   1 ") == 1
    assert_close(alone, project, stage)
    assert project.repro(stage) == []
    assert project.run("git", "status", "--porcelain", "--", ".state", "dvclive") == ""


@pytest.mark.soak
def test_accelerate_starts_them_as_well(project, tmp_path):
    other = project.copy(tmp_path / "torchrun")
    assert ", 2 processes" in other.run(*TWO, "-m", "stages.train_scratch")
    accelerate = "accelerate launch --multi_gpu --num_processes 2 -m stages.train_scratch"
    assert ", 2 processes" in project.run(*accelerate.split())
    assert outputs(project) == outputs(other)


def start(project, stage, log):
    """Two processes as torchrun starts them, without its agent, which would end the one when the other dies."""
    given = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=project.root, env={**project.env, **given, "RANK": rank, "LOCAL_RANK": rank}, stdout=log, stderr=log,
        )
        for rank in ("0", "1")
    ]  # fmt: skip


@pytest.fixture(scope="module")
def long_project(split_project, tmp_path_factory):
    """A project whose transformer trains so long that it can be killed meanwhile, with dropout."""
    project = split_project.copy(tmp_path_factory.mktemp("long") / "project")
    project.set("train_scratch.dropout", 0.3)
    for key in ("epochs", "patience"):
        project.set(f"train_scratch.{key}", 30)
    return project


@pytest.fixture(scope="module")
def undisturbed(long_project, tmp_path_factory):
    """What two processes make of it when none is killed."""
    project = long_project.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    project.run(*TWO, "-m", "stages.train_scratch")
    return outputs(project)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.soak
def test_a_killed_process_ends_the_run_clearly_and_it_goes_on_to_the_same_bytes(
    long_project, undisturbed, tmp_path, rank
):
    project = long_project.copy(tmp_path / "project")
    with (tmp_path / "log").open("w+") as log:
        processes = start(project, "train_scratch", log)
        while not list(project.root.glob(".state/train_scratch/*/epoch-*")):
            assert processes[0].poll() is None
        processes[rank].kill()
        assert processes[1 - rank].wait() == 1
        processes[rank].wait()
        log.seek(0)
        said = log.read()
    assert f"error (process {1 - rank}): lost the other processes of this run: " in said
    assert "run the same command again to go on" in said
    assert not (project.root / "models/scratch").exists()
    assert "resuming train_scratch from epoch" in project.run(*TWO, "-m", "stages.train_scratch")
    assert outputs(project) == undisturbed


@pytest.mark.parametrize(
    ("processes", "fault", "status", "said"),
    [
        (1, "raise QcError('a fault')", 1, "a fault"),
        (2, "raise QcError('a fault')", 1, "a fault"),
        (2, "raise ValueError('a fault')", 1, "ValueError: a fault"),
        (2, "os.kill(os.getpid(), signal.SIGTERM)", 143, "stopped by SIGTERM; run the same command again to go on"),
    ],
)
def test_one_of_several_processes_ends_without_tearing_the_interpreter_down(project, processes, fault, status, said):
    """What is torn down may wait for ever for a thread of PyTorch's process group."""
    program = (
        "import atexit, os, signal\n"
        "from qc.errors import QcError\n"
        "from qc.stage import run\n"
        "def main(settings):\n"
        "    atexit.register(print, 'torn down')\n"
        "    print('begun')\n"
        f"    {fault}\n"
        "run(main)\n"
    )
    launch = {"RANK": "0", "WORLD_SIZE": str(processes), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
    environment = {**project.env, **launch, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.endswith(f"{said}\n")
    assert ("error (process 0): " in done.stderr) == (processes == 2 and status == 1)
    assert done.stdout == ("begun\ntorn down\n" if processes == 1 else "begun\n")


TORCHRUNS = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1",
}  # fmt: skip


def test_a_launchers_variables_count_only_together_and_for_several(monkeypatch):
    for name, value in TORCHRUNS.items():
        monkeypatch.setenv(name, value)
    assert read_launch() == Launch(3, 4, 1, 2)
    for name in TORCHRUNS:
        with monkeypatch.context() as patch:
            patch.delenv(name)
            assert read_launch() == Launch()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert read_launch() == Launch()


@pytest.mark.parametrize("wrong", [{"RANK": "x"}, {"RANK": "4"}, {"LOCAL_RANK": "2"}, {"RANK": "-1"}])
def test_a_launchers_invalid_variables_are_refused(monkeypatch, wrong):
    for name, value in {**TORCHRUNS, **wrong}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QcError, match=r"environment: invalid value RANK=.*"):
        read_launch()


def test_a_stray_rank_changes_no_byte_of_a_single_process(project):
    project.set("train_scratch.dropout", 0.3)
    project.stage("train_scratch")
    before = outputs(project)
    project.stage("train_scratch", RANK="3", LOCAL_RANK="3", LOCAL_WORLD_SIZE="2")
    assert outputs(project) == before


@pytest.mark.soak
def test_two_nodes_train_as_one_and_the_first_writes(project, tmp_path):
    nodes = [project.copy(tmp_path / f"node{number}") for number in range(2)]
    project.stage("train_prefix")
    common = f"torchrun --nnodes=2 --nproc-per-node=1 --master-addr=127.0.0.1 --master-port={free_port()}"
    launchers = [f"{common} --node-rank={number}" for number in range(2)]
    nodes[0].set("launcher", launchers[0])
    command = [*launchers[1].split(), "-m", "stages.train_prefix"]
    second = subprocess.Popen(command, cwd=nodes[1].root, env=project.env)
    said = nodes[0].run("dvc", "repro", "train_prefix")
    assert second.wait() == 0
    assert ", 2 processes" in said
    assert_close(project, nodes[0], "train_prefix")
    assert not (nodes[1].root / "models/prefix").exists()
    assert not list(nodes[1].root.glob("metrics/train_prefix.json"))


def test_no_thread_of_the_group_outlives_it(project):
    (project.root / "threads.py").write_text(
        "from pathlib import Path\n"
        "import torch\n"
        "from qc.runtime.process_group import data_parallel, process_group\n"
        "def threads():\n"
        "    names = [(task / 'comm').read_text() for task in Path('/proc/self/task').iterdir()]\n"
        "    return sum('gloo' in name for name in names)\n"
        "def train():\n"
        "    data_parallel(torch.nn.Linear(4, 4))(torch.ones(2, 4)).sum().backward()\n"
        "    print(f'while training: {threads() > 0}')\n"
        "with process_group(torch.device('cpu')):\n"
        "    train()\n"
        "print(f'left: {threads()}')\n"
    )
    said = project.run(*TWO, "threads.py")
    assert said.count("while training: True") == 2
    assert said.count("left: 0") == 2  # one that is left may take the interpreter down while it ends


def test_a_run_without_its_other_processes_says_so(monkeypatch):
    monkeypatch.setattr("qc.runtime.process_group.SILENCE", torch.distributed.default_pg_timeout / 1800)
    given = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QcError, match="lost the other processes of this run"), process_group(torch.device("cpu")):
        pass


def test_a_launcher_that_is_not_here_is_refused_before_anything_runs(project):
    project.set("launcher", "'NCCL_DEBUG=INFO torchrun --standalone'")
    assert "settings: ok" in project.run("qc", "doctor", "--quick")
    project.set("launcher", "torchruns --standalone")
    said = project.run("qc", "doctor", "--quick", status=1)
    assert (
        "params.yaml: launcher: invalid value 'torchruns --standalone', there is no torchruns here; expected " in said
    )
    project.set("launcher", "''")
    assert "params.yaml:5: launcher: invalid value ''" in project.run("qc", "doctor", "--quick", status=1)


def test_processes_of_a_machine_share_its_threads_and_take_a_gpu_each(monkeypatch):
    assert (local_threads(4), local_device("cuda")) == (4, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in TORCHRUNS.items():
        monkeypatch.setenv(name, value)
    assert (local_threads(4), local_threads(1)) == (2, 1)
    assert local_device("cuda") == torch.device("cuda", 1)
    assert local_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(QcError, match=r"launcher: invalid value 2 processes on a machine of 1 GPU"):
        local_device("cuda")
