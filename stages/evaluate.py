"""evaluate: score the models and the baselines on validation and test.

Reads models/, data/split, data/tokenized, data/encoders. Writes, for test, the scores people compare to
metrics/evaluate.json and, a file each for `dvc metrics show`, to metrics/test_NAME.json; all scores to
reports/test.json; metrics/predictions.csv and the figures' tables in plots/. For validation, by which `qc check` judges
a change: reports/validation.json and metrics/validation_predictions.csv. The model cards: reports/cards/NAME.md.

This is the only stage that scores models on the test split. The baselines are fitted on train, the temperatures on
validation.
"""

from qc.config.settings import Settings
from qc.paths import CARDS, ENCODERS, FILES, LABELS, METRICS, MODELS, PLOTS, REPORTS, TEST, TOKENIZED, TRAIN, VALID
from qc.stage import run


def main(settings: Settings) -> None:
    """Predict, score, and write scores, predictions, figures' tables and model cards."""
    import numpy as np
    from scipy.special import softmax

    from qc.evaluation.baselines import predict_baselines
    from qc.evaluation.cards import write_cards
    from qc.evaluation.figure_tables import write_coverage, write_figure_tables
    from qc.evaluation.predictions import predict_splits, write_predictions
    from qc.evaluation.scores import fit_temperatures, score_test, score_validation, select_compared
    from qc.evaluation.tables import accuracy_lines
    from qc.files import write_json
    from qc.models import registry
    from qc.questions.labels import Labels
    from qc.questions.parquet import read_table
    from qc.runtime.device import pick_device, seed_everything

    seed_everything(settings.seed, settings.threads)
    classes = Labels.read(LABELS).classes
    train = read_table(TRAIN, "text", "label").to_pydict()
    valid, test = (read_table(path, "id", "text", "label").to_pydict() for path in (VALID, TEST))
    valid_labels, labels = np.array(valid["label"]), np.array(test["label"])
    device = pick_device(settings.device)
    logits = {
        name: predict_splits(MODELS / name, ENCODERS, TOKENIZED, (valid, test), classes, device)
        for name in registry.MODELS
    }
    valid_logits, test_logits = ({name: both[split] for name, both in logits.items()} for split in (0, 1))
    valid_baselines, baselines = predict_baselines(
        train["text"], train["label"], valid["text"], test["text"], class_weights=settings.class_weights
    )

    write_json(REPORTS / "validation.json", score_validation(valid_logits, valid_labels, classes, valid_baselines))
    probabilities = {name: softmax(each, axis=1) for name, each in valid_logits.items()}
    path = METRICS / "validation_predictions.csv"
    write_predictions(path, valid, classes, probabilities, valid_baselines["tfidf_svm"])

    temperatures = fit_temperatures(valid_logits, valid_labels)
    calibrated = {name: softmax(each / temperatures[name], axis=1) for name, each in valid_logits.items()}
    write_coverage(PLOTS, valid_labels, calibrated)

    scores = score_test(test_logits, labels, classes, baselines, temperatures)
    write_json(REPORTS / "test.json", scores)
    compared = select_compared(scores, logits)
    write_json(METRICS / "evaluate.json", {"n_test": len(labels), **compared})
    for name, found in {**{name: compared[name] for name in logits}, **compared["baselines"]}.items():
        write_json(METRICS / f"test_{name}.json", found)
    probabilities = {name: softmax(each, axis=1) for name, each in test_logits.items()}
    path = METRICS / "predictions.csv"
    columns = write_predictions(path, test, classes, probabilities, baselines["tfidf_svm"])
    write_figure_tables(PLOTS, columns, labels, probabilities, scores)
    write_cards(CARDS, MODELS, REPORTS, ENCODERS, FILES, (TRAIN, VALID), scores, settings)
    print(accuracy_lines(scores))


if __name__ == "__main__":
    run(main)
