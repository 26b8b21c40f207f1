"""Train, validation and test split: stratified, equal questions together.

Notable:
- the order in which a class is dealt out depends on its texts and the seed: not on the order of the rows, nor on the
  machine; one more question can move others between splits, since the shares are of the whole class
- equal questions are one group (`qc.split.groups`) and stay together
- each class is split on its own, so that every split has the classes in the same shares
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qc.errors import QcError, listed
from qc.questions.labels import Labels
from qc.questions.tables import new_table, read_pieces


def stratified_group_split(
    groups: np.ndarray, labels: np.ndarray, classes: Sequence[str], shares: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Split questions by class and group.

    Within a class the groups are assigned in the order of their numbers, which is that of SHA-256(seed, text): first to
    the held-out splits, a group only where it fits whole, the rest to train. A group with several classes counts for
    its most frequent one, the first among equals.

    Args:
        groups: (N,) the number of each question's group.
        labels: (N,) class numbers.
        classes: Names of the classes.
        shares: Share of the questions for each held-out split (`test`, `valid`), assigned in this order.

    Returns:
        Row numbers for train and each held-out split, ascending.

    Raises:
        QcError: A class has too few different questions for every split.
    """
    numbers, groups = np.unique(groups, return_inverse=True)
    sizes = np.bincount(groups)
    class_of = most_frequent(groups, labels)[1]
    totals = np.bincount(class_of, weights=sizes).astype(int).tolist()
    present = {label: totals[label] for label in np.unique(class_of).tolist()}
    sizes_of = {split: _apportion(present, share) for split, share in shares.items()}
    names = ["train", *shares]
    place = np.zeros(len(numbers), dtype=np.int8)
    for label in present:
        left = [sizes_of[split][label] for split in shares]
        for group in np.flatnonzero(class_of == label).tolist():
            size = sizes[group]
            split = next((number for number, room in enumerate(left) if size <= room), None)
            if split is not None:
                place[group] = split + 1
                left[split] -= size
            elif not any(left):
                break
    splits = {name: np.flatnonzero(place[groups] == number) for number, name in enumerate(names)}
    counts = np.bincount(labels, minlength=len(classes))
    for split, rows in splits.items():
        in_split = np.bincount(labels[rows], minlength=len(classes))
        for label in np.flatnonzero((counts > 0) & (in_split == 0)):
            different = int(np.sum(class_of == label))
            remedy = (
                "a group of equal questions is larger than what is held out: raise the shares of split in params.yaml"
                if different >= len(names)
                else f"{', '.join(names)} need one each: add different ones, or remove the class"
            )
            raise QcError(
                f"class {classes[label]!r} is too rare to be in every split: {counts[label]} question(s), {different} "
                f"that models can distinguish, none for {split}; {remedy}"
            )
    return splits


def official_split(
    groups: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    official: np.ndarray,
    valid: float,
    drop_test_questions: bool,
) -> tuple[dict[str, np.ndarray], int]:
    """Split the questions of a train file into train and validation; those of an official test file are test.

    Args:
        groups: (N,) as for `stratified_group_split`, of the questions of both files.
        labels: (N,) class numbers.
        classes: Names of the classes.
        official: (N,) bool, whether a question is in the test file.
        valid: Share of the train file for validation.
        drop_test_questions: Leave out of train and validation the questions that are also in the test file.

    Returns:
        Row numbers of train, valid and test, ascending; how many rows of the train file are also in the test file.

    Raises:
        QcError: As for `stratified_group_split`; or too few questions of a class are left for train and valid.
    """
    shared = ~official & np.isin(groups, groups[official])
    left = ~official & ~shared if drop_test_questions else ~official
    short = []
    for label, name in enumerate(classes):
        of_class = labels == label
        if np.any(~official & ~left & of_class) and len(np.unique(groups[left & of_class])) < 2:
            short.append(f"{name!r} ({np.sum(left & of_class)} of {np.sum(~official & of_class)})")
    if short:
        raise QcError(
            f"{np.sum(shared)} of the {np.sum(~official)} questions of fetch.train are also in fetch.test, and were "
            "left out of train and valid (split.drop_test_questions: true in params.yaml); too few different ones are "
            f"left of class {listed(short)}: train and valid need one each. Name another fetch.test, add questions of "
            "these classes, or set split.drop_test_questions: false, which trains on test questions, so that no test "
            "score means anything"
        )
    rows = np.flatnonzero(left)
    parts = stratified_group_split(groups[rows], labels[rows], classes, {"valid": valid})
    return {**{name: rows[part] for name, part in parts.items()}, "test": np.flatnonzero(official)}, int(shared.sum())


def write_split(questions: Path, rows: np.ndarray, groups: np.ndarray, labels: Labels, path: Path) -> None:
    """Write some rows of a table of questions to another, with the number of the group (N,) of every question."""
    begin = 0
    with new_table(path, labels, "id", "text", "label", "fine", "input_ids", "group") as writer:
        for piece in read_pieces(questions, rows=rows):
            end = begin + len(piece)
            columns = piece.columns.append_column("group", [groups[rows[begin:end]]])
            writer.write_table(columns.select(writer.schema.names).cast(writer.schema))
            begin = end


def most_frequent(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the most frequent label of each different value, the lowest among equals; values ascend.

    Args:
        values: (N,) whole numbers.
        labels: (N,) class numbers.
    """
    pairs, counts = np.unique(np.stack((values, labels), axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    different, first = np.unique(pairs[order, 0], return_index=True)
    return different, pairs[order[first], 1]


def _apportion(sizes: Mapping[int, int], share: float) -> dict[int, int]:
    """Apportion `share` of all questions to classes of these sizes by largest remainder, at least one each."""
    total = round(share * sum(sizes.values()))
    exact = {label: share * size for label, size in sizes.items()}
    counts = {label: int(quota) for label, quota in exact.items()}
    for label in sorted(exact, key=lambda label: (counts[label] - exact[label], label))[: total - sum(counts.values())]:
        counts[label] += 1
    return {label: max(1, count) for label, count in counts.items()}
