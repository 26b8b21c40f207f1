"""Ours, timed: the training stages' own models, caching and loop, without the files around them."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from qc.batching import Questions
from qc.frozen import cache_frozen, lower_frozen
from qc.training import Epoch, Precision, Recipe, State, fit


class Reached(Exception):
    """Ends a run that has come as far as was asked."""


def prepare(model: nn.Module, splits: Sequence[Questions], precision: Precision) -> tuple[list[Questions], float]:
    """Run once what is frozen in a model, if anything is; the splits to train on, and the seconds it took."""
    begin = time.perf_counter()
    lower_frozen(model, precision)
    if getattr(model, "keeps_frozen", False):
        splits = [cache_frozen(model, split, precision, float("inf"), Path()) for split in splits]
    return list(splits), time.perf_counter() - begin


def train(
    model: nn.Module,
    train_split: Questions,
    valid_split: Questions,
    recipe: Recipe,
    seed: int,
    precision: Precision,
    enough: Callable[[Epoch], bool] = lambda epoch: False,
) -> tuple[float, list[float], float]:
    """Train as the stages do.

    Args:
        model: Untrained.
        train_split: Token ids.
        valid_split: Token ids.
        recipe: How.
        seed: Decides the order of the questions.
        precision: What the matrices are multiplied in.
        enough: Told of every epoch; True ends training.

    Returns:
        Seconds of running the frozen part once; seconds of each epoch, its validation included; the last epoch's
        validation accuracy.
    """
    splits, once = prepare(model, (train_split, valid_split), precision)
    moments, accuracies = [time.perf_counter()], []

    def report(state: State) -> None:
        moments.append(time.perf_counter())
        accuracies.append(state.curve[-1].valid_accuracy)
        if enough(state.curve[-1]):
            raise Reached

    with contextlib.suppress(Reached):
        fit(model, *splits, recipe, seed, precision, report=report)
    return once, [later - earlier for earlier, later in itertools.pairwise(moments)], accuracies[-1]


def drawn(questions: Questions, count: int) -> Questions:
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
