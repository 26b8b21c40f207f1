"""What a data set holds, and whether it gives its answers away.

Notable:
- the leak audit scores rules that should know nothing, such as the class most often seen with the first token; where
  such a rule does well, a model's accuracy tells of the rule, not of the model
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from qc.rows import Rows
from qc.splits import most_frequent

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
RULES: dict[str, Callable[[Rows], np.ndarray]] = {
    "first_token": lambda rows: rows.first_tokens,
    "last_token": lambda rows: rows.last_tokens,
    "length": lambda rows: rows.lengths,
}


def describe_splits(splits: Mapping[str, Rows], classes: Sequence[str], max_length: int) -> dict[str, Any]:
    """Figures on the splits, for metrics/data.json.

    Args:
        splits: The questions of each split.
        classes: Names of the coarse classes.
        max_length: Tokens kept of a question.

    Returns:
        Sizes per split and class; rows whose text also stands in an earlier row of the split; how many groups of equal
        questions there are in all splits, by their size; different texts that two splits share; different texts with
        more than one coarse or fine class; as `by_ids`, these by the token ids that the models see; rows longer than
        `max_length`, and their share; percentiles of the length in tokens, before any cut.
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


def _duplicates(splits: Mapping[str, Rows], key: str) -> dict[str, Any]:
    """What stands more than once: `key` is the array of `Rows` that says which questions are the same."""
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
    """How many different questions stand with more than one label."""
    pairs = np.unique(np.stack((groups, labels), axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def audit_leaks(train: Rows, test: Rows) -> dict[str, float]:
    """Accuracy on test, 0 to 1, of rules that should know nothing, and of always the most frequent class.

    A rule tells the class that train's questions with the same first token (last token, number of tokens) have most
    often; where train has no such question, its most frequent class. Among equals, the class with the lower number.
    """
    majority = np.bincount(train.labels).argmax()
    accuracies = {"majority": float(np.mean(test.labels == majority))}
    for name, feature in RULES.items():
        seen, told = most_frequent(feature(train), train.labels)
        asked = feature(test)
        place = np.searchsorted(seen, asked).clip(max=len(seen) - 1)
        predicted = np.where(seen[place] == asked, told[place], majority)
        accuracies[name] = float(np.mean(predicted == test.labels))
    return accuracies


def leak_suspected(audit: Mapping[str, float], above: float, above_baseline: bool) -> bool:
    """Whether the first token alone tells too much.

    Args:
        audit: From `audit_leaks`, and the accuracy of the TF-IDF baseline as `tfidf_svm`.
        above: An accuracy of the first-token rule above this is suspicious.
        above_baseline: So is one above that of the TF-IDF baseline.
    """
    return audit["first_token"] > above or (above_baseline and audit["first_token"] > audit["tfidf_svm"])
