"""Cross-validation of a model on the questions of train and valid -> a table on the terminal; not a stage of the DAG.

The split has few questions for validation. Here each one of train and valid is told by a model that has not learned
from it, so that two settings can be told apart that validation cannot; the test split has no part in it.

Notable:
- a fold is trained by the stage itself, in a folder of its own where the fold stands for the split
- the last epoch is scored, not the best one: what is scored must choose nothing
- duplicates are kept in one fold, classes are spread evenly over the folds (scikit-learn's StratifiedGroupKFold)

    python -m stages.folds prefix                                 what params.yaml has
    python -m stages.folds prefix epochs=24 label_smoothing=0.1   ... and beside it the same with these values
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import yaml
from ruamel.yaml import YAML, YAMLError
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from qc.artifacts import read_table, write_table
from qc.errors import QcError
from qc.schema import NOT_A_VALUE, check
from qc.settings import Settings
from stages.entry import ENCODERS, PARAMS, PLOTS, RAW, SOURCES, STATES, TOKENIZED, run
from stages.results import MODELS, read_csv, standard_error
from stages.training import TRAIN, VALID

FOLDS = 5
LINKED = (Path("src"), Path("stages"), SOURCES, RAW, TOKENIZED, ENCODERS)  # what training reads beside its split


@dataclass(frozen=True)
class Score:
    """What a setting reaches.

    Attributes:
        questions: How many were told, each once a seed.
        accuracy: Share of them told right, mean over the seeds.
        loss: Mean cross-entropy in nats.
    """

    questions: int
    accuracy: float
    loss: float


def changed(params: Mapping[str, Any], model: str, changes: Sequence[str]) -> dict[str, Any]:
    """The content of params.yaml with values of a model's section changed.

    Args:
        params: The content of params.yaml.
        model: Its name.
        changes: Each `KEY=VALUE`, the value as in YAML.

    Raises:
        QcError: One is none such, or what comes of them is not possible.
    """
    section = f"train_{model}"
    values = dict(params[section])
    for change in changes:
        key, equals, value = change.partition("=")
        try:
            values[key] = YAML(typ="safe").load(value)
        except (YAMLError, *NOT_A_VALUE):
            equals = ""
        if not equals:
            raise QcError(f"{change!r} is not possible; allowed: KEY=VALUE, the key one of {section} in {PARAMS}")
    found = {**params, section: values}
    check(Settings, found, str(PARAMS))
    return {**found, section: {**values, "patience": values["epochs"]}}  # to the last epoch


def deal(questions: pyarrow.Table, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The row numbers to learn from, and those to be told, of each fold."""
    labels, groups = questions["label"].to_numpy(), questions["group"].to_numpy()
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if not 2 <= folds <= fewest:
        raise QcError(f"--folds {folds} is not possible; allowed: 2 to {fewest}, the questions of the rarest class")
    yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)


def train(model: str, params: Mapping[str, Any], parts: Mapping[Path, pyarrow.Table]) -> tuple[float, float]:
    """Run a training stage on other questions, in a folder that is gone afterwards.

    Args:
        model: Its name.
        params: The content of params.yaml.
        parts: The questions by the path they are to stand at, those of train and of valid.

    Returns:
        Accuracy on those of valid after the last epoch, and loss.

    Raises:
        QcError: The stage failed.
    """
    STATES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATES, prefix="folds-") as name:
        root = Path(name)
        for path in LINKED:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(path.resolve())
        for path, questions in parts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            write_table(root / path, [questions])
        (root / PARAMS).write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")
        stage = f"train_{model}"
        command = [sys.executable, "-m", f"stages.{stage}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise QcError(f"{stage} failed in a fold: {done.stderr.strip()}")
        *_, last = read_csv(root / PLOTS / f"{stage}.csv")
    return float(last["valid_accuracy"]), float(last["valid_loss"])


def cross_validate(model: str, settings: Sequence[Mapping[str, Any]], folds: int, seeds: Sequence[int]) -> list[Score]:
    """Score settings of a model on the same folds.

    Args:
        model: Its name.
        settings: Contents of params.yaml.
        folds: How many.
        seeds: What each is trained with; the first deals the folds as well.

    Returns:
        One score each.
    """
    questions = pyarrow.concat_tables([read_table(path) for path in (TRAIN, VALID)])
    dealt = list(deal(questions, folds, seeds[0]))
    right, loss = np.zeros(len(settings)), np.zeros(len(settings))
    with tqdm(total=len(dealt) * len(seeds) * len(settings), desc=model, unit="fold", disable=None) as bar:
        for seed in seeds:
            for learned, told in dealt:
                parts = {TRAIN: questions.take(learned), VALID: questions.take(told)}
                for number, params in enumerate(settings):
                    of_fold = train(model, {**params, "seed": seed}, parts)
                    right[number] += of_fold[0] * len(told)
                    loss[number] += of_fold[1] * len(told)
                    bar.update()
    total = len(questions) * len(seeds)
    return [Score(len(questions), *each) for each in zip(right / total, loss / total, strict=True)]


def main(settings: Settings) -> None:
    """Score params.yaml, and beside it what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m stages.folds")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of the model's section of params.yaml")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seeds", type=int, default=1, help="how many each fold is trained with")
    asked = parser.parse_args()
    if asked.seeds < 1:
        parser.error("--seeds is at least 1")
    params = settings.model_dump(mode="json")
    compared = {PARAMS.name: changed(params, asked.model, [])}
    if asked.changes:
        compared[" ".join(asked.changes)] = changed(params, asked.model, asked.changes)
    seeds = range(settings.seed, settings.seed + asked.seeds)
    scores = cross_validate(asked.model, list(compared.values()), asked.folds, seeds)
    print(f"| train_{asked.model} | questions | accuracy | standard error | loss |\n|---|---|---|---|---|")
    for name, score in zip(compared, scores, strict=True):
        error = standard_error(score.accuracy, score.questions)
        print(f"| {name} | {score.questions} | {score.accuracy:.4f} | {error:.4f} | {score.loss:.4f} |")


if __name__ == "__main__":
    run(main)
