"""Ours, timed: what the training stages run.

python -m benchmarks.ours fp32      the whole of train_distilbert, in a temporary folder; prints its accuracy
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from qc.config.settings import Settings
from qc.files import read_csv
from qc.paths import Folders
from qc.stage import load_settings
from qc.training.data import TrainingData, load_training_data
from qc.training.run import run_training
from qc.training.trainer import train_model

Timed = tuple[list[float], float]  # seconds of each epoch, and the accuracy on validation at the end


def changed(settings: Settings, name: str, **changes: object) -> Settings:
    """The settings with changes in the section of the model NAME."""
    section = f"train_{name}"
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changes)})


def load(name: str, settings: Settings, count: int | None = None) -> TrainingData:
    """Read what the model NAME is trained on; with `count`, so many questions, some repeated."""
    data = load_training_data(name, settings, Folders())
    if count is None:
        return data
    rows = np.random.default_rng(count).permutation(len(data.train))
    return replace(data, train=data.train.take(np.resize(rows, count)), valid=data.valid.take(np.arange(2)))


def train(name: str, settings: Settings, count: int | None = None, data: TrainingData | None = None) -> Timed:
    """Train the model NAME as its stage does, with at least two epochs, on `data` or on what `load` reads.

    The first epoch counts as the others do on average: its time holds what came before it.
    """
    data = data or load(name, settings, count)
    torch.use_deterministic_algorithms(True)
    moments = [time.perf_counter()]
    trained = train_model(name, data, settings, report=lambda checkpoint: moments.append(time.perf_counter()))
    first, *others = (later - earlier for earlier, later in pairwise(moments))
    return [min(first, statistics.median(others)), *others], trained.curve[-1].valid_accuracy


def peak_memory(process: int | str = "self") -> float:
    """MiB that a process has had resident at most; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main(precision: str) -> None:
    """Run train_distilbert to its last epoch in a temporary folder; print its last validation accuracy."""
    settings = changed(load_settings(), "distilbert", select_by="last").model_copy(update={"precision": precision})
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        own = {folder: place / folder for folder in ("models", "metrics", "reports", "plots", "checkpoints", "live")}
        run_training("distilbert", settings, Folders(**own))
        accuracy = float(read_csv(place / "plots/train_distilbert.csv")[-1]["valid_accuracy"])
        print(json.dumps({"valid_accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1])
