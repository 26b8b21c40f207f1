"""Killed, continued, equal: a run that is ended at any moment goes on to the bytes of an undisturbed one."""

import dataclasses
import json
import math
import multiprocessing
import os
import platform
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from multiprocessing import forkserver
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pynvml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qc.config.settings import Settings
from qc.errors import QcError
from qc.models.scratch import ScratchClassifier
from qc.paths import Folders
from qc.runtime.device import pick_precision
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


def states(folder, saved=lambda number: True):
    """A function that saves the checkpoints of some epochs, as on a GPU, and a list of what each file gives back."""
    read = []

    def report(checkpoint):
        folder.interval = 0 if saved(len(checkpoint.curve)) else math.inf
        folder.save(checkpoint)
        if saved(len(checkpoint.curve)):
            read.append(folder.load())

    return report, read


@settings(max_examples=10)
@given(
    st.sampled_from(["accuracy", "macro_f1", "loss", "last"]),
    st.sampled_from([1e-3, 1e-1]),  # the last epoch is the best one, or an earlier one
    st.sets(st.integers(1, 5), min_size=1),
    st.integers(1, 5),
    st.sampled_from([{}, {"fine_weight": 0.5}, {"schedule": "constant", "warmup": 0.0, "clip_norm": None}]),
    st.integers(0, 9),
)
def test_resuming_at_any_epoch_gives_the_same_bytes(select_by, rate, epochs, patience, changes, seed):
    section = {"select_by": select_by, "learning_rate": rate, "epochs": 5, "patience": patience, **changes}
    train = dataclasses.replace(questions := task(20, 1), fine_labels=2 - questions.labels)

    def run(start=None, report=lambda checkpoint: None):
        torch.manual_seed(seed)
        model = ScratchClassifier(dataclasses.replace(SIZES, coarse_of=(2, 1, 0) if "fine_weight" in changes else ()))
        end = fit(model, train, task(12, 2), changed(CONFIG, **section), seed, start=start, report=report)
        return end, model.state_dict()

    with tempfile.TemporaryDirectory() as folder:
        report, checkpoints_read = states(checkpoints(Path(folder)), epochs.__contains__)
        end, weights = run(report=report)
    assert checkpoints_read or min(epochs) > len(end.curve)
    for checkpoint in checkpoints_read:
        torch.rand(100)  # no random state of the process counts
        again, resumed = run(checkpoint)
        assert (again.curve, again.best, again.padding_shares) == (end.curve, end.best, end.padding_shares)
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights.items())


@pytest.fixture(scope="module")
def five_epochs(tmp_path_factory):
    """Checkpoints of a run that ended after its fifth epoch."""
    folder = tmp_path_factory.mktemp("five")
    trained(changed(CONFIG, epochs=5), report=checkpoints(folder).save)
    return folder


@pytest.fixture
def saved(five_epochs, tmp_path):
    return shutil.copytree(five_epochs, tmp_path / "saved")


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


def test_a_checkpoint_belongs_to_its_key_alone(saved):
    assert checkpoints(saved, key="b").load() is None
    assert checkpoints(saved, key="a").load() is not None
    one, other = (checkpoints(saved, key=key) for key in ({"x": 1, "y": 2}, {"y": 2, "x": 1}))  # the order is no matter
    assert one.folder == other.folder


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
    assert len(folder.load().curve) == 4  # the one before
    assert len(warnings) == 1
    assert "epoch-0005.safetensors is broken and was set aside" in warnings[0]
    assert path.with_name(f"{path.name}.broken").exists()


def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays_good(saved):
    folder = checkpoints(saved)
    before = folder.load()
    later = dataclasses.replace(before, curve=[*before.curve, before.curve[-1]], best=6)
    with (
        file_size_limit(10_000),
        pytest.raises(QcError, match=r"epoch-0006.safetensors: cannot be written: File too large.*stays"),
    ):
        folder.save(later)
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


def read_settings(**changes):
    return read_yaml(Settings, Path("params.yaml"), "params.yaml").model_copy(update=changes)


def key_of(name="scratch", device="cpu", **changes):
    """The key of a run in the working directory."""
    settings = read_settings(**changes)
    return run_key(name, load_training_data(name, settings, Folders()), settings, torch.device(device))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", {"bf16": "fp32", "fp32": "bf16"}[pick_precision("auto", torch.device("cpu"))]),
        ("compile", True),
        ("class_weights", "balanced"),
        ("seed", 7),
        ("max_length", 5),
    ],
)
def test_a_run_is_known_by_its_settings(here, name, value):
    assert value != getattr(read_settings(), name)
    assert key_of(**{name: value}) != key_of()


