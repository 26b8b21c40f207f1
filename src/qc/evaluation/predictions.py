"""Files of predictions, one row a question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qc.files import truncate_text, write_csv


def write_predictions(
    path: Path,
    split: Mapping[str, Sequence[Any]],
    classes: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    tfidf_svm: np.ndarray,
) -> dict[str, list[Any]]:
    """Write id, text and label of each question, and what each model and the TF-IDF baseline predict.

    Args:
        path: The CSV file.
        split: Columns id, text and label.
        classes: Class names in the order of their numbers.
        probabilities: (N, classes) of each model.
        tfidf_svm: (N,) class numbers that the baseline predicts.

    Returns:
        The columns.
    """
    columns = {
        "id": list(split["id"]),
        "text": [truncate_text(text) for text in split["text"]],
        "label": [classes[number] for number in split["label"]],
    }
    for name, table in probabilities.items():
        columns[name] = [classes[number] for number in table.argmax(axis=1)]
        columns[f"{name}_probability"] = table.max(axis=1).tolist()
    columns["tfidf_svm"] = [classes[number] for number in tfidf_svm]
    write_csv(path, list(columns), zip(*columns.values(), strict=True))
    return columns
