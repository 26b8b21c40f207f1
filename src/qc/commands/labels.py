"""Name the labels of train and validation that look wrong, and write them to reports/labels.csv.

    qc labels                             judged by the fine-tuned encoder and a linear model, trained five times each
    qc labels --models prefix distilbert  by these models and the linear one

Every question is predicted by models that were not trained on it, and confident learning (Northcutt et al., JAIR 2021;
the library cleanlab) decides how many labels the predictions contradict, and which. The data is that of the last
`dvc repro split`; the test split has no part in it. To correct labels, name a table of texts and right labels, such as
data/own/corrections.csv, under fetch.corrections in params.yaml.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from qc.commands.cross_validation import Fold, change_settings, make_folds, predict_held_out, read_train_and_valid
from qc.errors import QcError, printable
from qc.evaluation.baselines import tfidf
from qc.files import file_sha256, truncate_text, write_csv, write_json
from qc.models.registry import MODELS
from qc.paths import SPLIT, SUSPECTS, SUSPECTS_SUMMARY, Folders
from qc.questions.tables import TRAIN, VALID
from qc.stage import load_settings

FOLDS = 5
JUDGE = "distilbert"
LINEAR = "tfidf"  # logistic regression; it takes part beside any models, since its mistakes are others than theirs
INVERSE_PENALTY = 30.0  # of the logistic regression
COLUMNS = ("id", "text", "label", "suggested", "confidence", "agreeing")
SHOWN = 10  # suspicious labels that the terminal shows


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[JUDGE], help=f"default: {JUDGE}")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"number of folds; default: {FOLDS}")


def run(arguments: Namespace) -> int:
    """Judge the labels and write the two files; the exit status."""
    settings = load_settings()
    models = list(dict.fromkeys(arguments.models))
    table = read_train_and_valid(models[0], settings, Folders())
    questions, classes, labels = table.columns.to_pydict(), table.class_names.classes, table.labels
    folds = make_folds(labels, table.groups, arguments.folds, settings.seed)
    logits = predict_held_out([(model, change_settings(settings, model, [])) for model in models], Folders(), folds)
    predicted = {model: softmax(array, axis=1) for model, array in zip(models, logits, strict=True)}
    predicted[LINEAR] = predict_linear(table.texts, labels, folds)

    rows = [
        (questions["id"][row], truncate_text(questions["text"][row]), classes[labels[row]], classes[suggested], *others)
        for row, suggested, *others in find_suspects(labels, predicted)
    ]
    confusions = Counter((label, suggested) for _, _, label, suggested, *_ in rows)
    duplicates = conflicting(questions, classes)
    folder = SPLIT / settings.training()[models[0]].tokenizer_name
    write_csv(SUSPECTS, COLUMNS, rows, inert=True)
    write_json(
        SUSPECTS_SUMMARY,
        {
            "split": {f"{folder.name}/{path.stem}": file_sha256(path) for path in (folder / TRAIN, folder / VALID)},
            "questions": len(labels),
            "models": list(predicted),
            "folds": arguments.folds,
            "suspects": len(rows),
            "confusions": [
                {"label": label, "suggested": suggested, "questions": number}
                for (label, suggested), number in sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
            ],
            "conflicting_duplicates": duplicates,
        },
    )
    for _, text, label, suggested, confidence, _ in rows[:SHOWN]:
        print(f"{printable(label)} -> {printable(suggested)} ({confidence:.2f}): {printable(text[:80])}")
    print(
        f"{SUSPECTS}: {len(rows)} of {len(labels)} labels look wrong; {len(duplicates)} questions occur with different "
        "labels"
    )
    return 0


def predict_linear(texts: Sequence[str], labels: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """Predict every question by a linear model that was not trained on it: probabilities (N, classes)."""
    linear = make_pipeline(tfidf(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    return cross_val_predict(linear, texts, labels, cv=folds, method="predict_proba")


def find_suspects(labels: np.ndarray, predicted: Mapping[str, np.ndarray]) -> list[tuple[int, int, float, str]]:
    """Find labels (N,) that the models' mean probabilities (N, classes) contradict, the most suspicious first.

    Returns row number, suggested class number, its probability, and the names of the models that suggest it too.

    Raises:
        QcError: The models are correct less often than the largest class would be.
    """
    mean = np.mean(list(predicted.values()), axis=0)
    suggested = mean.argmax(axis=1)
    accuracy, largest = np.mean(suggested == labels), np.bincount(labels).max() / len(labels)
    if accuracy < largest:
        raise QcError(
            f"the models cannot judge these labels: on questions that they have not seen, their accuracy is "
            f"{accuracy:.3f}, that of the largest class {largest:.3f}; more, and more different, questions are needed"
        )
    ranked = find_label_issues(
        labels, mean, filter_by="low_self_confidence", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    answers = {name: probabilities.argmax(axis=1) for name, probabilities in predicted.items()}
    return [
        (
            int(row),
            int(suggested[row]),
            float(mean[row, suggested[row]]),
            " ".join(name for name, answer in answers.items() if answer[row] == suggested[row]),
        )
        for row in ranked
        if suggested[row] != labels[row]
    ]


def conflicting(questions: Mapping[str, Sequence[Any]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """List the questions that occur with different labels, equal up to case, spaces, Unicode form or token ids."""
    groups: dict[int, dict[str, Any]] = {}
    for number, text, label in zip(questions["group"], questions["text"], questions["label"], strict=True):
        group = groups.setdefault(number, {"text": text, "labels": {}})
        group["labels"][classes[label]] = group["labels"].get(classes[label], 0) + 1
    return [group for group in groups.values() if len(group["labels"]) > 1]
