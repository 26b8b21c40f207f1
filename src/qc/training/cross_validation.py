"""Cross-validation of a model on the questions of train and validation.

Validation alone has few questions. Here each question of train and validation is predicted by a model that was not
trained on it, so that settings can be compared that validation cannot tell apart. The test split has no part in it.

Notable:
- the last epoch is scored, not the best one: the scored questions must choose nothing
- equal questions stay in one fold, classes are spread evenly over the folds (scikit-learn's StratifiedGroupKFold)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ruamel.yaml import YAML, YAMLError
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from qc.config.schema import NOT_A_VALUE, validate
from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import Folders
from qc.training.data import TokenizedSplit, load_training_data
from qc.training.trainer import train_model


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
    """Change values of a model's section, and let it train to its last epoch.

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
    return validate(type(settings), {**content, section: {**values, "patience": values["epochs"]}}, "params.yaml")


def make_folds(questions: TokenizedSplit, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Deal the questions into folds: the row numbers to train on, and those to predict.

    Raises:
        QcError: A class has fewer groups of equal questions than there are folds.
    """
    labels, groups = questions.labels, questions.groups
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if not 2 <= folds <= fewest:
        raise QcError(f"--folds: invalid value {folds}; expected 2 to {fewest}, the questions of the rarest class")
    yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)


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
    dealt = list(make_folds(data.train.join(data.valid), folds, seeds[0]))
    count = len(data.train) + len(data.valid)
    with tqdm(total=len(dealt) * len(seeds) * len(compared), desc=model, unit="fold", disable=None) as bar:
        for seed in seeds:
            for train, held_out in dealt:
                for title, settings in compared.items():
                    data = load_training_data(model, settings, folders)  # anew: training changes the encoder
                    questions = data.train.join(data.valid)
                    fold = replace(data, train=questions.take(train), valid=questions.take(held_out))
                    last = train_model(model, fold, settings.model_copy(update={"seed": seed})).curve[-1]
                    totals[title] += np.array([last.valid_accuracy, last.valid_loss]) * len(held_out)
                    bar.update()
    return {title: Score(count, *(total / (count * len(seeds)))) for title, total in totals.items()}
