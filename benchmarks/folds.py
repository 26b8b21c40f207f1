"""Accuracy of `transformers.Trainer` by cross-validation, on the folds of `qc cross-validate`.

Validation has 200 questions, too few to tell it from ours. Run after `dvc repro split`; about 8 minutes. It prints the
row that docs/performance.md has.

    python -m benchmarks.folds bf16
"""

import sys

import torch
from tqdm import tqdm

from benchmarks import instead
from qc.commands.cross_validate import FOLDS
from qc.commands.cross_validation import make_folds
from qc.config.settings import Settings
from qc.evaluation.tables import markdown, standard_error
from qc.paths import ENCODERS, LABELS, Folders
from qc.questions.labels import Labels
from qc.runtime.device import pick_device
from qc.stage import run
from qc.training.data import load_training_data


def trainer_accuracy(settings: Settings, bf16: bool) -> tuple[int, float]:
    """Number of questions of train and validation, and the share that Trainer has right when it has not seen them."""
    section, data = settings.train_distilbert, load_training_data("distilbert", settings, Folders())
    folder, classes = ENCODERS / section.encoder, len(Labels.read(LABELS).classes)
    questions, right = data.train.join(data.valid), 0.0
    for fold in tqdm(make_folds(questions.labels, questions.groups, FOLDS, settings.seed), unit="fold", disable=None):
        train, held_out = (instead.rows_of(instead.pack_split(data, questions.take(rows), settings)) for rows in fold)
        torch.manual_seed(settings.seed)
        model = instead.FineTuned(folder, section.trainable_layers, section.head_hidden_size, section.dropout, classes)
        instead.trainer(model, train, section, folder, settings.seed, bf16, pick_device(settings.device))
        right += instead.accuracy(model, held_out, max(len(ids) for ids, _ in held_out)) * len(held_out)
    return len(questions), right / len(questions)


def main(settings: Settings) -> None:
    """Train on each fold's rest, print the accuracy."""
    torch.set_num_threads(settings.threads)
    count, accuracy = trainer_accuracy(settings, sys.argv[1] == "bf16")
    row = [f"`Trainer`, {sys.argv[1]}", count, f"{accuracy:.4f}", f"{standard_error(accuracy, count):.4f}"]
    print(markdown(["train_distilbert", "questions", "accuracy", "standard error"], [row]))


if __name__ == "__main__":
    if sys.argv[1:] not in (["fp32"], ["bf16"]):
        sys.exit("usage: python -m benchmarks.folds fp32|bf16")
    run(main)
