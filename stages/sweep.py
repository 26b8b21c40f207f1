"""A search over the parameters that matter most to each model -> docs/sweep.md, docs/sweep.svg; run by `make sweep`.

Optuna proposes, `dvc exp run` trains, the validation score decides: its mean over a few training seeds; a trial below
the median of those before it gets no further seed. Each run is a DVC experiment of the model's stage alone: evaluate,
and with it the test split, has no part in it. What was tried is kept in .state/sweep.log, so a search that was stopped
goes on; it belongs to what the stage depends on, and a change of that begins another.

    python -m stages.sweep                        10 trials of each model, those of earlier runs counted
    python -m stages.sweep prefix --trials 40     of one model
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import optuna
import yaml
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from qc.artifacts import new_file, read_json
from qc.errors import QcError
from qc.settings import Settings
from stages.entry import METRICS, STATES, run
from stages.experiments import read_metrics, run_experiment
from stages.results import MODELS, standard_error, write_block

PAGE, PLOT = Path("docs/sweep.md"), Path("docs/sweep.svg")
BEGIN, END = "<!-- written by `make sweep` -->", "<!-- end -->"
JOURNAL = STATES / "sweep.log"
TRIALS, SEEDS, SHOWN = 10, 3, 5
UNPRUNED = 3  # trials that get all their seeds, before a median says anything
SPACES: dict[str, dict[str, BaseDistribution]] = {
    "scratch": {
        "learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        "layers": CategoricalDistribution([1, 2]),
        "width": CategoricalDistribution([128, 256]),
        "norm": CategoricalDistribution(["post", "pre"]),
        "dropout": FloatDistribution(0.1, 0.4),
        "min_count": CategoricalDistribution([1, 2, 3]),
    },
    "prefix": {
        "prefix_length": CategoricalDistribution([5, 10, 20]),
        "learning_rate": FloatDistribution(3e-3, 3e-2, log=True),
        "head_learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
        "label_smoothing": CategoricalDistribution([0.0, 0.1]),
        "fine_weight": CategoricalDistribution([0.5, 1.0, 2.0]),
    },
    "distilbert": {
        "trainable_layers": CategoricalDistribution([1, 2, 3]),
        "learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        "batch_size": CategoricalDistribution([16, 32]),
        "label_smoothing": CategoricalDistribution([0.0, 0.1]),
        "fine_weight": CategoricalDistribution([1.0, 2.0, 4.0]),
    },
}


@dataclass(frozen=True)
class Trial:
    """What was tried, and the validation scores of its best epochs; number 0 is what params.yaml has.

    Attributes:
        number: Its place in the search.
        params: Values by key.
        accuracies: On validation, one a seed.
        losses: The same.
    """

    number: int
    params: Mapping[str, Any]
    accuracies: Sequence[float]
    losses: Sequence[float]

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return mean(self.accuracies)

    @property
    def loss(self) -> float:
        """The mean over the seeds."""
        return mean(self.losses)


def digest(model: str) -> str:
    """A hash of all that a model's stage depends on beside what is searched, by dvc.lock."""
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"][f"train_{model}"]
    except (OSError, KeyError):
        raise QcError(f"dvc.lock: does not know the stage train_{model}; run `make run` first") from None
    params = lock["params"]["params.yaml"]
    for key in SPACES[model]:
        del params[f"train_{model}"][key]
    return hashlib.sha256(json.dumps([lock["cmd"], lock["deps"], params]).encode()).hexdigest()[:8]


