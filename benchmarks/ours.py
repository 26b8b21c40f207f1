"""Ours, timed: what the training stages run, and a whole stage by its phases.

python -m benchmarks.ours fp32      the whole of train_distilbert, in a temporary folder; prints accuracy and phases
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from qc.config.settings import Settings
from qc.files import read_csv
from qc.paths import Folders
from qc.stage import load_settings
from qc.training import loop, run, trainer
from qc.training.checkpoints import CheckpointFolder
from qc.training.data import TrainingData, load_training_data
from qc.training.trainer import train_model

# What takes the time of a stage: phase, and the function whose calls are it, a phase within a phase by itself.
PHASES = (
    ("data and encoder", run, "load_training_data"),
    ("frozen layers", trainer, "precompute_features"),
    ("training", trainer, "fit"),
    ("validation", loop, "predict"),
    ("writing", CheckpointFolder, "save"),
    ("writing", run, "save_model"),
)


@dataclass(frozen=True)
class Timed:
    """A training by its times.

    Attributes:
        before: Seconds before the first epoch.
        seconds: Of each epoch.
        accuracies: On validation, after each epoch.
    """

    before: float
    seconds: list[float]
    accuracies: list[float]


def changed(settings: Settings, name: str, **changes: object) -> Settings:
    """The settings with changes in the section of the model NAME."""
    section = f"train_{name}"
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changes)})


def load(name: str, settings: Settings, count: int | None = None) -> TrainingData:
    """Read what the model NAME is trained on; with `count`, so many questions of train and two of validation."""
    data = load_training_data(name, settings, Folders())
    if count is None:
        return data
    return replace(data, train=data.train.take(drawn(len(data.train), count)), valid=data.valid.take(np.arange(2)))


def drawn(questions: int, count: int) -> np.ndarray:
    """`count` random row numbers, some of them more than once where there are fewer questions."""
    rng = np.random.default_rng(count)
    return np.concatenate([rng.permutation(questions) for _ in range(-(-count // questions))])[:count]


def train(name: str, settings: Settings, count: int | None = None, data: TrainingData | None = None) -> Timed:
    """Train the model NAME as its stage does, with at least two epochs, on `data` or on what `load` reads.

    The first epoch counts as the others do on average, and the rest of its time as what was before it.
    """
    data = data or load(name, settings, count)
    torch.use_deterministic_algorithms(True)
    moments = [time.perf_counter()]
    trained = train_model(name, data, settings, report=lambda checkpoint: moments.append(time.perf_counter()))
    first, *others = (later - earlier for earlier, later in pairwise(moments))
    usual = min(first, statistics.median(others))
    return Timed(first - usual, [usual, *others], [epoch.valid_accuracy for epoch in trained.curve])


def peak_memory(process: int | str = "self") -> float:
    """MiB that a process has had resident at most; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@contextlib.contextmanager
def phases() -> Iterator[dict[str, float]]:
    """Seconds that a training stage spends in its phases, filled in while the block runs."""
    seconds = dict.fromkeys((phase for phase, _, _ in PHASES), 0.0)

    def timed(phase: str, owner: object, name: str) -> contextlib.AbstractContextManager:
        function = getattr(owner, name)

        def run_timed(*arguments: object, **named: object) -> object:
            inside, begin = sum(seconds.values()), time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[phase] += time.perf_counter() - begin - (sum(seconds.values()) - inside)

        return mock.patch.object(owner, name, run_timed)

    with contextlib.ExitStack() as stack:
        for phase in PHASES:
            stack.enter_context(timed(*phase))
        yield seconds


def main(precision: str) -> None:
    """Run train_distilbert to its last epoch in a temporary folder; print its last validation accuracy and phases."""
    settings = changed(load_settings(), "distilbert", select_by="last").model_copy(update={"precision": precision})
    with tempfile.TemporaryDirectory() as name, phases() as seconds:
        place = Path(name)
        own = {each: place / each for each in ("models", "metrics", "reports", "plots", "checkpoints", "live")}
        run.run_training("distilbert", settings, Folders(**own))
        accuracy = float(read_csv(place / "plots/train_distilbert.csv")[-1]["valid_accuracy"])
        print(json.dumps({"valid_accuracy": accuracy, "phases": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
