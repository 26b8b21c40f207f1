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
from typing import Any

import numpy as np
from ruamel.yaml import YAML, YAMLError
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from qc.config.schema import NOT_A_VALUE, validate
from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import Folders
from qc.questions.tables import QuestionTable
from qc.training.data import TrainingData, load_training_data
from qc.training.trainer import train_model

Fold = tuple[np.ndarray, np.ndarray]  # row numbers to train on, and those to predict


@dataclass(frozen=True)
class Score:
    """Score of a setting.

    Attributes:
        questions: Number of questions, each predicted once a seed.
        accuracy: Mean over the seeds.
        loss: Mean cross-entropy in nats.
    """

    questions: int
    accuracy: float
    loss: float


def change_settings(settings: Settings, model: str, changes: Sequence[str]) -> Settings:
    """Change values of a model's section, and let it keep its last epoch.

    Args:
        settings: All of params.yaml.
        model: The model's name.
        changes: `KEY=VALUE` each, the value as in YAML.

    Raises:
        QcError: A change is malformed, or its result is invalid.
    """
    section = f"train_{model}"
    content = settings.model_dump(mode="json")
    values: dict[str, Any] = content[section]
    for change in changes:
        key, equals, value = change.partition("=")
        try:
            values[key] = YAML(typ="safe").load(value)
        except (YAMLError, *NOT_A_VALUE):
            equals = ""
        if not equals:
            raise QcError(f"invalid value {change!r}; expected KEY=VALUE, the key one of {section} in params.yaml")
    validate(type(settings), content, "params.yaml")
    return validate(type(settings), {**content, section: {**values, "select_by": "last"}}, "params.yaml")


def make_folds(questions: QuestionTable, folds: int, seed: int) -> list[Fold]:
    """Deal the questions into folds: the row numbers to train on, and those to predict.

    Raises:
        QcError: A class has fewer groups of equal questions than there are folds.
    """
    labels, groups = questions.labels, questions.groups
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if not 2 <= folds <= fewest:
        raise QcError(f"--folds: invalid value {folds}; expected 2 to {fewest}, the questions of the rarest class")
    return deal(labels, groups, folds, seed)


def deal(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[Fold]:
    """Deal as `make_folds` does; a class with fewer questions than folds is not in every fold.

    Args:
        labels: (N,) class numbers.
        groups: (N,) numbers of the groups of equal questions.
        folds: Number of folds; no more than the largest class has questions.
        seed: Decides which questions are in which fold.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(labels, labels, groups))


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
    totals = {title: np.zeros(2) for title in compared}
    data = load_training_data(model, next(iter(compared.values())), folders)
    dealt = make_folds(data.train.join(data.valid), folds, seeds[0])
    count = len(data.train) + len(data.valid)
    with tqdm(total=len(dealt) * len(seeds) * len(compared), desc=model, unit="fold", disable=None) as bar:
        for seed in seeds:
            for fold in dealt:
                for title, settings in compared.items():
                    data = load_fold(model, settings, folders, *fold)
                    found = train_model(model, data, settings.model_copy(update={"seed": seed})).figures["valid"]
                    totals[title] += np.array([found["accuracy"], found["loss"]]) * len(data.valid)
                    bar.update()
    return {title: Score(count, *(total / (count * len(seeds)))) for title, total in totals.items()}


def predict_held_out(
    models: Sequence[str], settings: Settings, folders: Folders, folds: Sequence[Fold]
) -> dict[str, np.ndarray]:
    """Predict every question of train and validation by models that were not trained on it.

    Args:
        models: Names of the models.
        settings: All of params.yaml.
        folders: Where the data is.
        folds: From `deal`.

    Returns:
        For each model (N, classes) probabilities, the questions of train first.
    """
    found = {}
    with tqdm(total=len(folds) * len(models), desc="models trained", unit="model", disable=None) as bar:
        for model in models:
            changed, predicted = change_settings(settings, model, []), []
            for train, held_out in folds:
                trained = train_model(model, load_fold(model, changed, folders, train, held_out), changed)
                predicted.append(softmax(trained.valid_logits.double().numpy(), axis=1))
                bar.update()
            order = np.argsort(np.concatenate([held_out for _, held_out in folds]))
            found[model] = np.concatenate(predicted)[order]
    return found


def load_fold(
    model: str, settings: Settings, folders: Folders, train: np.ndarray, held_out: np.ndarray
) -> TrainingData:
    """Read the data of a model, with these rows of train and validation as its two splits.

    It is read anew for each fold: training changes the encoder.
    """
    data = load_training_data(model, settings, folders)
    questions = data.train.join(data.valid)
    return replace(data, train=questions.take(train), valid=questions.take(held_out))
