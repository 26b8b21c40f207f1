"""Search the parameters that matter most to each model, by validation; a search of all models writes docs/sweep.md.

Optuna proposes values; a trial is scored by its mean validation accuracy over a few training seeds, and stops early
below the median of the trials before it. The test split has no part in it. The trials are kept in .state/sweep.log, so
a stopped search continues; other data, code or parameters begin another one.

    qc sweep                        10 trials of each model, earlier ones included
    qc sweep prefix --trials 40     of one model

The data is that of the last `dvc repro split`.
"""

import hashlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from qc.commands.sweep_report import TrialResult, draw_trials, trial_table
from qc.config.schema import validate
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import write_block
from qc.files import read_json
from qc.models.registry import MODELS
from qc.paths import CHECKPOINTS, REPORTS, Folders
from qc.runtime.device import pick_device
from qc.stage import load_settings
from qc.training.data import load_training_data
from qc.training.run import run_key
from qc.training.trainer import describe_model, train_model

PAGE, PLOT = Path("docs/sweep.md"), Path("docs/sweep.svg")
BEGIN, END = "<!-- written by `qc sweep` -->", "<!-- end -->"
JOURNAL = CHECKPOINTS / "sweep.log"
TRIALS, SEEDS = 10, 3
UNPRUNED = 3  # trials that get all their seeds, before the median means anything
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SPACES: dict[str, dict[str, BaseDistribution]] = {
    "scratch": {
        "learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        "layers": CategoricalDistribution([1, 2]),
        "hidden_size": CategoricalDistribution([128, 256]),
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


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("models", nargs="*", help=f"of {', '.join(SPACES)}; default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"trials of each model; default: {TRIALS}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"training seeds of each trial; default: {SEEDS}")


def run(arguments: Namespace) -> int:
    """Search, print the tables, write the page; the exit status."""
    if unknown := set(arguments.models) - SPACES.keys():
        raise QcError(f"invalid value {', '.join(sorted(unknown))}; expected models of {', '.join(SPACES)}")
    for option in ("trials", "seeds"):
        if getattr(arguments, option) < 1:
            raise QcError(f"--{option}: invalid value {getattr(arguments, option)}; expected 1 or more")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = load_settings()
    questions = read_json(REPORTS / "data.json")["size"]["valid"]
    found = {}
    for model in arguments.models or [name for name in MODELS if name in SPACES]:
        found[model] = search(model, settings, arguments.trials, arguments.seeds)
        print(f"\n{trial_table(model, found[model], questions)}\n", flush=True)
    if set(found) == set(SPACES):
        tables = "\n\n".join(trial_table(model, trials, questions) for model, trials in found.items())
        write_block(PAGE, BEGIN, END, tables)
        draw_trials(PLOT, found)
    return 0


def search(model: str, settings: Settings, trials: int, seeds: int) -> list[TrialResult]:
    """Bring the trials of a model to a number; return all of them, the first with the values of params.yaml.

    Raises:
        QcError: Every trial failed.
    """
    defaults = settings.training()[model].model_dump()
    space = {key: widen(each, f"train_{model}.{key}", defaults[key]) for key, each in SPACES[model].items()}
    JOURNAL.parent.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=f"{model}-{search_key(model, settings)}-{seeds}",
        storage=JournalStorage(JournalFileBackend(str(JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
    )
    # A seed that depends on the trials so far: the same seed would propose the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    if not study.get_trials(states=DONE):
        study.enqueue_trial({key: defaults[key] for key in space})
    missing = trials - len(study.get_trials(states=DONE))
    if missing > 0:
        study.optimize(
            lambda trial: objective(trial, model, space, settings, seeds), n_trials=missing, catch=(QcError,)
        )
    done = study.get_trials(deepcopy=False, states=DONE)
    if not done:
        raise QcError(f"{model}: every trial failed; `dvc repro train_{model}` shows why")
    names = ("params", "accuracies", "losses")
    return [TrialResult(number, *(trial.user_attrs[name] for name in names)) for number, trial in enumerate(done)]


def search_key(model: str, settings: Settings) -> str:
    """Hash of everything that decides the scores of a search, besides the searched parameters."""
    data = load_training_data(model, settings, Folders())
    described = {**describe_model(model, data, settings), "upper_layers": None}
    key = run_key(described, settings, pick_device(settings.device), Folders().split)
    key["section"] = {name: value for name, value in key["section"].items() if name not in SPACES[model]}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]


def objective(
    trial: optuna.Trial, model: str, space: dict[str, BaseDistribution], settings: Settings, seeds: int
) -> float:
    """Train a model with proposed values, one seed after the other: its mean validation accuracy."""
    params = {key: round_digits(suggest(trial, key, each)) for key, each in space.items()}
    trial.set_user_attr("params", params)
    content = settings.model_dump(mode="json")
    changed = validate(Settings, {**content, f"train_{model}": content[f"train_{model}"] | params}, "params.yaml")
    scores = []
    for seed in range(settings.seed, settings.seed + seeds):
        data = load_training_data(model, changed, Folders())  # anew: training changes the encoder
        scores.append(train_model(model, data, changed.model_copy(update={"seed": seed})).figures["valid"])
        accuracies = [score["accuracy"] for score in scores]
        trial.set_user_attr("accuracies", accuracies)
        trial.set_user_attr("losses", [score["loss"] for score in scores])
        trial.report(mean(accuracies), len(scores))
        if len(scores) < seeds and trial.should_prune():
            break
    print(
        f"{model}, trial {trial.number}: {mean(accuracies):.3f} of validation, {len(scores)} seeds: {params}",
        flush=True,
    )
    if len(scores) < seeds:
        raise optuna.TrialPruned
    return mean(accuracies)


def suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """Let Optuna propose a value of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)


def widen(distribution: BaseDistribution, key: str, value: Any) -> BaseDistribution:
    """Extend a distribution by the value of params.yaml; QcError where that is no number."""
    if isinstance(distribution, CategoricalDistribution):
        choices: Sequence[Any] = distribution.choices
        return distribution if value in choices else CategoricalDistribution([*choices, value])
    if value is None:
        raise QcError(f"params.yaml: {key}: invalid value null; expected a number, for a search")
    return FloatDistribution(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


def round_digits(value: Any) -> Any:
    """Round a fraction to two significant digits."""
    return float(f"{value:.2g}") if isinstance(value, float) else value
