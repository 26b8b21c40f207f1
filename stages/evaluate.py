"""evaluate: models, data/split -> metrics/evaluate.json, metrics/predictions.csv, plots of them

The one stage that scores models on the test split. The baselines are fitted on train, the temperatures on valid.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import softmax

from qc.artifacts import read_json, read_table, write_csv, write_json
from qc.baselines import predict_baselines
from qc.batching import encode
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
from stages.entry import ENCODERS, METRICS, MODELS, PLOTS, SPLIT, TOKENIZED, run

NAMES = ("scratch", "prefix", "distilbert")
MISTAKES = 20

Columns = Mapping[str, list[Any]]


def main(settings: Settings) -> None:
    """Score the three models and the baselines on the same questions."""
    seed_everything(settings.seed, settings.threads)
    train = read_table(SPLIT / "train.parquet", "text", "label").to_pydict()
    valid, test = (
        read_table(SPLIT / f"{name}.parquet", "id", "text", "label", "input_ids").to_pydict()
        for name in ("valid", "test")
    )
    classes = read_json(TOKENIZED / "labels.json")["classes"]
    labels = np.array(test["label"])

    probabilities, scores = {}, {}
    for name in NAMES:
        of_valid, of_test = predicted_logits(name, (valid, test), classes, settings.device)
        temperature = fit_temperature(of_valid, np.array(valid["label"]))
        probabilities[name] = softmax(of_test, axis=1)
        scores[name] = {
            **evaluate_predictions(probabilities[name], labels, classes),
            "calibrated": {
                "temperature": temperature,
                **evaluate_calibration(softmax(of_test / temperature, axis=1), labels),
            },
        }
    baselines = predict_baselines(train["text"], train["label"], test["text"])
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
    write_predictions(test, labels, classes, probabilities, predicted)
    write_csv(
        PLOTS / "f1.csv",
        ["model", "class", "f1"],
        ([name, *row] for name in NAMES for row in scores[name]["f1"].items()),
    )
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
        questions = encode(
            split["input_ids"], split["label"], classifier.max_length, classifier.special_ids, pad_id=classifier.pad_id
        )
        yield predict(model, questions.to(place)).double().numpy()


def write_predictions(
    test: Columns,
    labels: np.ndarray,
    classes: list[str],
    probabilities: Mapping[str, np.ndarray],
    predicted: Mapping[str, np.ndarray],
) -> None:
    """Write metrics/predictions.csv, and what plots show of it: the mistakes, and how reliable the confidence is.

    Args:
        test: Columns id and text.
        labels: (N,) class numbers.
        classes: Class names in label order.
        probabilities: (N, classes) of each model.
        predicted: (N,) class numbers, of each model and baseline.
    """
    rows = range(len(labels))
    names = np.array(classes)
    columns = {"id": test["id"], "text": test["text"], "label": names[labels].tolist()}
    for name in NAMES:
        columns[name] = names[predicted[name]].tolist()
        columns[f"{name}_probability"] = probabilities[name].max(axis=1).tolist()
    columns["tfidf_svm"] = names[predicted["tfidf_svm"]].tolist()
    write_csv(
        METRICS / "predictions.csv", list(columns), ([column[row] for column in columns.values()] for row in rows)
    )
    write_csv(
        PLOTS / "mistakes.csv",
        ["model", "id", "text", "label", "predicted", "probability"],
        (
            [name, *(columns[key][row] for key in ("id", "text", "label", name, f"{name}_probability"))]
            for name in NAMES
            for row in confident_mistakes(probabilities[name], labels, MISTAKES)
        ),
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
