"""Which questions are trained on, chosen by and tested on.

Notable:
- a question's place depends on its text, its class and the seed alone: not on the order of the rows, nor on the machine
- questions with the same text, up to case and space, are one group and stay together
- each class is parted on its own, so that every split has the classes in the same shares
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from qc.errors import QcError


def normalize(text: str) -> str:
    """What makes two questions the same: the text without regard to case and space."""
    return " ".join(text.casefold().split())


def split_questions(
    texts: Sequence[str], classes: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Part questions into splits.

    Within a class the groups of equal questions are put in the order of SHA-256(seed, text) and dealt out: first to the
    held-out splits, a group only where it fits whole, the rest to train. A group with several classes counts for its
    most frequent one, the first by name among equals.

    Args:
        texts: The questions.
        classes: The class of each question.
        shares: Share of the questions for each held-out split (`test`, `valid`), dealt out in this order.
        seed: Another seed, another split.

    Returns:
        Row numbers for train and each held-out split, ascending.

    Raises:
        QcError: A class has too few different questions to stand in every split.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        groups[normalize(text)].append(row)
    by_class: dict[str, list[str]] = defaultdict(list)
    for key, rows in groups.items():
        counts = Counter(classes[row] for row in rows)
        by_class[min(counts, key=lambda name: (-counts[name], name))].append(key)
    sizes = {name: sum(len(groups[key]) for key in keys) for name, keys in by_class.items()}
    wanted = {split: _apportion(sizes, share) for split, share in shares.items()}
    splits: dict[str, list[int]] = {"train": [], **{split: [] for split in shares}}
    for name, keys in by_class.items():
        left = {split: wanted[split][name] for split in shares}
        for key in sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest()):
            rows = groups[key]
            split = next((split for split in shares if len(rows) <= left[split]), "train")
            splits[split] += rows
            if split in left:
                left[split] -= len(rows)
    for split, rows in splits.items():
        rows.sort()
        for name in sorted(set(classes)):
            if not any(classes[row] == name for row in rows):
                raise QcError(
                    f"class {name!r} is too rare to be in every split: {classes.count(name)} question(s), none for "
                    f"{split}; add questions of this class, remove it, or raise the shares under split in params.yaml"
                )
    return splits


def official_split(
    texts: Sequence[str],
    classes: Sequence[str],
    partitions: Sequence[str],
    valid: float,
    seed: int,
    drop_test_questions: bool,
) -> tuple[dict[str, list[int]], int]:
    """Part the questions of a train file into train and valid, and take those of an official test file as test.

    Args:
        texts: The questions of both files.
        classes: The class of each question.
        partitions: `train` or `test` for each question: which file it stands in.
        valid: Share of the train file for validation.
        seed: As for `split_questions`.
        drop_test_questions: Leave questions out of train and valid that also stand in the test file.

    Returns:
        Row numbers for train, valid and test, ascending; how many rows of the train file also stand in the test file.

    Raises:
        QcError: As for `split_questions`.
    """
    test = [row for row, partition in enumerate(partitions) if partition == "test"]
    held_out = {normalize(texts[row]) for row in test}
    train = [row for row, partition in enumerate(partitions) if partition == "train"]
    shared = {row for row in train if normalize(texts[row]) in held_out}
    if drop_test_questions:
        train = [row for row in train if row not in shared]
    parts = split_questions([texts[row] for row in train], [classes[row] for row in train], {"valid": valid}, seed)
    return {**{name: [train[i] for i in rows] for name, rows in parts.items()}, "test": test}, len(shared)


def _apportion(sizes: Mapping[str, int], share: float) -> dict[str, int]:
    """Divide `share` of all among classes of these sizes, by largest remainder, at least one each."""
    total = round(share * sum(sizes.values()))
    exact = {name: share * size for name, size in sizes.items()}
    counts = {name: int(quota) for name, quota in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: max(1, count) for name, count in counts.items()}
