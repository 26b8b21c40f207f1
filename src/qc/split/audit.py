"""The data audit: figures on the splits, and the search for leaks.

The leak audit scores trivial baselines, such as the class most often seen with the first token. Where one of them does
well, the accuracy of a model says little about the model.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from qc.questions.labels import UNKNOWN
from qc.split.groups import GroupedQuestions
from qc.split.splits import most_frequent

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
RULES: dict[str, Callable[[GroupedQuestions], np.ndarray]] = {
    "first_token": lambda rows: rows.first_tokens,
    "last_token": lambda rows: rows.last_tokens,
    "length": lambda rows: rows.lengths,
}


def describe_splits(splits: Mapping[str, GroupedQuestions], classes: Sequence[str], max_length: int) -> dict[str, Any]:
    """Compute figures on the splits, for reports/data.json.

    Args:
        splits: The questions of each split.
        classes: Names of the coarse classes.
        max_length: Tokens kept of a question.

    Returns:
        Sizes by split and class; rows whose text is also in an earlier row of the split; numbers of groups of equal
        questions by size; different texts that two splits share; different texts with more than one coarse or fine
        class; `by_ids`, the same by token ids; rows longer than `max_length`, and their share; percentiles of the
        length in tokens, before truncation.
    """
    groups = np.concatenate([split.groups for split in splits.values()])
    sizes = Counter(np.unique(groups, return_counts=True)[1].tolist())
    longer = {name: int((split.lengths > max_length).sum()) for name, split in splits.items()}
    return {
        "size": {name: len(split) for name, split in splits.items()},
        "classes": {
            name: {classes[label]: count for label, count in enumerate(np.bincount(split.labels).tolist()) if count}
            for name, split in splits.items()
        },
        "groups_of_duplicates": {f"of_{size}": sizes[size] for size in sorted(sizes) if size > 1},
        **_duplicates(splits, "texts"),
        "by_ids": _duplicates(splits, "ids"),
        "truncated": longer,
        "truncated_share": {name: longer[name] / len(split) for name, split in splits.items()},
        "length": {
            name: {
                f"p{percent}": int(np.percentile(split.lengths, percent, method="nearest")) for percent in PERCENTILES
            }
            for name, split in splits.items()
        },
    }


def _duplicates(splits: Mapping[str, GroupedQuestions], key: str) -> dict[str, Any]:
    """Count duplicates; `key` is the array of `GroupedQuestions` whose numbers are equal for equal questions."""
    different = {name: np.unique(getattr(split, key)) for name, split in splits.items()}
    same, labels, fine_labels = (
        np.concatenate([getattr(split, array) for split in splits.values()]) for array in (key, "labels", "fine_labels")
    )
    return {
        "duplicates": {name: len(split) - len(different[name]) for name, split in splits.items()},
        "overlap": {
            f"{first}_{second}": len(np.intersect1d(different[first], different[second], assume_unique=True))
            for first, second in combinations(splits, 2)
        },
        "conflicting_labels": _conflicts(same, labels),
        "conflicting_fine_labels": _conflicts(same, fine_labels),
    }


def _conflicts(groups: np.ndarray, labels: np.ndarray) -> int:
    """Count the different questions with more than one label; an unknown one is none."""
    groups, labels = groups[labels != UNKNOWN], labels[labels != UNKNOWN]
    pairs = np.unique(np.stack((groups, labels), axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def audit_leaks(train: GroupedQuestions, test: GroupedQuestions) -> dict[str, float]:
    """Score trivial baselines, among them the most frequent class: accuracies on test, 0 to 1.

    A rule predicts the most frequent class of train's questions with the same first token (last token, number of
    tokens); where train has no such question, the most frequent class of all. Ties go to the lower class number.
    """
    majority = np.bincount(train.labels).argmax()
    accuracies = {"majority": float(np.mean(test.labels == majority))}
    for name, feature in RULES.items():
        seen, predictions = most_frequent(feature(train), train.labels)
        values = feature(test)
        place = np.searchsorted(seen, values).clip(max=len(seen) - 1)
        predicted = np.where(seen[place] == values, predictions[place], majority)
        accuracies[name] = float(np.mean(predicted == test.labels))
    return accuracies
