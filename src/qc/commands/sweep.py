"""Search the parameters that matter most to each model, by validation.

Optuna proposes values. A trial trains the model with a few seeds, one after the other; its score is the mean validation
accuracy. A trial below the median of those before it gets no further seed (pruned). The test split has no part in it.
The first trial has the values of params.yaml, which are kept while they are within one standard error of the best.

    qc sweep                        10 trials of each model, earlier ones included
    qc sweep prefix --trials 40     of one model

The data is that of the last `dvc repro split`. The trials are kept in .state/sweep.db, so that a stopped search
continues; other data, code or parameters begin another one.
"""

import hashlib
import itertools
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from statistics import mean
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tabulate import tabulate

from qc.commands.tables import standard_error
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import title
from qc.paths import CHECKPOINTS, Folders
from qc.runtime.device import pick_device
from qc.schema import validate
from qc.stage import load_settings
from qc.training.data import load_training_data
from qc.training.run import run_key
from qc.training.trainer import train_model

STORAGE = CHECKPOINTS / "sweep.db"
TRIALS, SEEDS = 10, 3
UNPRUNED = 3  # trials that get all their seeds, before the median means anything
SHOWN = 5
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SPACES: dict[str, dict[str, Sequence[Any]]] = {  # lists of values; ranges of learning rates, log-uniform
    "scratch": {
        "learning_rate": (3e-4, 3e-3),
        "layers": [1, 2],
        "hidden_size": [128, 256],
        "norm": ["post", "pre"],
        "dropout": [0.05, 0.1, 0.2, 0.3],
        "weight_decay": [0.01, 0.1, 0.3],
    },
    "prefix": {
        "prefix_length": [5, 10, 20],
        "learning_rate": (1e-2, 1e-1),
        "head_learning_rate": (3e-3, 3e-2),
        "label_smoothing": [0.0, 0.1],
        "fine_weight": [0.5, 1.0, 2.0],
    },
    "distilbert": {
        "trainable_layers": [1, 2, 3],
        "learning_rate": (1e-4, 1e-3),
        "batch_size": [16, 32],
        "label_smoothing": [0.0, 0.1],
        "fine_weight": [1.0, 2.0, 4.0],
    },
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SPACES)}; default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"trials of each model; default: {TRIALS}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"training seeds of each trial; default: {SEEDS}")


def run(arguments: Namespace) -> int:
    """Search and print the tables; the exit status."""
    if unknown := set(arguments.models) - SPACES.keys():
        raise QcError(f"invalid value {', '.join(sorted(unknown))}; expected models of {', '.join(SPACES)}")
    for option in ("trials", "seeds"):
        if getattr(arguments, option) < 1:
            raise QcError(f"--{option}: invalid value {getattr(arguments, option)}; expected 1 or more")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, names, questions = load_settings(), {}, 0
    for model in SPACES:  # all, before any training: the key names the code that is loaded by then
        data = load_training_data(model, settings, Folders())
        key = json.dumps([SPACES[model], run_key(model, data, settings, pick_device(settings.device))], sort_keys=True)
        names[model] = f"{model}, {arguments.seeds} seeds, {hashlib.sha256(key.encode()).hexdigest()}"
        questions = len(data.valid)
    STORAGE.parent.mkdir(exist_ok=True)
    for model in arguments.models or SPACES:
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{STORAGE}",
                study_name=names[model],
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
            )
            search(study, model, settings, arguments.trials, arguments.seeds)
            trials = study.get_trials(states=DONE)
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ or error
            raise QcError(
                f"{STORAGE}: {getattr(cause, 'orig', cause)}; make room if the disk is full; if the file is damaged, "
                "remove it, and the search begins again"
            ) from None
        print(f"\n{report(model, trials, questions)}\n", flush=True)
    return 0


