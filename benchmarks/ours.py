"""Ours, timed: the models, precomputed features and loop of the training stages, without the files around them.

python -m benchmarks.ours fp32      the whole of train_distilbert, in a temporary folder; prints accuracy and phases
"""

import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from qc.files import read_csv
from qc.inference.batches import PackedDataset
from qc.models.common import Classifier
from qc.models.parameters import TrainingConfig
from qc.paths import Folders
from qc.runtime.device import Precision
from qc.stage import load_settings
from qc.training import loop, run, trainer
from qc.training.checkpoints import CheckpointFolder
from qc.training.loop import Checkpoint, Epoch, fit
from qc.training.precomputed import cast_frozen, precompute_frozen


class Reached(Exception):
    """Ends a run that has reached its goal."""


def finish(device: torch.device) -> None:
    """Wait for the work that a device has been given; a clock is read afterwards."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare(
    model: Classifier, splits: Sequence[PackedDataset], precision: Precision, device: torch.device
) -> tuple[list[PackedDataset], float]:
    """Move model and splits to a device and run the frozen part, if there is one: the splits to train on, seconds."""
    begin = time.perf_counter()
    cast_frozen(model.to(device), precision)
    splits = [split.to(device) for split in splits]
    if model.has_frozen_part:
        splits = [precompute_frozen(model, split, precision, float("inf"), Path()) for split in splits]
    finish(device)
    return list(splits), time.perf_counter() - begin


def train(
    model: Classifier,
    train_split: PackedDataset,
    valid_split: PackedDataset,
    config: TrainingConfig,
    seed: int,
    precision: Precision,
    device: torch.device,
    enough: Callable[[Epoch], bool] = lambda epoch: False,
) -> tuple[float, list[float], float]:
    """Train as the stages do.

    Args:
        model: Untrained.
        train_split: Token ids.
        valid_split: Token ids.
        config: How.
        seed: Decides the order of the questions.
        precision: What the matrices are multiplied in.
        device: What trains.
        enough: Told of every epoch; True ends training.

    Returns:
        Seconds of running the frozen part once; seconds of each epoch, its validation included; the last epoch's
        validation accuracy.
    """
    splits, once = prepare(model, (train_split, valid_split), precision, device)
    moments, accuracies = [time.perf_counter()], []

    def report(state: Checkpoint) -> None:
        moments.append(time.perf_counter())
        accuracies.append(state.curve[-1].valid_accuracy)
        if enough(state.curve[-1]):
            raise Reached

    with contextlib.suppress(Reached):
        fit(model, *splits, config, seed, precision, report=report)
    return once, [later - earlier for earlier, later in itertools.pairwise(moments)], accuracies[-1]


def drawn(questions: PackedDataset, count: int) -> PackedDataset:
    """`count` random questions of a split, some of them more than once where it has fewer."""
    generator = torch.Generator().manual_seed(count)
    order = torch.cat([torch.randperm(len(questions), generator=generator) for _ in range(-(-count // len(questions)))])
    chosen = order[:count]
    pieces = [questions.values[questions.starts[i] :][: questions.lengths[i]] for i in chosen.tolist()]
    return replace(
        questions,
        values=torch.cat(pieces),
        lengths=questions.lengths[chosen],
        labels=questions.labels[chosen],
        fine_labels=None if questions.fine_labels is None else questions.fine_labels[chosen],
    )


@contextlib.contextmanager
def phases() -> Iterator[dict[str, float]]:
    """Seconds that a training stage spends in its phases, filled in while the block runs."""
    seconds = dict.fromkeys(("data and encoder", "frozen layers", "training", "validation", "writing"), 0.0)

    def timed(phase: str, owner: object, name: str) -> AbstractContextManager:
        function = getattr(owner, name)

        def run_timed(*arguments: object, **named: object) -> object:
            inside = sum(seconds.values())
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:  # a phase within a phase counts for itself alone
                seconds[phase] += time.perf_counter() - begin - (sum(seconds.values()) - inside)

        return mock.patch.object(owner, name, run_timed)

    with contextlib.ExitStack() as stack:
        for phase, owner, name in (
            ("data and encoder", run, "load_training_data"),
            ("frozen layers", trainer, "precompute_frozen"),
            ("training", trainer, "fit"),
            ("validation", loop, "score"),
            ("writing", CheckpointFolder, "save"),
            ("writing", run, "save_model"),
        ):
            stack.enter_context(timed(phase, owner, name))
        yield seconds


def main(precision: str) -> None:
    """Run train_distilbert to its last epoch in a temporary folder; print its last validation accuracy and phases."""
    settings = load_settings()
    section = settings.train_distilbert.model_copy(update={"select_by": "last"})
    changed = settings.model_copy(update={"precision": precision, "train_distilbert": section})
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = Folders(
            models=place,
            metrics=place / "metrics",
            reports=place / "reports",
            plots=place,
            checkpoints=place,
            live=place / "live",
        )
        with phases() as seconds:
            run.run_training("distilbert", changed, folders)
        accuracy = float(read_csv(place / "train_distilbert.csv")[-1]["valid_accuracy"])
        print(json.dumps({"valid_accuracy": accuracy, "phases": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
