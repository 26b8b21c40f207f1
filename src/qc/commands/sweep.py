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
import json
import sqlite3
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import mean
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
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
        "learning_rate": (1e-4, 1e-3),
        "layers": [1, 2],
        "hidden_size": [128, 256],
        "norm": ["post", "pre"],
        "dropout": [0.1, 0.2, 0.3, 0.4],
        "min_count": [1, 2, 3],
    },
    "prefix": {
        "prefix_length": [5, 10, 20],
        "learning_rate": (3e-3, 3e-2),
        "head_learning_rate": (1e-3, 1e-2),
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


@dataclass(frozen=True)
class Trial:
    """Values by key, and the validation accuracy and loss of each seed; fewer seeds where it was pruned."""

    params: Mapping[str, Any]
    accuracies: Sequence[float]
    losses: Sequence[float]


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings, names, questions = load_settings(), {}, 0
    for model in SPACES:  # all, before any training: the key names the code that is loaded by then
        data = load_training_data(model, settings, Folders())
        key = json.dumps([SPACES[model], run_key(model, data, settings, pick_device(settings.device))], sort_keys=True)
        names[model] = f"{model}, {arguments.seeds} seeds, {hashlib.sha256(key.encode()).hexdigest()}"
        questions = len(data.valid)
    for model in arguments.models or SPACES:
        try:
            trials = search(open_study(names[model]), model, settings, arguments.trials, arguments.seeds)
        except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ or error
            raise QcError(
                f"{STORAGE}: {getattr(cause, 'orig', cause)}; make room if the disk is full; if the file is damaged, "
                "remove it, and the search begins again"
            ) from None
        print(f"\n{report(model, trials, questions)}\n", flush=True)
    return 0


def open_study(name: str) -> optuna.Study:
    """Open or create a study; its file keeps whole transactions alone, whatever is killed when.

    Raises:
        sqlite3.Error: The file is damaged, or cannot be written.
    """
    STORAGE.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(STORAGE)) as database:
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("database disk image is malformed")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
    return optuna.create_study(
        study_name=name, storage=f"sqlite:///{STORAGE}", direction="maximize", load_if_exists=True, pruner=pruner
    )


def search(study: optuna.Study, model: str, settings: Settings, trials: int, seeds: int) -> list[Trial]:
    """Bring the trials of a model to a number; return all of them, the first with the values of params.yaml.

    Raises:
        QcError: The model cannot be trained with these values.
    """
    config, content = settings.training()[model], settings.model_dump(mode="json")
    defaults = {key: getattr(config, key) for key in SPACES[model]}
    if defaults.get("head_learning_rate", 0) is None:  # null in params.yaml: that of the rest
        defaults["head_learning_rate"] = config.learning_rate
    # A seed that depends on the trials so far: the same seed would propose the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))
    done = len(study.get_trials(states=DONE))
    for number in range(done, trials):
        if number == 0:
            study.enqueue_trial(defaults)
        trial = study.ask()
        params = {key: propose(trial, key, options, defaults[key]) for key, options in SPACES[model].items()}
        accuracies: list[float] = []
        losses: list[float] = []
        try:
            changed = validate(
                Settings, {**content, f"train_{model}": content[f"train_{model}"] | params}, "params.yaml"
            )
            for seed in range(settings.seed, settings.seed + seeds):
                data = load_training_data(model, changed, Folders())  # again: training changes the encoder
                scores = train_model(model, data, changed.model_copy(update={"seed": seed})).figures["valid"]
                accuracies.append(scores["accuracy"])
                losses.append(scores["loss"])
                trial.report(mean(accuracies), len(accuracies))
                if trial.should_prune():
                    break
        except QcError as error:
            if number == 0:
                raise
            study.tell(trial, state=TrialState.FAIL)
            print(f"{model}, trial {number + 1} of {trials} failed: {error}: {params}", flush=True)
            continue
        for key, value in {"params": params, "accuracies": accuracies, "losses": losses}.items():
            trial.set_user_attr(key, value)
        whole = len(accuracies) == seeds
        study.tell(trial, mean(accuracies) if whole else None, TrialState.COMPLETE if whole else TrialState.PRUNED)
        each = " ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        print(f"{model}, trial {number + 1} of {trials}: accuracy {each}: {params}", flush=True)
    found = study.get_trials(states=DONE)
    return [Trial(*(trial.user_attrs[key] for key in ("params", "accuracies", "losses"))) for trial in found]


def propose(trial: optuna.Trial, name: str, options: Sequence[Any], default: Any) -> Any:
    """Let Optuna propose a value of a list or range, which is widened by the value of params.yaml."""
    if isinstance(options, list):
        return trial.suggest_categorical(name, options if default in options else [*options, default])
    value = trial.suggest_float(name, min(*options, default), max(*options, default), log=True)
    return default if value == default else float(f"{value:.2g}")


def rank(trials: Sequence[Trial]) -> list[Trial]:
    """Sort the trials that were not pruned by mean validation accuracy, ties by mean validation loss."""
    whole = [trial for trial in trials if len(trial.accuracies) == len(trials[0].accuracies)]
    return sorted(whole, key=lambda trial: (-mean(trial.accuracies), mean(trial.losses)))


def choose(trials: Sequence[Trial], questions: int) -> Trial:
    """Choose by the one-standard-error rule (Breiman et al., CART, 1984, section 3.4.3).

    The first, with the values of params.yaml, stays while it is within one standard error of the best; otherwise the
    best is chosen. The error is that of a share of so many questions, which more seeds do not make smaller.
    """
    best = rank(trials)[0]
    least = mean(best.accuracies) - standard_error(mean(best.accuracies), questions)
    return trials[0] if mean(trials[0].accuracies) >= least else best


def report(model: str, trials: Sequence[Trial], questions: int) -> str:
    """Make the table of the best trials, and say how to run the chosen one."""
    ranked, chosen, first = rank(trials), choose(trials, questions), trials[0]
    rows = [
        {
            "": f"{place}.{' params.yaml' if trial is first else ''}",
            **trial.params,
            "accuracy": f"{mean(trial.accuracies):.3f}",
            "of each seed": " ".join(f"{accuracy:.3f}" for accuracy in trial.accuracies),
            "loss": f"{mean(trial.losses):.3f}",
        }
        for place, trial in enumerate(ranked, start=1)
        if place <= SHOWN or trial is first
    ]
    changes = [f"-S train_{model}.{key}={value}" for key, value in chosen.params.items() if value != first.params[key]]
    return (
        f"{title(model)}: {len(trials)} trials, {len(trials) - len(ranked)} of them pruned\n"
        f"{tabulate(rows, headers='keys', disable_numparse=True)}\n"
        + (f"chosen: dvc exp run {' '.join(changes)}" if changes else "chosen: the values of params.yaml")
    )