def search(study: optuna.Study, model: str, settings: Settings, trials: int, seeds: int) -> None:
    """Bring the trials of a model to a number, the first with the values of params.yaml.

    A trial keeps as attributes its values (`params`), and `accuracies` and `losses` of its seeds.

    Raises:
        QcError: The model cannot be trained with the values of params.yaml.
    """
    config, content = settings.training()[model], settings.model_dump(mode="json")
    defaults = {key: getattr(config, key) for key in SPACES[model]}
    if defaults.get("head_learning_rate", 0) is None:  # null in params.yaml: that of the rest
        defaults["head_learning_rate"] = config.learning_rate
    done = len(study.get_trials(states=DONE))
    numbers = itertools.count(done + 1)

    def train(trial: optuna.Trial) -> float:
        params = {key: propose(trial, key, options, defaults[key]) for key, options in SPACES[model].items()}
        trial.set_user_attr("params", params)
        accuracies, losses = [], []
        try:
            section = f"train_{model}"
            changed = validate(Settings, {**content, section: content[section] | params}, "proposed values")
            for seed in range(settings.seed, settings.seed + seeds):
                data = load_training_data(model, changed, Folders())  # again: training changes the encoder
                scores = train_model(model, data, changed.model_copy(update={"seed": seed})).figures["valid"]
                accuracies.append(scores["accuracy"])
                losses.append(scores["loss"])
                trial.report(mean(accuracies), len(accuracies))
                if len(accuracies) < seeds and trial.should_prune():
                    raise optuna.TrialPruned
        except QcError as error:
            if not study.get_trials(states=DONE):
                raise
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from None
        finally:
            trial.set_user_attr("accuracies", accuracies)
            trial.set_user_attr("losses", losses)
        return mean(accuracies)

    def show(study: optuna.Study, trial: FrozenTrial) -> None:
        kept = trial.user_attrs
        accuracies = " ".join(f"{accuracy:.3f}" for accuracy in kept["accuracies"])
        outcome = f" failed: {kept['error']}" if "error" in kept else f": accuracy {accuracies}"
        print(f"{model}, trial {next(numbers)} of {trials}{outcome}: {kept['params']}", flush=True)

    # A seed that depends on the trials so far: the same seed would propose the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    if done == 0:
        study.enqueue_trial(defaults, skip_if_exists=True)
    if done < trials:
        study.optimize(train, trials - done, callbacks=[show], show_progress_bar=sys.stderr.isatty())


def propose(trial: optuna.Trial, name: str, options: Sequence[Any], default: Any) -> Any:
    """Let Optuna propose a value of a list or range, which is widened by the value of params.yaml."""
    if isinstance(options, list):
        return trial.suggest_categorical(name, options if default in options else [*options, default])
    value = trial.suggest_float(name, min(*options, default), max(*options, default), log=True)
    return default if value == default else float(f"{value:.2g}")


def rank(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Sort the trials that were not pruned by mean validation accuracy, ties by mean validation loss."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(whole, key=lambda trial: (-trial.value, mean(trial.user_attrs["losses"])))


def choose(trials: Sequence[FrozenTrial], questions: int) -> FrozenTrial:
    """Choose by the one-standard-error rule (Breiman et al., CART, 1984, section 3.4.3).

    The first, with the values of params.yaml, stays while it is within one standard error of the best; otherwise the
    best is chosen. The error is that of a share of so many questions, which more seeds do not make smaller.
    """
    best = rank(trials)[0]
    return trials[0] if trials[0].value >= best.value - standard_error(best.value, questions) else best


def report(model: str, trials: Sequence[FrozenTrial], questions: int) -> str:
    """Make the table of the best trials, and say how to run the chosen one."""
    ranked, chosen, first = rank(trials), choose(trials, questions), trials[0]
    rows = [
        {
            "": f"{place}.{' params.yaml' if trial is first else ''}",
            **trial.user_attrs["params"],
            "accuracy": f"{trial.value:.3f}",
            "of each seed": " ".join(f"{accuracy:.3f}" for accuracy in trial.user_attrs["accuracies"]),
            "loss": f"{mean(trial.user_attrs['losses']):.3f}",
        }
        for place, trial in enumerate(ranked, start=1)
        if place <= SHOWN or trial is first
    ]
    values, before = chosen.user_attrs["params"], first.user_attrs["params"]
    changes = [f"-S train_{model}.{key}={value}" for key, value in values.items() if value != before[key]]
    failed = sum("error" in trial.user_attrs for trial in trials)
    return (
        f"{title(model)}: {len(trials)} trials, {len(trials) - len(ranked) - failed} of them pruned, {failed} failed\n"
        f"{tabulate(rows, headers='keys', disable_numparse=True)}\n"
        + (f"chosen: dvc exp run {' '.join(changes)}" if changes else "chosen: the values of params.yaml")
    )
