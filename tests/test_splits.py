"""The rules of the split, on any data."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.errors import QcError
from qc.rows import normalize, number_keys, text_keys
from qc.splits import official_split, split_questions

SHARES = {"test": 0.1, "valid": 0.1}


def numbered(texts, classes, seed):
    """Questions as the splitting functions take them: groups, labels, names of the classes."""
    names = sorted(set(classes))
    return number_keys(text_keys(texts, seed)), np.array([names.index(name) for name in classes]), names


def split(texts, classes, seed=1):
    """Row numbers of every split, as lists."""
    return {name: rows.tolist() for name, rows in split_questions(*numbered(texts, classes, seed), SHARES).items()}


# Many different questions of three classes, and some of them again in another case and spacing.
QUESTIONS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from("ABC"), st.booleans()), min_size=0, max_size=120
).map(
    lambda rows: (
        [(f"What  IS {n} {c}" if odd else f"what is {n} {c}", c) for n, c, odd in rows]
        + [(f"sure {n} {c}", c) for n in range(20) for c in "ABC"]
    )
)


@given(QUESTIONS, st.integers(0, 2**32 - 1))
def test_every_question_is_in_one_split_and_duplicates_stay_together(questions, seed):
    texts, classes = zip(*questions, strict=True)
    splits = split(texts, classes, seed)
    assert sorted(row for rows in splits.values() for row in rows) == list(range(len(texts)))
    home = {}
    for name, rows in splits.items():
        for row in rows:
            assert home.setdefault(normalize(texts[row]), name) == name


@given(QUESTIONS, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_rows(questions, seed, rng):
    shuffled = rng.sample(questions, len(questions))
    found = []
    for rows in (questions, shuffled):
        splits = split(*zip(*rows, strict=True), seed)
        found.append({name: Counter(rows[i] for i in part) for name, part in splits.items()})
    assert found[0] == found[1]


@given(QUESTIONS, st.integers(0, 2**32 - 1))
def test_every_split_has_every_class_in_about_its_share(questions, seed):
    texts, classes = zip(*questions, strict=True)
    splits = split(texts, classes, seed)
    largest = max(Counter(map(normalize, texts)).values())
    for name, count in Counter(classes).items():
        for held_out in ("valid", "test"):
            found = sum(classes[row] == name for row in splits[held_out])
            assert 1 <= found <= 0.1 * count + 1
            assert found >= 0.1 * count - 1 - largest


def test_another_seed_makes_another_split():
    texts, classes = [f"question {n}" for n in range(200)], ["A", "B"] * 100
    assert split(texts, classes, 1) != split(texts, classes, 2)


def test_the_split_is_the_same_on_every_machine():
    texts, classes = [f"question {n}" for n in range(40)], ["A", "B"] * 20
    # The first two of each class by `printf '1:question N' | sha256sum`.
    assert split(texts, classes, 1)["test"] == [1, 18, 21, 22]


def test_a_class_too_rare_to_be_in_every_split_is_refused_by_name():
    texts = [f"question {n}" for n in range(50)]
    with pytest.raises(QcError, match=r"class 'B' is too rare to be in every split: 2 question"):
        split(texts, ["A"] * 48 + ["B"] * 2)


def test_repeating_one_question_does_not_make_its_class_frequent():
    texts = [f"question {n}" for n in range(50)] + ["same"] * 20
    with pytest.raises(QcError, match="class 'B' is too rare"):
        split(texts, ["A"] * 50 + ["B"] * 20)


def official(drop):
    rng = random.Random(1)
    texts = [f"question {n}" for n in range(100)] + ["Question  3", "new one", "question 4"]
    classes = [rng.choice("AB") for _ in range(100)] + ["A", "B", "A"]
    splits, shared = official_split(*numbered(texts, classes, 1), np.arange(103) >= 100, 0.1, drop)
    return {name: rows.tolist() for name, rows in splits.items()}, shared


def test_an_official_test_file_is_the_test_split_and_its_questions_leave_train():
    splits, shared = official(drop=True)
    assert splits["test"] == [100, 101, 102]
    assert shared == 2
    assert sorted(splits["train"] + splits["valid"]) == [row for row in range(100) if row not in (3, 4)]


def test_questions_of_the_official_test_may_stay_in_train_and_are_counted():
    splits, shared = official(drop=False)
    assert shared == 2
    assert sorted(splits["train"] + splits["valid"]) == list(range(100))
