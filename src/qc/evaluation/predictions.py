"""Predictions of trained models on splits, and the files that hold them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qc.errors import QcError
from qc.files import truncate_text, write_csv
from qc.inference.logits import predict
from qc.inference.model_folder import load_model
from qc.paths import INPUT_IDS
from qc.questions.parquet import read_column

Columns = Mapping[str, Sequence[Any]]


def predict_splits(
    folder: Path, encoders: Path, tokenized: Path, splits: Sequence[Columns], classes: list[str], device: torch.device
) -> list[np.ndarray]:
    """Compute the logits (N, classes) of a trained model on each split.

    Args:
        folder: The model folder.
        encoders: The folder that holds a folder for each pretrained encoder.
        tokenized: The folder that holds a folder of token ids for each encoder.
        splits: Columns id and label of each split.
        classes: Class names of the data.
        device: Where the model runs.

    Raises:
        QcError: The model was trained for other classes.
    """
    trained = load_model(folder, encoders)
    if trained.classes != classes:
        raise QcError(f"{folder}: trained for {trained.classes}, the data has {classes}; run `dvc repro`")
    model = trained.model.to(device)
    input_ids = tokenized / trained.vocabulary.tokenizer / INPUT_IDS
    logits = []
    for split in splits:
        questions = trained.pack(read_column(input_ids, np.array(split["id"]), "input_ids"), split["label"])
        logits.append(predict(model, questions.to(device)).double().numpy())
    return logits


def write_predictions(
    path: Path,
    split: Columns,
    classes: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    tfidf_svm: np.ndarray,
) -> dict[str, list[Any]]:
    """Write one row a question: id, text, label, and what each model and the TF-IDF baseline predict.

    Args:
        path: The CSV file.
        split: Columns id, text and label.
        classes: Class names in the order of their numbers.
        probabilities: (N, classes) of each model.
        tfidf_svm: (N,) class numbers that the baseline predicts.

    Returns:
        The columns.
    """
    names = np.array(classes)
    columns = {
        "id": split["id"],
        "text": [truncate_text(text) for text in split["text"]],
        "label": names[split["label"]].tolist(),
    }
    for name, table in probabilities.items():
        columns[name] = names[table.argmax(axis=1)].tolist()
        columns[f"{name}_probability"] = table.max(axis=1).tolist()
    columns["tfidf_svm"] = names[tfidf_svm].tolist()
    write_csv(path, list(columns), zip(*columns.values(), strict=True))
    return columns
