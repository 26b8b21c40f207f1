"""Predictions of trained models on splits, and the files that hold them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qc.errors import QcError
from qc.files import truncate_text, write_csv
from qc.inference.model_folder import TrainedModel
from qc.questions.tables import QuestionTable

Columns = Mapping[str, Sequence[Any]]


def predict_splits(trained: TrainedModel, splits: Sequence[QuestionTable], device: torch.device) -> list[np.ndarray]:
    """Compute the logits (N, classes) of a trained model on each split, in the precision of its training.

    Raises:
        QcError: The model was trained for other classes.
    """
    classes = splits[0].class_names.classes
    if trained.classes != classes:
        raise QcError(f"a model was trained for {trained.classes}, the data has {classes}; run `dvc repro`")
    trained.model.to(device)
    packed = (trained.pack(split.input_ids, split.labels).to(device) for split in splits)
    return [trained.predict(questions, trained.precision).double().numpy() for questions in packed]


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
