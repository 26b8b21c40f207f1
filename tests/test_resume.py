"""Killed, continued, equal: a run that is ended at any moment goes on to the bytes of an undisturbed one."""

import contextlib
import json
import multiprocessing
import os
import platform
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from multiprocessing import forkserver
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pynvml
import pytest
import torch

from qc.config.settings import Settings
from qc.errors import QcError
from qc.models.scratch import ScratchClassifier
from qc.paths import Folders
from qc.runtime.device import pick_precision, seed_everything
from qc.schema import read_yaml
from qc.training import run
from qc.training.checkpoints import CheckpointFolder
from qc.training.data import load_training_data
from qc.training.loop import fit
from qc.training.run import run_key
from tests.conftest import ROOT, file_size_limit, in_soak, outputs
from tests.test_training import CONFIG, SIZES, changed, task, trained

TRAINING = ["train_scratch", "train_prefix", "train_distilbert"]
KILLS = 4  # tests.stress has more


def checkpoints(tmp_path, key="a", warn=pytest.fail):
    return CheckpointFolder(tmp_path / "train_x", {"key": key}, warn)


def same_weights(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.fixture
def saved(tmp_path):
    """States of a run of eight epochs that was ended after five."""

    class Ended(Exception):
        pass

    def report(checkpoint):
        checkpoints(tmp_path).save(checkpoint)
        if len(checkpoint.curve) == 5:
            raise Ended

    with contextlib.suppress(Ended):
        trained(report=report)
    return tmp_path


def test_a_run_from_a_checkpoint_ends_in_the_bits_of_an_undisturbed_one(saved):
    checkpoint = checkpoints(saved).load()
    assert len(checkpoint.curve) == 5
    model, result = trained(start=checkpoint)
    undisturbed, expected = trained()
    assert result == expected
    assert same_weights(model, undisturbed)


def test_a_run_from_its_last_checkpoint_only_takes_the_best_weights(tmp_path):
    undisturbed, expected = trained(report=checkpoints(tmp_path).save)
    model, result = trained(start=checkpoints(tmp_path).load())
    assert result == expected
    assert same_weights(model, undisturbed)


def test_the_newest_and_the_best_checkpoint_are_kept_and_a_finished_run_keeps_none(tmp_path):
    folder = checkpoints(tmp_path)
    counts = []

    def report(checkpoint):
        folder.save(checkpoint)
        counts.append(len(list(folder.folder.iterdir())))

    trained(report=report)
    assert counts[0] == 1
    assert max(counts) <= 2
    folder.remove()
    assert not folder.folder.exists()


def test_a_run_of_which_not_every_epoch_was_saved_ends_in_the_same_bits(tmp_path):
    """As on a GPU: the best epoch may have no file of its own."""
    config = changed(CONFIG, learning_rate=0.1)  # so high that the best epochs are 1 and 5
    number = 0
    folder = CheckpointFolder(tmp_path / "train_x", {"key": "a"}, str, interval=3, clock=lambda: number)
    loaded, embedded = [], 0

    def report(checkpoint):
        nonlocal number, embedded
        number += 1
        before = set(folder.folder.glob("*"))
        folder.save(checkpoint)
        if set(folder.folder.glob("*")) - before:
            loaded.append(folder.load())
            assert loaded[-1].best == checkpoint.best
            assert loaded[-1].tensors.keys() == checkpoint.tensors.keys()
            expected = {name: weights.clone() for name, weights in checkpoint.best_weights.items()}
            assert all(torch.equal(loaded[-1].best_weights[name], weights) for name, weights in expected.items())
            embedded += checkpoint.best != len(checkpoint.curve)

    undisturbed, expected = trained(config, report=report)
    assert [len(checkpoint.curve) for checkpoint in loaded] == [1, 4, 7]
    assert embedded == 1
    for checkpoint in loaded:
        model, result = trained(config, start=checkpoint)
        assert result == expected
        assert same_weights(model, undisturbed)


def test_a_checkpoint_belongs_to_its_key_alone(saved):
    assert checkpoints(saved, key="b").load() is None
    assert checkpoints(saved, key="a").load() is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        lambda content: content.replace(b"curve", b"cxrve"),
    ],
    ids=["half", "start", "empty", "one bit", "other facts"],
)
def test_a_broken_checkpoint_is_set_aside_with_a_warning_and_never_used(saved, damage):
    warnings = []
    folder = checkpoints(saved, warn=warnings.append)
    path = folder.folder / "epoch-0005.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    checkpoint = folder.load()
    assert len(warnings) == 1
    assert "epoch-0005.safetensors is broken and was set aside" in warnings[0]
    assert path.with_name(f"{path.name}.broken").exists()
    assert checkpoint is None or len(checkpoint.curve) < 5
    model, _ = trained(start=checkpoint)
    assert same_weights(model, trained()[0])


