"""evaluate: score the models and the baselines on validation and test.

Reads models/, data/split, data/encoders, reports/train_NAME.json and data/raw/files.json. Writes, for test, the scores
people compare to metrics/test_NAME.json, a file each for `dvc metrics show`; all scores to reports/test.json;
metrics/predictions.csv and the figures' tables in plots/. For validation, by which `qc check` judges a change:
reports/validation.json and metrics/validation_predictions.csv. The model cards: reports/cards/NAME.md.

This is the only stage that scores models on the test split. The baselines are fitted on train. Models predict in the
precision that they were trained in, so validation scores are those of training.
"""

from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import CARDS, ENCODERS, FILES, METRICS, MODELS, PLOTS, REPORTS, SPLIT
from qc.stage import run


def main(settings: Settings) -> None:
    """Predict, score, and write scores, predictions, figures' tables and model cards."""
    from scipy.special import softmax

    from qc.evaluation.baselines import predict_baselines
    from qc.evaluation.cards import write_cards
    from qc.evaluation.predictions import write_coverage, write_figure_tables, write_predictions
    from qc.evaluation.scores import score_test, score_validation, select_compared
    from qc.evaluation.tables import accuracy_lines
    from qc.files import write_json
    from qc.inference.model_folder import load_model
    from qc.questions.tables import TEST, TRAIN, VALID, QuestionTable
    from qc.runtime.device import pick_device, seed_everything

    seed_everything(settings.seed, settings.threads)
    device = pick_device(settings.device)
    folders = {name: SPLIT / config.tokenizer_name for name, config in settings.training().items()}
    # Every folder holds the same questions, each with the token ids of its tokenizer.
    train, valid, test = (
        QuestionTable.read(next(iter(folders.values())) / file, "id", "text", "label") for file in (TRAIN, VALID, TEST)
    )
    classes = valid.class_names.classes
    temperatures, valid_logits, test_logits = {}, {}, {}
    for name, folder in folders.items():
        trained = load_model(MODELS / name, ENCODERS)
        if trained.classes != classes:
            raise QcError(f"{MODELS / name}: trained for {trained.classes}, the data has {classes}; run `dvc repro`")
        trained.model.to(device)
        temperatures[name] = trained.temperature
        splits = (QuestionTable.read(folder / file, "label", "input_ids") for file in (VALID, TEST))
        valid_logits[name], test_logits[name] = (
            trained.predict(trained.pack(split.input_ids, split.labels).to(device), trained.precision).double().numpy()
            for split in splits
        )
    valid_baselines, baselines = predict_baselines(
        train.texts, train.labels, valid.texts, test.texts, class_weights=settings.class_weights
    )

    write_json(REPORTS / "validation.json", score_validation(valid_logits, valid.labels, classes, valid_baselines))
    probabilities = {name: softmax(logits, axis=1) for name, logits in valid_logits.items()}
    path = METRICS / "validation_predictions.csv"
    write_predictions(path, valid.columns.to_pydict(), classes, probabilities, valid_baselines["tfidf_svm"])
    write_coverage(PLOTS, valid.labels, valid_logits, temperatures)

    scores = score_test(test_logits, test.labels, classes, baselines, temperatures)
    write_json(REPORTS / "test.json", scores)
    for name, compared in select_compared(scores, [*test_logits, *baselines]).items():
        write_json(METRICS / f"test_{name}.json", compared)
    probabilities = {name: softmax(logits, axis=1) for name, logits in test_logits.items()}
    path = METRICS / "predictions.csv"
    columns = write_predictions(path, test.columns.to_pydict(), classes, probabilities, baselines["tfidf_svm"])
    write_figure_tables(PLOTS, columns, test.labels, probabilities, scores)
    splits = {name: {folder / TRAIN: len(train), folder / VALID: len(valid)} for name, folder in folders.items()}
    write_cards(CARDS, MODELS, REPORTS, ENCODERS, FILES, splits, scores, settings)
    print(accuracy_lines(scores))


if __name__ == "__main__":
    run(main)