@pytest.mark.parametrize(
    "name",
    ["MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "TORCH_ALLOW_TF32_X", "NPY_X",
     "DNNL_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "WORLD_SIZE"],
)  # fmt: skip
def test_a_run_is_known_by_its_environment(here, monkeypatch, name):
    before = key_of()
    launch = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for variable, value in {**launch, name: "2"}.items():
        monkeypatch.setenv(variable, value)
    assert key_of() != before
    monkeypatch.undo()
    monkeypatch.setenv("EDITOR", "another")
    monkeypatch.chdir(here)
    assert key_of() == before


@pytest.mark.parametrize("library", ["numpy", "safetensors", "tokenizers", "torch", "transformers", "python"])
def test_a_run_is_known_by_its_versions(here, monkeypatch, library):
    before = key_of()
    monkeypatch.setattr(run, "version", lambda name: "0" if name == library else version(name))
    if library == "python":
        monkeypatch.setattr(platform, "python_version", lambda: "3")
    assert key_of() != before


def test_a_run_is_known_by_its_threads_processor_and_driver(here, monkeypatch):
    before = key_of()
    for where, name, value in ((torch, "get_num_threads", 7), (torch.cpu, "get_capabilities", {"avx2": False})):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, lambda value=value: value)
            assert key_of() != before, name
    for where, name, value in (
        (torch.cuda, "get_device_name", "card"), (pynvml, "nvmlInit", None), (torch.backends.cudnn, "version", 9),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, lambda value=value: value)
    keys = []
    for driver in ("570.1", "570.2"):
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda driver=driver: driver)
        keys.append(key_of(device="cuda"))
    assert keys[0] != keys[1]


def other_parameter(project):
    project.set("train_distilbert.learning_rate", 0.5)


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


def other_encoder_configuration(project):
    path = project.root / "data/encoders/tiny-bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 1e-3}))


def other_tokenizer(project):
    path = project.root / "data/split/tiny-bert/vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_sha256": "0" * 64}))


@pytest.mark.parametrize(
    "change", [other_parameter, other_data, other_token_ids, other_encoder_configuration, other_tokenizer]
)
def test_a_run_is_known_by_its_section_data_encoder_and_tokenizer(restored, monkeypatch, change):
    monkeypatch.chdir(restored.root)
    before = key_of("distilbert")
    assert key_of("distilbert") == before
    change(restored)
    assert key_of("distilbert") != before


def test_a_run_is_known_by_its_code(here, monkeypatch, tmp_path):
    before, module = key_of(), sys.modules[ScratchClassifier.__module__]
    changed_code = tmp_path / "scratch.py"
    changed_code.write_text(Path(module.__file__).read_text() + "# a change\n")
    monkeypatch.setattr(module, "__file__", str(changed_code))
    assert key_of() != before


def test_a_resumed_run_shows_its_curve_from_the_start(restored, monkeypatch, capsys):
    """Ended in its third epoch, and again before the fourth begins: what DVC sees then is of the earlier epochs."""
    restored.set("train_scratch.epochs", 6)
    monkeypatch.chdir(restored.root)
    live, step, seen = restored.root / "dvclive/train_scratch", torch.optim.AdamW.step, []

    def interrupted(optimizer, *arguments, **options):
        if any((restored.root / ".state/train_scratch").glob("*/epoch-0002*")):
            seen.append(json.loads((live / "metrics.json").read_text())["step"])
            seen.append((live / "plots/metrics/valid_loss.tsv").read_text().count("\n") - 1)
            raise KeyboardInterrupt
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.run_training("scratch", read_settings(), Folders())
        assert not live.exists()
    assert seen == [2, 2, 2, 2]  # the number of the last epoch, and rows
    assert "resuming train_scratch from epoch 2" in capsys.readouterr().out


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
    resumed, lock = outputs(longer), (longer.root / "dvc.lock").read_bytes()
    assert longer.repro("--force", "train_distilbert")[-1] == "train_distilbert"
    assert outputs(longer) == resumed
    assert (longer.root / "dvc.lock").read_bytes() == lock


def test_checkpoints_are_neither_gits_nor_dvcs(longer):
    checkpoint = longer.root / ".state/train_scratch/key/epoch-0001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert ".state" not in longer.run("git", "status", "--porcelain", "--untracked-files=all")
    longer.run("dvc", "check-ignore", ".state/train_scratch/key/epoch-0001.safetensors")
