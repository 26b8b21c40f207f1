"""The page of a sweep: tables and a figure of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from qc.evaluation.tables import markdown, standard_error, title
from qc.files import new_file

SHOWN = 5


@dataclass(frozen=True)
class TrialResult:
    """A trial and the validation scores of its best epochs; number 0 has the values of params.yaml.

    Attributes:
        number: Its place in the search.
        params: Values by key.
        accuracies: On validation, one a seed.
        losses: On validation, one a seed.
    """

    number: int
    params: Mapping[str, Any]
    accuracies: Sequence[float]
    losses: Sequence[float]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return mean(self.accuracies)

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return mean(self.losses)


def rank(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Sort the trials that were not pruned by mean validation accuracy, ties by mean validation loss."""
    seeds = len(trials[0].accuracies)  # the first is never pruned
    whole = [trial for trial in trials if len(trial.accuracies) == seeds]
    return sorted(whole, key=lambda trial: (-trial.accuracy, trial.loss))


def choose(trials: Sequence[TrialResult], questions: int) -> TrialResult:
    """Choose by the one-standard-error rule (Breiman et al., CART, 1984, section 3.4.3).

    params.yaml stays as it is while it is within one standard error of the best trial; otherwise the best is chosen.
    The error is that of a share of so many questions, which more seeds do not make smaller.

    Args:
        trials: All of them, the first with the values of params.yaml.
        questions: Number of questions in the validation split.
    """
    best = rank(trials)[0]
    least = best.accuracy - standard_error(best.accuracy, questions)
    return trials[0] if trials[0].accuracy >= least else best


def trial_table(model: str, trials: Sequence[TrialResult], questions: int) -> str:
    """Make the table of the best trials of a model; arguments are as for `choose`."""
    best, choice = rank(trials), choose(trials, questions)
    chosen = "the values of params.yaml" if choice.number == 0 else f"number {best.index(choice) + 1}"
    names = list(trials[0].params)
    header = ["", *(f"`{name}`" for name in names), "validation accuracy, mean", "of each seed", "loss"]
    rows = [
        [
            f"{place}.{' (params.yaml)' if trial.number == 0 else ''}",
            *(str(trial.params[name]) for name in names),
            f"{trial.accuracy:.3f}",
            " ".join(f"{accuracy:.3f}" for accuracy in trial.accuracies),
            f"{trial.loss:.3f}",
        ]
        for place, trial in enumerate(best, start=1)
        if place <= SHOWN or trial.number == 0
    ]
    pruned = len(trials) - len(best)
    return f"**{title(model)}**, {len(trials)} trials, {pruned} of them pruned; chosen: {chosen}\n\n" + markdown(
        header, rows
    )


def draw_trials(path: Path, found: Mapping[str, Sequence[TrialResult]]) -> None:
    """Draw the mean validation accuracy of each trial, a panel for each model, params.yaml as a line."""
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    for axes, (model, trials) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.plot([trial.number for trial in trials], [trial.accuracy for trial in trials], "o", markersize=4)
        axes.axhline(trials[0].accuracy, color="gray", linewidth=1)
        axes.set(title=title(model), xlabel="trial", ylabel="validation accuracy")
    with new_file(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "sweep"}):  # no random ids
        figure.savefig(temporary, format="svg", metadata={"Date": None})
