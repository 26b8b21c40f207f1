"""evaluate: models, data/split/test.parquet -> metrics/evaluate.json, metrics/predictions.csv

The one stage that opens the test split. The baselines are fitted on train.
"""

from itertools import combinations

import numpy as np

from qc.artifacts import read_json, read_table, write_csv, write_json
from qc.baselines import predict_baselines
from qc.batching import encode
from qc.classifiers import load_classifier
from qc.errors import QcError
from qc.metrics import evaluate_predictions, mcnemar_p
from qc.settings import Settings
from qc.training import pick_device, predict, seed_everything
from stages.entry import ENCODERS, METRICS, MODELS, SPLIT, TOKENIZED, run

NAMES = ("scratch", "prefix", "distilbert")


def main(settings: Settings) -> None:
    """Score the three models and the baselines on the same questions."""
    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    train = read_table(SPLIT / "train.parquet", "text", "label").to_pydict()
    test = read_table(SPLIT / "test.parquet", "id", "text", "label", "input_ids").to_pydict()
    classes = read_json(TOKENIZED / "labels.json")["classes"]
    labels = np.array(test["label"])

    probabilities = {}
    for name in NAMES:
        classifier = load_classifier(MODELS / name, ENCODERS)
        if classifier.classes != classes:
            raise QcError(f"models/{name}: trained for {classifier.classes}, the data has {classes}; run `dvc repro`")
        questions = encode(test["input_ids"], test["label"], classifier.max_length, classifier.special_ids)
        logits = predict(classifier.model.to(device), questions.to(device))
        probabilities[name] = logits.double().softmax(dim=1).numpy()
    baselines = predict_baselines(train["text"], train["label"], test["text"])

    predicted = {name: table.argmax(axis=1) for name, table in probabilities.items()}
    scores = {name: evaluate_predictions(table, labels, classes) for name, table in probabilities.items()}
    write_json(
        METRICS / "evaluate.json",
        {
            "n_test": len(labels),
            **scores,
            "baselines": {name: {"accuracy": float(np.mean(found == labels))} for name, found in baselines.items()},
            "comparisons": {
                f"{second}_vs_{first}": {
                    "mcnemar_p": mcnemar_p(predicted[second] == labels, predicted[first] == labels)
                }
                for first, second in combinations(NAMES, 2)
            },
        },
    )
    write_csv(
        METRICS / "predictions.csv",
        ["id", "text", "label", *(column for name in NAMES for column in (name, f"{name}_probability"))],
        [
            [
                test["id"][row],
                test["text"][row],
                classes[labels[row]],
                *(
                    value
                    for name in NAMES
                    for value in (classes[predicted[name][row]], float(probabilities[name][row].max()))
                ),
            ]
            for row in range(len(labels))
        ],
    )
    for name, found in scores.items():
        print(f"{name:<12} {found['accuracy']:.3f}  ({found['accuracy_low']:.3f} to {found['accuracy_high']:.3f})")
    for name, found in baselines.items():
        print(f"{name:<12} {np.mean(found == labels):.3f}")


if __name__ == "__main__":
    run(main)