def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays_good(saved):
    folder = checkpoints(saved)
    before = folder.load()

    def report(checkpoint):
        with file_size_limit(10_000):
            folder.save(checkpoint)

    with pytest.raises(QcError, match=r"epoch-0006.safetensors: cannot be written: File too large.*stays"):
        trained(start=before, report=report)
    assert folder.load().curve == before.curve
    assert not list(folder.folder.glob(".*"))


def test_two_processes_do_not_train_the_same_model_in_one_place(tmp_path):
    with (
        checkpoints(tmp_path).locked(),
        pytest.raises(QcError, match=f"train_x is running here already, as process {os.getpid()}"),
        checkpoints(tmp_path).locked(),
    ):
        pass
    with checkpoints(tmp_path).locked():
        pass


def test_only_a_few_checkpoints_of_other_runs_are_kept(tmp_path):
    for number in range(5):
        folder = checkpoints(tmp_path, key=number)
        folder.folder.mkdir(parents=True)
        os.utime(folder.folder, (number, number))
    with checkpoints(tmp_path, key=0).locked():
        left = {path for path in (tmp_path / "train_x").iterdir() if path.is_dir()}
    assert left == {checkpoints(tmp_path, key=number).folder for number in (0, 3, 4)}


def test_the_checkpoint_holds_all_that_is_trained_and_the_optimizers_moments(saved):
    checkpoint = checkpoints(saved).load()
    names = {name for name, _ in ScratchClassifier(SIZES).named_parameters()}
    kinds = {"weights", "exp_avg", "exp_avg_sq", "step"}
    assert set(checkpoint.tensors) == {f"{kind}.{name}" for kind in kinds for name in names}


# The stages themselves, in processes that are ended from outside.


def run_stage(root, name, log):
    """What `python -m stages.NAME` does, in a process of its own that has imported everything already."""
    os.chdir(root)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    runpy.run_module(f"stages.{name}", run_name="__main__")


