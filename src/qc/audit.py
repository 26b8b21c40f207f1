"""What a data set holds, and whether it gives its answers away.

Notable:
- the leak audit scores rules that should know nothing, such as the class most often seen with the first token; where
  such a rule does well, a model's accuracy tells of the rule, not of the model
- questions are the same where their texts are, up to case and space (`qc.splits.normalize`)
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qc.baselines import predict_baselines
from qc.splits import normalize

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
RULES: dict[str, Callable[[Sequence[int]], Hashable]] = {
    "first_token": lambda ids: ids[0],
    "last_token": lambda ids: ids[-1],
    "length": len,
}

Columns = Mapping[str, Sequence]


def describe_splits(splits: Mapping[str, Columns], max_length: int) -> dict[str, Any]:
    """Figures on the splits, for metrics/data.json.

    Args:
        splits: Columns text, coarse, fine and input_ids of each split.
        max_length: Tokens kept of a question.

    Returns:
        Sizes per split and class; rows whose text also stands in an earlier row of the split; how many groups of equal
        questions there are in all splits, by their size; different texts that two splits share; different texts with
        more than one coarse or fine class; rows longer than `max_length`, and their share; percentiles of the length in
        tokens, before any cut.
    """
    texts = {split: [normalize(text) for text in columns["text"]] for split, columns in splits.items()}
    names = list(splits)
    sizes = Counter(Counter(key for keys in texts.values() for key in keys).values())
    lengths = {split: [len(ids) for ids in columns["input_ids"]] for split, columns in splits.items()}
    longer = {split: sum(length > max_length for length in found) for split, found in lengths.items()}
    return {
        "size": {split: len(keys) for split, keys in texts.items()},
        "classes": {split: dict(sorted(Counter(columns["coarse"]).items())) for split, columns in splits.items()},
        "duplicates": {split: len(keys) - len(set(keys)) for split, keys in texts.items()},
        "groups_of_duplicates": {f"of_{size}": sizes[size] for size in sorted(sizes) if size > 1},
        "overlap": {
            f"{first}_{second}": len(set(texts[first]) & set(texts[second]))
            for i, first in enumerate(names)
            for second in names[i + 1 :]
        },
        "conflicting_labels": _conflicts(texts, splits, "coarse"),
        "conflicting_fine_labels": _conflicts(texts, splits, "coarse", "fine"),
        "truncated": longer,
        "truncated_share": {split: longer[split] / len(keys) for split, keys in texts.items()},
        "length": {
            split: {f"p{percent}": int(np.percentile(found, percent, method="nearest")) for percent in PERCENTILES}
            for split, found in lengths.items()
        },
    }


def _conflicts(texts: Mapping[str, Sequence[str]], splits: Mapping[str, Columns], *labels: str) -> int:
    """How many different texts stand with more than one label, a label being the values of these columns."""
    found: dict[str, set[tuple]] = defaultdict(set)
    for split, columns in splits.items():
        for key, *label in zip(texts[split], *(columns[name] for name in labels), strict=True):
            found[key].add(tuple(label))
    return sum(len(different) > 1 for different in found.values())


def audit_leaks(train: Columns, test: Columns) -> dict[str, float]:
    """Accuracy on test, 0 to 1, of rules that should know nothing, and of the baselines to hold them against.

    A rule tells the class that train's questions with the same first token (last token, number of tokens) have most
    often; where train has no such question, its most frequent class. Among equals, the class with the lower number.

    Args:
        train: Columns text, label and input_ids of the questions that rules and baselines are fitted on.
        test: The same of the questions that they are scored on.
    """
    labels = np.array(test["label"])
    baselines = predict_baselines(train["text"], train["label"], test["text"])
    predicted = {"majority": baselines["majority"]}
    for name, feature in RULES.items():
        seen: dict[Hashable, Counter[int]] = defaultdict(Counter)
        for ids, label in zip(train["input_ids"], train["label"], strict=True):
            seen[feature(ids)][label] += 1
        told = {value: min(counts, key=lambda label: (-counts[label], label)) for value, counts in seen.items()}
        predicted[name] = [told.get(feature(ids), baselines["majority"][0]) for ids in test["input_ids"]]
    predicted["tfidf_svm"] = baselines["tfidf_svm"]
    return {name: float(np.mean(np.array(found) == labels)) for name, found in predicted.items()}


def leak_suspected(audit: Mapping[str, float], above: float, above_baseline: bool) -> bool:
    """Whether the first token alone tells too much.

    Args:
        audit: From `audit_leaks`.
        above: An accuracy of the first-token rule above this is suspicious.
        above_baseline: So is one above that of the TF-IDF baseline.
    """
    return audit["first_token"] > above or (above_baseline and audit["first_token"] > audit["tfidf_svm"])
