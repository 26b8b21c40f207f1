"""Training on a GPU, where there is one: the same bytes twice and after a kill, and close to what a CPU trains."""

import pytest
import torch

from qc.config.settings import Settings
from qc.files import read_csv
from qc.paths import PARAMS, Folders
from qc.schema import read_yaml
from qc.training.checkpoints import CheckpointFolder
from qc.training.data import load_training_data
from qc.training.trainer import train_model
from tests.conftest import outputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = ("scratch", "prefix", "distilbert")


def trained(name, device, precision="fp32", start=None, report=lambda checkpoint: None, **section):
    settings = read_yaml(Settings, PARAMS, "params.yaml")
    changed = getattr(settings, f"train_{name}").model_copy(update=section)
    update = {"device": device, "precision": precision, f"train_{name}": changed}
    settings = settings.model_copy(update=update)
    return train_model(name, load_training_data(name, settings, Folders()), settings, start=start, report=report)


def weights(trained):
    return {name: tensor.cpu() for name, tensor in trained.model.state_dict().items()}


def equal(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_run_gives_the_same_bits(here, name, precision):
    assert equal(weights(trained(name, "cuda", precision)), weights(trained(name, "cuda", precision)))


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_trains_what_a_cpu_trains(here, name):
    """Without dropout, whose masks are drawn on the device."""
    off = {
        "scratch": {"dropout": 0.0, "head_dropout": 0.0},
        "prefix": {},
        "distilbert": {"dropout": 0.0, "trainable_layers": 0},  # the encoder's layers have a dropout of their own
    }[name]
    first, second = (trained(name, device, **off) for device in ("cuda", "cpu"))
    for gpu, cpu in zip(first.curve, second.curve, strict=True):
        assert gpu.train_loss == pytest.approx(cpu.train_loss, rel=1e-3)
        assert gpu.valid_loss == pytest.approx(cpu.valid_loss, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(here, tmp_path, name):
    folder = CheckpointFolder(tmp_path / "stage", {}, pytest.fail)
    kept = []

    def keep(checkpoint):
        folder.save(checkpoint)
        kept.append(folder.load())

    whole = trained(name, "cuda", report=keep, epochs=3)
    for checkpoint in kept:
        assert equal(weights(trained(name, "cuda", start=checkpoint, epochs=3)), weights(whole))


def test_frozen_features_in_memory_and_on_disk_train_the_same(here, monkeypatch):
    in_memory = weights(trained("distilbert", "cuda", trainable_layers=1))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))  # no memory is free
    assert equal(in_memory, weights(trained("distilbert", "cuda", trainable_layers=1)))


def test_a_killed_stage_goes_on_to_the_same_bytes(finished, tmp_path):
    undisturbed, killed = (finished.copy(tmp_path / name / "project") for name in ("undisturbed", "killed"))
    for project in (undisturbed, killed):
        project.set("device", "cuda")
        project.set("train_scratch.epochs", 8)
    undisturbed.stage("train_scratch")
    killed.leave_a_checkpoint("train_scratch")
    assert "resuming train_scratch from epoch" in killed.stage("train_scratch")
    assert outputs(killed) == outputs(undisturbed)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes_with_a_gpu_each_train_what_one_trains(finished, tmp_path):
    one, two = (finished.copy(tmp_path / name / "project") for name in ("one", "two"))
    for project in (one, two):
        project.set("device", "cuda")
        project.set("precision", "fp32")
        project.set("train_scratch.dropout", 0.0)
        project.set("train_scratch.head_dropout", 0.0)
    one.stage("train_scratch")
    launcher = ("torchrun", "--standalone", "--nproc-per-node=2", "-m", "stages.train_scratch")
    two.run(*launcher)
    losses = [last_loss(project) for project in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def last_loss(project):
    return float(read_csv(project.root / "plots/train_scratch.csv")[-1]["train_loss"])