@pytest.fixture(scope="module")
def processes():
    """Processes that start at once: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.test_resume", "qc.training.run", "qc.models.prefix", "qc.models.distilbert", "transformers"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'src'}")
        forkserver.ensure_running()
    return context


@pytest.fixture
def longer(finished, tmp_path):
    """A copy of the finished project in which training takes eight epochs."""
    project = finished.copy(tmp_path / "project")
    for name in TRAINING:
        project.set(f"{name}.epochs", 8)
    return project


def start(processes, project, stage, log):
    process = processes.Process(target=run_stage, args=(project.root, stage, log))
    process.start()
    return process


def duration(processes, project, stage, log):
    """Run a stage undisturbed; the seconds it took."""
    begin = time.monotonic()
    process = start(processes, project, stage, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.monotonic() - begin


def until_a_checkpoint_is_saved(process, project, stage):
    while process.is_alive() and not list(project.root.glob(f".state/{stage}/*/epoch-*.safetensors")):
        pass


@pytest.mark.parametrize("stage", in_soak(TRAINING, but="train_scratch"))
def test_a_stage_killed_again_and_again_ends_in_the_bytes_of_an_undisturbed_run(processes, longer, stage, tmp_path):
    log = tmp_path / "log"
    duration(processes, longer, stage, log)
    seconds = duration(processes, longer, stage, log)
    undisturbed = outputs(longer)
    rng = random.Random(stage)
    killed, finished_since = 0, False  # the last run goes on from what the last kill left
    while killed < KILLS or not finished_since:
        process = start(processes, longer, stage, log)
        if killed >= KILLS:
            process.join()
        elif killed % 2 == 0:
            process.join(rng.uniform(0, seconds))
        else:  # at any moment may mean: before anything is saved; every other time there is something to go on from
            until_a_checkpoint_is_saved(process, longer, stage)
            process.join(rng.uniform(0, seconds / 10))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed, finished_since = killed + 1, False
        else:
            assert process.exitcode == 0, log.read_text()
            assert outputs(longer) == undisturbed
            assert not [path for path in (longer.root / ".state" / stage).iterdir() if path.is_dir()]
            finished_since = True
    assert f"resuming {stage} from epoch" in log.read_text()


def no_change(project):
    pass


def other_parameter(project):
    project.set("train_scratch.learning_rate", 0.5)


def other_seed(project):
    project.set("seed", 7)


def other_data(project):
    split = project.root / "data/split/tiny-bert"
    shutil.copy(split / "valid.parquet", split / "train.parquet")


def other_token_ids(project):
    path = project.root / "data/split/tiny-bert/train.parquet"
    table = pyarrow.parquet.read_table(path)
    ids = pyarrow.array(
        [[*ids[:-1], 5, ids[-1]] for ids in table["input_ids"].to_pylist()], pyarrow.list_(pyarrow.int32())
    )
    pyarrow.parquet.write_table(table.set_column(table.schema.get_field_index("input_ids"), "input_ids", ids), path)


def other_code(project):
    path = project.root / "src/qc/models/scratch.py"
    path.write_text(path.read_text() + "# a change\n")


@pytest.mark.parametrize(
    "change",
    in_soak([no_change, other_parameter, other_seed, other_data, other_token_ids, other_code], but=other_token_ids),
)
def test_a_checkpoint_is_never_used_with_other_parameters_data_or_code(longer, change):
    longer.set("train_scratch.epochs", 50)
    longer.leave_a_checkpoint("train_scratch")
    change(longer)
    assert ("resuming train_scratch from epoch" in longer.stage("train_scratch")) == (change is no_change)
    assert bool(list(longer.root.glob(".state/train_scratch/*/epoch-*"))) == (change is not no_change)


def other_encoder_configuration(project):
    path = project.root / "data/encoders/tiny-bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 1e-3}))


def other_tokenizer(project):
    path = project.root / "data/split/tiny-bert/vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_sha256": "0" * 64}))


@pytest.mark.parametrize("change", in_soak([no_change, other_encoder_configuration, other_tokenizer], but=no_change))
def test_a_checkpoint_is_never_used_with_another_encoder_or_tokenizer(longer, change):
    longer.set("train_distilbert.epochs", 60)
    longer.set("train_distilbert.patience", 60)
    longer.leave_a_checkpoint("train_distilbert")
    change(longer)
    assert ("resuming train_distilbert from epoch" in longer.stage("train_distilbert")) == (change is no_change)


def test_a_run_is_known_by_its_arithmetic(monkeypatch, here):
    """Threads of the process, versions, and on a GPU the driver: what decides the bits beside parameters and data."""
    settings = read_yaml(Settings, here / "params.yaml", "params.yaml")
    data = load_training_data("scratch", settings, Folders())

    def key(device="cpu", **changes):
        return run_key("scratch", data, settings.model_copy(update=changes), torch.device(device))

    before = key()
    assert key() == before
    for where, name, value in (
        (torch, "get_num_threads", lambda: 7),
        (platform, "python_version", lambda: "3"),
        (torch.cpu, "get_capabilities", lambda: {"avx2": False}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            assert key() != before, name
    for library in ("numpy", "safetensors", "tokenizers", "torch", "transformers"):
        with monkeypatch.context() as patch:
            patch.setattr(run, "version", lambda name, other=library: "0" if name == other else version(name))
            assert key() != before, library
    for name in ("MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "TORCH_ALLOW_TF32_X"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "another")
            assert key() != before, name
    changes = {
        "precision": {"bf16": "fp32", "fp32": "bf16"}[pick_precision("auto", torch.device("cpu"))],
        "compile": True,
        "class_weights": "balanced",
        "seed": 7,
        "max_length": 5,
    }
    for name, value in changes.items():
        assert value != getattr(settings, name)
        assert key(**{name: value}) != before, name
    facts = {"get_device_name": "card", "nvmlSystemGetDriverVersion": "1", "nvmlInit": None, "version": 9}
    for where, name in ((torch.cuda, "get_device_name"), (pynvml, "nvmlInit"), (torch.backends.cudnn, "version")):
        monkeypatch.setattr(where, name, lambda name=name: facts[name])
    found = []
    for driver in ("570.1", "570.2"):
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda driver=driver: driver)
        found.append(key("cuda"))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("number", "status"), in_soak([(signal.SIGTERM, 143), (signal.SIGINT, 130)], but=(signal.SIGINT, 130))
)
def test_a_stopped_stage_says_how_to_go_on_in_one_line_and_does(processes, longer, number, status, tmp_path):
    log = tmp_path / "log"
    duration(processes, longer, "train_prefix", log)
    seconds = duration(processes, longer, "train_prefix", log)
    undisturbed = outputs(longer)
    stopped = 0
    for share in (0.3, 0.5, 0.7):
        log.unlink()
        process = start(processes, longer, "train_prefix", log)
        process.join(share * seconds)
        if process.is_alive():
            os.kill(process.pid, number)
            process.join(10)
        if process.exitcode != 0:
            stopped += 1
            assert process.exitcode == status, log.read_text()
            assert "Traceback" not in log.read_text()
            assert f"stopped by {number.name}; run the same command again to go on" in log.read_text().splitlines()
    assert stopped
    duration(processes, longer, "train_prefix", log)
    assert outputs(longer) == undisturbed


def test_a_stage_stopped_while_it_starts_says_so_in_one_line(finished):
    command = [sys.executable, "-m", "stages.train_scratch"]
    process = subprocess.Popen(
        command, cwd=finished.root, env=finished.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not stage_is_importing(process.pid):
        pass
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert output.split("\n") == ["", "stopped by SIGTERM; run the same command again to go on", ""]


def stage_is_importing(pid):
    """Whether a process has its handler for SIGTERM in place."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return int(caught, 16) & 1 << (signal.SIGTERM - 1)


