"""Accuracy of `transformers.Trainer` by cross-validation, on the folds of `qc cross-validate`.

Validation has 200 questions, too few to tell it from ours. Run after `dvc repro split`; about 8 minutes. It prints the
row that docs/performance.md has.

    python -m benchmarks.folds bf16
"""

import sys

import torch
from tqdm import tqdm

from benchmarks import instead, ours
from qc.commands.cross_validate import FOLDS
from qc.commands.cross_validation import make_folds
from qc.commands.tables import standard_error
from qc.config.settings import Settings
from qc.evaluation.tables import markdown
from qc.stage import run


def main(settings: Settings) -> None:
    """Train on each fold's rest; print the accuracy of Trainer on the questions that were held out."""
    torch.set_num_threads(settings.threads)
    section, data = settings.train_distilbert, ours.load("distilbert", settings)
    questions, correct = data.train.join(data.valid), 0.0
    for fold in tqdm(make_folds(questions.labels, questions.groups, FOLDS, settings.seed), unit="fold", disable=None):
        train, held_out = (instead.rows_of(questions.take(rows)) for rows in fold)
        model = instead.build("distilbert", settings, data)
        instead.trainer(model, train, section, settings, bf16=sys.argv[1] == "bf16")
        correct += instead.accuracy(model, held_out, max(len(ids) for ids, _ in held_out)) * len(held_out)
    count, accuracy = len(questions), correct / len(questions)
    row = [f"`Trainer`, {sys.argv[1]}", count, f"{accuracy:.4f}", f"{standard_error(accuracy, count):.4f}"]
    print(markdown(["train_distilbert", "questions", "accuracy", "standard error"], [row]))


if __name__ == "__main__":
    if sys.argv[1:] not in (["fp32"], ["bf16"]):
        sys.exit("usage: python -m benchmarks.folds fp32|bf16")
    run(main)
