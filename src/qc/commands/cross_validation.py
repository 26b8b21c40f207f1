"""Cross-validation of a model on the questions of train and validation.

Validation alone has few questions. Here each question of train and validation is predicted by a model that was not
trained on it, so that settings can be compared that validation cannot tell apart. The test split has no part in it.

Notable:
- the last epoch is scored, not the best one: the scored questions must choose nothing
- equal questions stay in one fold, classes are spread evenly over the folds (scikit-learn's StratifiedGroupKFold)
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from ruamel.yaml import YAML, YAMLError
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import Folders
from qc.schema import NOT_A_VALUE, validate
from qc.training.data import load_training_data
from qc.training.trainer import train_model

WITHOUT_EFFECT = ("select_by", "patience")  # where the last epoch is scored

Fold = tuple[np.ndarray, np.ndarray]  # row numbers to train on, and those to predict
Run = TypeVar("Run")


@dataclass(frozen=True)
class Score:
    """Score of a setting on N questions.

    Attributes:
        correct: (N,) share of the seeds with which each question is answered correctly.
        loss: Mean cross-entropy in nats.
    """

    correct: np.ndarray
    loss: float

    @property
    def accuracy(self) -> float:
        """Mean over questions and seeds."""
        return float(self.correct.mean())


def change_settings(settings: Settings, model: str, changes: Sequence[str]) -> Settings:
    """Change values of a model's section, and let it keep its last epoch.

    Args:
        settings: All of params.yaml.
        model: The model's name.
        changes: `KEY=VALUE` each, the value as in YAML.

    Raises:
        QcError: A change is malformed, has no effect, or its result is invalid.
    """
    section = f"train_{model}"
    content = settings.model_dump(mode="json")
    values: dict[str, Any] = content[section]
    changed = set()
    for change in changes:
        key, equals, value = change.partition("=")
        if key in WITHOUT_EFFECT:
            raise QcError(
                f"invalid change {change!r}: cross-validation scores the last epoch, whatever {key} is, since the "
                "scored questions must choose nothing; leave it out"
            )
        if key in changed:
            raise QcError(f"invalid change {change!r}: {key} is given twice")
        changed.add(key)
        try:
            values[key] = YAML(typ="safe").load(value)
        except (YAMLError, *NOT_A_VALUE):
            equals = ""
        if not equals:
            raise QcError(f"invalid value {change!r}; expected KEY=VALUE, the key one of {section} in params.yaml")
    values["select_by"] = "last"
    return validate(type(settings), content, "params.yaml")


def make_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[Fold]:
    """Deal questions into folds; a class with fewer groups than folds is missing in some of them.

    Args:
        labels: (N,) class numbers.
        groups: (N,) numbers of the groups of equal questions.
        folds: Number of folds.
        seed: Decides which questions are in which fold.

    Raises:
        QcError: No class has as many groups of equal questions as there are folds.
    """
    most = max(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if most < 2:
        raise QcError("train and validation have no two different questions of one class, so none can be held out")
    if not 2 <= folds <= most:
        raise QcError(
            f"--folds: invalid value {folds}; expected 2 to {most}, the different questions of the most varied class"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        dealt = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
    if any(not len(held_out) or len(np.unique(labels[train])) < 2 for train, held_out in dealt):
        raise QcError(
            f"--folds: {folds} folds leave no question to predict or only one class to train on; fewer folds or more "
            "different questions are needed"
        )
    return dealt


def predict_held_out(
    runs: Mapping[Run, tuple[str, Settings]], folders: Folders, folds: Sequence[Fold]
) -> dict[Run, np.ndarray]:
    """Predict every question of train and validation by models that were not trained on it.

    Args:
        runs: Names of models and the settings to train them with; only those of `change_settings` keep the last epoch.
        folders: Where the data is.
        folds: From `make_folds`.

    Returns:
        For each run (N, classes) logits, the questions of train first.
    """
    order = np.argsort(np.concatenate([held_out for _, held_out in folds]))
    logits = {}
    with tqdm(total=len(folds) * len(runs), desc="models trained", unit="model", disable=None) as bar:
        for run, (model, settings) in runs.items():
            predicted = []
            for train, held_out in folds:
                data = load_training_data(model, settings, folders)  # for each fold: training changes the encoder
                questions = data.train.join(data.valid)
                data = replace(data, train=questions.take(train), valid=questions.take(held_out))
                predicted.append(train_model(model, data, settings).valid_logits.double().numpy())
                bar.update()
            logits[run] = np.concatenate(predicted)[order]
    return logits


def cross_validate(
    model: str, compared: Mapping[str, Settings], folders: Folders, folds: int, seeds: Sequence[int]
) -> dict[str, Score]:
    """Score settings of a model on the same folds.

    Args:
        model: The model's name.
        compared: Settings by title.
        folders: Where the data is.
        folds: Number of folds.
        seeds: Training seeds; the first one also deals the folds.
    """
    data = load_training_data(model, next(iter(compared.values())), folders)
    questions = data.train.join(data.valid)
    dealt = make_folds(questions.labels, questions.groups, folds, seeds[0])
    runs = {
        (title, seed): (model, settings.model_copy(update={"seed": seed}))
        for title, settings in compared.items()
        for seed in seeds
    }
    logits = predict_held_out(runs, folders, dealt)
    scores = {}
    for title in compared:
        every = np.stack([logits[title, seed] for seed in seeds])  # (seeds, N, classes)
        correct = (every.argmax(axis=2) == questions.labels).mean(axis=0)
        losses = -log_softmax(every, axis=2)[:, np.arange(len(questions)), questions.labels]
        scores[title] = Score(correct, float(losses.mean()))
    return scores
