"""evaluate: models, data/split -> scores and predictions in metrics/, plots of them

    test        metrics/evaluate.json, metrics/predictions.csv
    validation  metrics/validation.json, metrics/validation_predictions.csv, by which `qc check` judges a change

The one stage that scores models on the test split. The baselines are fitted on train, the temperatures on valid.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from qc.artifacts import read_column, read_json, read_table, shortened, write_csv, write_json
from qc.baselines import predict_baselines
from qc.classifiers import load_classifier
from qc.errors import QcError
from qc.metrics import (
    compare,
    confident_mistakes,
    evaluate_accuracy,
    evaluate_calibration,
    evaluate_predictions,
    fit_temperature,
    reliability_bins,
)
from qc.settings import Settings
from qc.training import pick_device, predict, seed_everything
from stages.entry import ENCODERS, INPUT_IDS, LABELS, METRICS, MODELS, PLOTS, SPLIT, TOKENIZED, run

NAMES = ("scratch", "prefix", "distilbert")
MISTAKES = 20
VALIDATION_SCORES = ("accuracy", "macro_f1", "loss", "ece")

Columns = Mapping[str, list[Any]]


def main(settings: Settings) -> None:
    """Score the three models and the baselines on the same questions."""
    seed_everything(settings.seed, settings.threads)
    train = read_table(SPLIT / "train.parquet", "text", "label").to_pydict()
    valid, test = (
        read_table(SPLIT / f"{name}.parquet", "id", "text", "label").to_pydict() for name in ("valid", "test")
    )
    classes = read_json(LABELS)["classes"]
    valid_labels, labels = (np.array(split["label"]) for split in (valid, test))

    logits = {name: list(predicted_logits(name, (valid, test), classes, settings.device)) for name in NAMES}
    temperatures = {name: fit_temperature(of_valid, valid_labels) for name, (of_valid, _) in logits.items()}
    valid_baselines, baselines = predict_baselines(train["text"], train["label"], valid["text"], test["text"])
    evaluate_valid(valid, classes, {name: softmax(found[0], axis=1) for name, found in logits.items()}, valid_baselines)

    probabilities = {name: softmax(found[1], axis=1) for name, found in logits.items()}
    scores = {
        name: {
            **evaluate_predictions(probabilities[name], labels, classes),
            "calibrated": {
                "temperature": temperatures[name],
                **evaluate_calibration(softmax(of_test / temperatures[name], axis=1), labels),
            },
        }
        for name, (_, of_test) in logits.items()
    }
    predicted = {name: table.argmax(axis=1) for name, table in probabilities.items()} | baselines
    accuracies = {name: evaluate_accuracy(found, labels) for name, found in predicted.items()}
    pairs = [*combinations(NAMES, 2), *(("tfidf_svm", name) for name in NAMES)]
    write_json(
        METRICS / "evaluate.json",
        {
            "n_test": len(labels),
            **scores,
            "baselines": {name: accuracies[name] for name in baselines},
            "comparisons": compare({name: found == labels for name, found in predicted.items()}, pairs),
        },
    )
    columns = prediction_columns(test, classes, probabilities, baselines)
    write_columns(METRICS / "predictions.csv", columns)
    write_plots(columns, labels, probabilities, {name: scores[name]["f1"] for name in NAMES})
    for name, found in accuracies.items():
        print(f"{name:<12} {found['accuracy']:.3f}  ({found['accuracy_low']:.3f} to {found['accuracy_high']:.3f})")


def predicted_logits(name: str, splits: Iterable[Columns], classes: list[str], device: str) -> Iterator[np.ndarray]:
    """A trained model's logits (N, classes) for the questions of each split."""
    classifier = load_classifier(MODELS / name, ENCODERS)
    if classifier.classes != classes:
        raise QcError(f"models/{name}: trained for {classifier.classes}, the data has {classes}; run `dvc repro`")
    place = pick_device(device)
    model = classifier.model.to(place)
    for split in splits:
        tokenized = TOKENIZED / classifier.vocabulary.tokenizer / INPUT_IDS
        input_ids = read_column(tokenized, np.array(split["id"]), "input_ids")
        questions = classifier.encode(input_ids, split["label"])
        yield predict(model, questions.to(place)).double().numpy()


def evaluate_valid(
    valid: Columns, classes: list[str], probabilities: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray]
) -> None:
    """Write scores and predictions on validation; arguments are as for `prediction_columns`."""
    labels = np.array(valid["label"])
    scores = {name: evaluate_predictions(table, labels, classes) for name, table in probabilities.items()}
    write_json(
        METRICS / "validation.json",
        {
            "n_valid": len(labels),
            **{name: {key: found[key] for key in VALIDATION_SCORES} for name, found in scores.items()},
            "baselines": {
                name: {"accuracy": evaluate_accuracy(found, labels)["accuracy"]} for name, found in baselines.items()
            },
        },
    )
    columns = prediction_columns(valid, classes, probabilities, baselines)
    write_columns(METRICS / "validation_predictions.csv", columns)


def prediction_columns(
    split: Columns, classes: list[str], probabilities: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray]
) -> dict[str, list[Any]]:
    """What a file of predictions holds, by column.

    Args:
        split: Columns id, text and label.
        classes: Class names in label order.
        probabilities: (N, classes) of each model.
        baselines: (N,) class numbers of each baseline.
    """
    names = np.array(classes)
    columns = {
        "id": split["id"],
        "text": [shortened(text) for text in split["text"]],
        "label": names[split["label"]].tolist(),
    }
    for name, table in probabilities.items():
        columns[name] = names[table.argmax(axis=1)].tolist()
        columns[f"{name}_probability"] = table.max(axis=1).tolist()
    columns["tfidf_svm"] = names[baselines["tfidf_svm"]].tolist()
    return columns


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns of one length as CSV."""
    write_csv(path, list(columns), zip(*columns.values(), strict=True))


def write_plots(
    columns: Columns, labels: np.ndarray, probabilities: Mapping[str, np.ndarray], f1: Mapping[str, Mapping[str, float]]
) -> None:
    """Write what plots show of the test split: F1 by class, the mistakes, and how reliable the confidence is.

    Args:
        columns: From `prediction_columns`.
        labels: (N,) class numbers.
        probabilities: (N, classes) of each model.
        f1: Of each class, by model.
    """
    write_csv(
        PLOTS / "f1.csv",
        ["model", "class", "f1"],
        ([name, *row] for name in NAMES for row in f1[name].items()),
        inert=True,
    )
    write_csv(
        PLOTS / "mistakes.csv",
        ["model", "id", "text", "label", "predicted", "probability"],
        (
            [name, *(columns[key][row] for key in ("id", "text", "label", name, f"{name}_probability"))]
            for name in NAMES
            for row in confident_mistakes(probabilities[name], labels, MISTAKES)
        ),
        inert=True,
    )
    write_csv(
        PLOTS / "reliability.csv",
        ["model", "questions", "confidence", "accuracy"],
        (
            [name, found.count, found.confidence, found.accuracy]
            for name in NAMES
            for found in reliability_bins(probabilities[name], labels)
        ),
    )


if __name__ == "__main__":
    run(main)
