"""Cross-validation of models on the questions of train and validation.

Validation alone has few questions. Here each question of train and validation is predicted by a model that was not
trained on it, so that settings can be compared that validation cannot tell apart. The test split has no part in it.

Notable:
- the last epoch is scored, not the best one: the scored questions must choose nothing
- equal questions stay in one fold, classes are spread evenly over the folds (scikit-learn's StratifiedGroupKFold)
"""

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ruamel.yaml import YAML, YAMLError
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import Folders
from qc.questions.tables import TRAIN, VALID, QuestionTable
from qc.schema import NOT_A_VALUE, validate
from qc.training.data import load_training_data
from qc.training.trainer import train_model

WITHOUT_EFFECT = ("select_by", "patience")  # where the last epoch is scored

Fold = tuple[np.ndarray, np.ndarray]  # row numbers to train on, and those to predict


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
    """Change values of a model's section by `KEY=VALUE`, the value as in YAML, and let it keep its last epoch.

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
    return validate(type(settings), content, f"invalid change {' '.join(changes)!r}")


def make_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[Fold]:
    """Deal questions into folds by their class numbers (N,) and the numbers (N,) of their groups of equal questions.

    A class with fewer groups than folds is missing in some of them. The seed decides which questions are in which fold.

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


def predict_held_out(runs: Sequence[tuple[str, Settings]], folders: Folders, folds: Sequence[Fold]) -> list[np.ndarray]:
    """Predict every question of train and validation by models that were not trained on it.

    Takes names of models and the settings to train them with; only those of `change_settings` keep the last epoch.
    Returns (N, classes) logits of each run, the questions of train first.
    """
    order = np.argsort(np.concatenate([held_out for _, held_out in folds]))
    logits = []
    with tqdm(total=len(folds) * len(runs), unit="model", disable=None) as bar:
        for model, settings in runs:
            data = load_training_data(model, settings, folders)
            questions = data.train.join(data.valid)
            predicted = []
            for number, (train, held_out) in enumerate(folds, start=1):
                step = f"{model}, fold {number} of {len(folds)}"
                bar.set_description(step)
                if bar.disable:  # no terminal
                    models = f"{len(logits) * len(folds) + number} of {bar.total} models"
                    print(f"{step} ({models})", file=sys.stderr, flush=True)
                fold = replace(
                    data,
                    train=questions.take(train),
                    valid=questions.take(held_out),
                    encoder=copy.deepcopy(data.encoder),  # training changes it
                )
                predicted.append(train_model(model, fold, settings).valid_logits.double().numpy())
                bar.update()
            logits.append(np.concatenate(predicted)[order])
    return logits


def read_train_and_valid(model: str, settings: Settings, folders: Folders) -> QuestionTable:
    """Read the questions of train and validation, in this order, as a model reads them."""
    folder = folders.split / settings.training()[model].tokenizer_name
    train, valid = (QuestionTable.read(folder / file, "id", "text", "label", "group") for file in (TRAIN, VALID))
    return train.join(valid)


def cross_validate(
    model: str, compared: Mapping[str, Settings], folders: Folders, folds: int, seeds: Sequence[int]
) -> dict[str, Score]:
    """Score settings of a model, by title, on the same folds; the first of the training seeds also deals the folds."""
    questions = read_train_and_valid(model, next(iter(compared.values())), folders)
    dealt = make_folds(questions.labels, questions.groups, folds, seeds[0])
    runs = [(model, changed.model_copy(update={"seed": seed})) for changed in compared.values() for seed in seeds]
    logits = np.stack(predict_held_out(runs, folders, dealt))
    by_title = logits.reshape(len(compared), len(seeds), *logits.shape[1:])
    scores = {}
    for title, of_seeds in zip(compared, by_title, strict=True):  # (seeds, N, classes)
        correct = (of_seeds.argmax(axis=2) == questions.labels).mean(axis=0)
        losses = -log_softmax(of_seeds, axis=2)[:, np.arange(len(questions)), questions.labels]
        scores[title] = Score(correct, float(losses.mean()))
    return scores