def search(model: str, defaults: Mapping[str, Any], trials: int, seeds: Sequence[int]) -> list[Trial]:
    """Bring the trials of a model to a number, and give them all; the first is the defaults.

    Args:
        model: Its name.
        defaults: Its section of params.yaml.
        trials: How many there are to be.
        seeds: What each is trained with; the first is that of the proposals as well.
    """
    space = {name: widened(each, f"train_{model}.{name}", defaults[name]) for name, each in SPACES[model].items()}
    key = f"{digest(model)}-{len(seeds)}"
    JOURNAL.parent.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=f"{model}-{key}",
        storage=JournalStorage(JournalFileBackend(str(JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
    )
    study.sampler = optuna.samplers.TPESampler(seed=seeds[0] + len(study.trials))  # or it would propose the same again
    if not finished(study):
        study.enqueue_trial({name: defaults[name] for name in space})
    while len(finished(study)) < trials:
        trial = study.ask(space)
        params = {name: rounded(value) for name, value in trial.params.items()}
        trial.set_user_attr("params", params)
        try:
            state = run_seeds(trial, f"sweep-{model}-{key}-{trial.number}", model, params, seeds)
        except QcError as error:
            study.tell(trial, state=TrialState.FAIL)
            if not finished(study):
                raise
            print(f"trial {trial.number}: {error}; the search goes on", flush=True)
            continue
        scores = trial.user_attrs["accuracies"]
        study.tell(trial, None if state is TrialState.PRUNED else mean(scores), state)
        used = ", ".join(map(str, seeds[: len(scores)]))
        print(f"{model}, trial {trial.number}: {mean(scores):.3f} of validation, seeds {used}: {params}", flush=True)
    return finished(study)


def run_seeds(
    trial: optuna.Trial, name: str, model: str, params: Mapping[str, Any], seeds: Sequence[int]
) -> TrialState:
    """Train a model with some parameters, a seed after the other, and note the scores in the trial.

    Args:
        trial: The trial.
        name: Of the experiments, less their seed.
        model: Its name.
        params: Values by key of its section.
        seeds: All that it may be trained with.

    Returns:
        Whether it came to its end, or was pruned on the way.

    Raises:
        QcError: A training failed.
    """
    accuracies, losses = [], []
    for seed in seeds:
        changes = {f"train_{model}.{key}": value for key, value in params.items()}
        run_experiment(f"{name}-{seed}", {"seed": seed, **changes}, f"train_{model}")
        scores = read_metrics(f"train_{model}.json", f"{name}-{seed}")["valid"]
        accuracies.append(scores["accuracy"])
        losses.append(scores["loss"])
        trial.set_user_attr("accuracies", accuracies)
        trial.set_user_attr("losses", losses)
        trial.report(mean(accuracies), len(accuracies))
        if len(accuracies) < len(seeds) and trial.should_prune():
            return TrialState.PRUNED
    return TrialState.COMPLETE


def widened(distribution: BaseDistribution, key: str, value: Any) -> BaseDistribution:
    """What values a parameter is searched among, that of params.yaml with them; QcError where that is none."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return distribution if value in choices else CategoricalDistribution([*choices, value])
    if value is None:
        raise QcError(f"params.yaml: {key}: null is not possible in a search; allowed: a number, or no search for it")
    return FloatDistribution(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


def finished(study: optuna.Study) -> list[Trial]:
    """The trials that came to an end or were pruned, in order."""
    return [
        Trial(number, *(trial.user_attrs[name] for name in ("params", "accuracies", "losses")))
        for number, trial in enumerate(
            study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
        )
    ]


def rounded(value: Any) -> Any:
    """A value with two significant digits, if it is a fraction: more would not be meant."""
    return float(f"{value:.2g}") if isinstance(value, float) else value


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Those that got all their seeds, the best first: by mean validation accuracy, ties by mean validation loss."""
    seeds = len(trials[0].accuracies)  # the first is never pruned
    whole = [trial for trial in trials if len(trial.accuracies) == seeds]
    return sorted(whole, key=lambda trial: (-trial.accuracy, trial.loss))


def chosen(trials: Sequence[Trial], questions: int) -> Trial:
    """What the search chooses, by the one-standard-error rule (Breiman et al., CART, 1984, section 3.4.3).

    params.yaml stays as it is while it is within one standard error of the best: that of a share of so many questions,
    which more seeds do not make smaller. Otherwise the best is chosen.

    Args:
        trials: All of them, the first with what params.yaml has.
        questions: How many the validation split has.
    """
    best = ranked(trials)[0]
    least = best.accuracy - standard_error(best.accuracy, questions)
    return trials[0] if trials[0].accuracy >= least else best


def table(model: str, trials: Sequence[Trial], questions: int) -> str:
    """The best trials of a model and the defaults, as Markdown; the rest is as for `chosen`."""
    names = list(SPACES[model])
    best, choice = ranked(trials), chosen(trials, questions)
    pruned = len(trials) - len(best)
    lines = [
        f"**{MODELS[model]}**, {len(trials)} trials, {pruned} of them pruned; chosen: "
        + ("what params.yaml has" if choice.number == 0 else f"number {best.index(choice) + 1}"),
        "",
        f"| | {' | '.join(f'`{name}`' for name in names)} | validation accuracy, mean | of each seed | loss |",
        "|---" * (len(names) + 4) + "|",
    ]
    for place, trial in enumerate(best, start=1):
        if place <= SHOWN or trial.number == 0:
            title = f"{place}.{' (params.yaml)' if trial.number == 0 else ''}"
            values = " | ".join(str(trial.params[name]) for name in names)
            each = " ".join(f"{accuracy:.3f}" for accuracy in trial.accuracies)
            lines.append(f"| {title} | {values} | {trial.accuracy:.3f} | {each} | {trial.loss:.3f} |")
    return "\n".join(lines)


def draw(found: Mapping[str, Sequence[Trial]]) -> None:
    """Write the plot: the mean validation accuracy of each trial, a panel a model, params.yaml as a line."""
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    for axes, (model, trials) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.plot([trial.number for trial in trials], [trial.accuracy for trial in trials], "o", markersize=4)
        axes.axhline(trials[0].accuracy, color="gray", linewidth=1)
        axes.set(title=MODELS[model], xlabel="trial", ylabel="validation accuracy")
    with new_file(PLOT) as temporary, matplotlib.rc_context({"svg.hashsalt": "sweep"}):  # no random ids
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main(settings: Settings) -> None:
    """Search, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m stages.sweep")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(SPACES)}; none for all")
    parser.add_argument("--trials", type=int, default=TRIALS, help="how many there are to be of each")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many each is trained with")
    asked = parser.parse_args()
    if min(asked.trials, asked.seeds) < 1 or not set(asked.models) <= SPACES.keys():
        parser.error(f"models are {', '.join(SPACES)}, trials and seeds at least 1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    questions = read_json(METRICS / "data.json")["size"]["valid"]
    seeds = range(settings.seed, settings.seed + asked.seeds)
    found = {}
    for model in asked.models or SPACES:
        defaults = getattr(settings, f"train_{model}").model_dump()
        found[model] = search(model, defaults, asked.trials, seeds)
        print(f"\n{table(model, found[model], questions)}\n", flush=True)
    if set(found) == set(SPACES):
        text = "\n\n".join(table(model, trials, questions) for model, trials in found.items())
        write_block(PAGE, BEGIN, END, text)
        draw(found)


if __name__ == "__main__":
    run(main)