@pytest.mark.soak
def test_a_pipeline_killed_with_all_its_processes_goes_on_and_ends_in_the_same_lock_file(longer):
    process = longer.start(Path(os.devnull), "dvc", "repro", "train_distilbert")
    while not list(longer.root.glob(".state/train_distilbert/*/epoch-*")):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    told = longer.run("dvc", "repro", "train_distilbert")
    assert "resuming train_distilbert from epoch" in told
    found, lock = outputs(longer), (longer.root / "dvc.lock").read_bytes()
    assert longer.repro("--force", "train_distilbert")[-1] == "train_distilbert"
    assert outputs(longer) == found
    assert (longer.root / "dvc.lock").read_bytes() == lock


def test_checkpoints_are_neither_gits_nor_dvcs(longer):
    checkpoint = longer.root / ".state/train_scratch/key/epoch-0001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert ".state" not in longer.run("git", "status", "--porcelain", "--untracked-files=all")
    longer.run("dvc", "check-ignore", ".state/train_scratch/key/epoch-0001.safetensors")


def test_seeds_decide_every_epoch_so_resuming_needs_no_random_state():
    seed_everything(1, threads=1)
    models = [ScratchClassifier(SIZES) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        torch.rand(100)
        fit(model, task(240, 1), task(60, 2), CONFIG, seed=1)
    assert same_weights(*models)
