"""A search over the parameters that matter most to each model -> docs/sweep.md, docs/sweep.svg; run by `make sweep`.

Optuna proposes, `dvc exp run` trains, the validation score decides. Each trial is a DVC experiment of the model's stage
alone: evaluate, and with it the test split, has no part in it. What was tried is kept in .state/sweep.log, so a search
that was stopped goes on; it belongs to what the stage depends on, and a change of that begins another.

    python -m stages.sweep                        15 trials of each model, those of earlier runs counted
    python -m stages.sweep prefix --trials 40     of one model
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import yaml
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from qc.artifacts import new_file
from qc.errors import QcError
from qc.settings import Settings
from stages.entry import STATES, run
from stages.experiments import read_metrics, run_experiment
from stages.results import MODELS, write_block

PAGE, PLOT = Path("docs/sweep.md"), Path("docs/sweep.svg")
BEGIN, END = "<!-- written by `make sweep` -->", "<!-- end -->"
JOURNAL = STATES / "sweep.log"
TRIALS, SHOWN = 15, 5
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
    """What was tried, and the validation score of its best epoch; number 0 is what params.yaml has."""

    number: int
    params: Mapping[str, Any]
    accuracy: float
    loss: float


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


def search(model: str, defaults: Mapping[str, Any], trials: int, seed: int) -> list[Trial]:
    """Bring the trials of a model to a number, and give them all; the first is the defaults.

    Args:
        model: Its name.
        defaults: Its section of params.yaml.
        trials: How many there are to be.
        seed: Of the proposals.
    """
    space = {name: widened(each, f"train_{model}.{name}", defaults[name]) for name, each in SPACES[model].items()}
    key = digest(model)
    JOURNAL.parent.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=f"{model}-{key}",
        storage=JournalStorage(JournalFileBackend(str(JOURNAL))),
        direction="maximize",
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))  # or it would propose the same again
    if not finished(study):
        study.enqueue_trial({name: defaults[name] for name in space})
    while len(finished(study)) < trials:
        trial = study.ask(space)
        params = {name: rounded(value) for name, value in trial.params.items()}
        trial.set_user_attr("params", params)
        name = f"sweep-{model}-{key}-{trial.number}"
        try:
            run_experiment(name, {f"train_{model}.{each}": value for each, value in params.items()}, f"train_{model}")
        except QcError as error:
            study.tell(trial, state=TrialState.FAIL)
            if not finished(study):
                raise
            print(f"trial {trial.number}: {error}; the search goes on", flush=True)
            continue
        scores = read_metrics(f"train_{model}.json", name)["valid"]
        trial.set_user_attr("loss", scores["loss"])
        study.tell(trial, scores["accuracy"])
        print(f"{model}, trial {trial.number}: {scores['accuracy']:.3f} of validation, {params}", flush=True)
    return finished(study)


def widened(distribution: BaseDistribution, key: str, value: Any) -> BaseDistribution:
    """What values a parameter is searched among, that of params.yaml with them; QcError where that is none."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return distribution if value in choices else CategoricalDistribution([*choices, value])
    if value is None:
        raise QcError(f"params.yaml: {key}: null is not possible in a search; allowed: a number, or no search for it")
    return FloatDistribution(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


def finished(study: optuna.Study) -> list[Trial]:
    """The trials that came to an end, in order."""
    return [
        Trial(number, trial.user_attrs["params"], trial.value, trial.user_attrs["loss"])
        for number, trial in enumerate(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    ]


def rounded(value: Any) -> Any:
    """A value with two significant digits, if it is a fraction: more would not be meant."""
    return float(f"{value:.2g}") if isinstance(value, float) else value


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first: by validation accuracy, ties by validation loss."""
    return sorted(trials, key=lambda trial: (-trial.accuracy, trial.loss))


def table(model: str, trials: Sequence[Trial]) -> str:
    """The best trials of a model and the defaults, as Markdown."""
    names = list(SPACES[model])
    best = ranked(trials)
    lines = [
        f"**{MODELS[model]}**, {len(trials)} trials",
        "",
        f"| | {' | '.join(f'`{name}`' for name in names)} | validation accuracy | validation loss |",
        "|---" * (len(names) + 3) + "|",
    ]
    for place, trial in enumerate(best, start=1):
        if place <= SHOWN or trial.number == 0:
            title = f"{place}.{' (params.yaml)' if trial.number == 0 else ''}"
            values = " | ".join(str(trial.params[name]) for name in names)
            lines.append(f"| {title} | {values} | {trial.accuracy:.3f} | {trial.loss:.3f} |")
    return "\n".join(lines)


def draw(found: Mapping[str, Sequence[Trial]]) -> None:
    """Write the plot: the validation accuracy of each trial, a panel a model, params.yaml as a line."""
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
    asked = parser.parse_args()
    if asked.trials < 1 or not set(asked.models) <= SPACES.keys():
        parser.error(f"models are {', '.join(SPACES)}, trials at least 1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for model in asked.models or SPACES:
        defaults = getattr(settings, f"train_{model}").model_dump()
        found[model] = search(model, defaults, asked.trials, settings.seed)
        print(f"\n{table(model, found[model])}\n", flush=True)
    if set(found) == set(SPACES):
        text = "\n\n".join(table(model, trials) for model, trials in found.items())
        write_block(PAGE, BEGIN, END, text)
        draw(found)


if __name__ == "__main__":
    run(main)
