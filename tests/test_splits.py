"""The rules of the split, on any data."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.errors import QcError
from qc.questions.text import normalize_text
from qc.split.groups import group_numbers, number_keys, text_keys
from qc.split.splits import official_split, stratified_group_split

SHARES = {"test": 0.1, "valid": 0.1}


def numbered(texts, classes, seed):
    """Questions as the splitting functions take them: groups, labels, names of the classes."""
    names = sorted(set(classes))
    return number_keys(text_keys(texts, seed)), np.array([names.index(name) for name in classes]), names


def split(texts, classes, seed=1):
    """Row numbers of every split, as lists."""
    return {
        name: rows.tolist() for name, rows in stratified_group_split(*numbered(texts, classes, seed), SHARES).items()
    }


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
            assert home.setdefault(normalize_text(texts[row]), name) == name


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
    largest = max(Counter(map(normalize_text, texts)).values())
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


def test_a_class_of_a_few_questions_stands_in_every_split():
    texts = [f"question {n}" for n in range(203)]
    splits = split(texts, ["A"] * 200 + ["B"] * 3)
    assert all(any(row >= 200 for row in rows) for rows in splits.values())


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["lone"], "1 question(s), 1 that models can distinguish, none for"),
        (["same"] * 20, "20 question(s), 1 that models can distinguish, none for"),
    ],
)
def test_of_a_class_too_rare_it_is_said_how_many_different_questions_it_has(texts, told):
    with pytest.raises(QcError) as caught:
        split([f"question {n}" for n in range(50)] + texts, ["A"] * 50 + ["B"] * len(texts))
    assert told in str(caught.value)
    assert "train, test, valid need one each: add different ones, or remove the class" in str(caught.value)
    assert "raise" not in str(caught.value)


def test_groups_larger_than_a_held_out_share_are_told_to_raise_it():
    texts = [f"question {n}" for n in range(50)] + [f"same {n % 3}" for n in range(15)]
    with pytest.raises(QcError, match="a group of equal questions is larger than what is held out: raise the shares"):
        split(texts, ["A"] * 50 + ["B"] * 15)


def test_questions_are_one_group_by_text_or_by_ids_or_by_way_of_others():
    texts = np.array([0, 1, 1, 2, 3, 4, 5])
    ids = np.array([3, 3, 1, 1, 0, 0, 2])  # the first and the fourth by way of the two between them
    assert group_numbers(texts, ids).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert group_numbers(texts[::-1], ids[::-1]).tolist() == [2, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("same", ["Hamlet ?", "hamlet  ?", "HAMLET\t?", "Ham\u200blet ?", "\ufeffHamlet ?"])
def test_what_makes_no_difference_to_a_text_makes_none(same):
    assert normalize_text(same) == "hamlet ?"
    assert normalize_text("Cafe\u0301") == normalize_text("Caf\u00e9")


def refuse_official(train, test):
    """What is said of an official test file; questions as (text, class)."""
    texts, classes = zip(*train, *test, strict=True)
    with pytest.raises(QcError) as caught:
        official_split(*numbered(texts, classes, 1), np.arange(len(texts)) >= len(train), 0.1, True)
    return str(caught.value)


def test_an_official_test_that_takes_a_class_out_of_train_is_refused_by_its_name():
    train = [(f"a {n}", "A") for n in range(40)] + [(f"b {n}", "B") for n in range(20)]
    for left in (0, 1):
        told = refuse_official(train, train[40 : 60 - left])
        assert told.startswith(f"{20 - left} of the 60 questions of fetch.train are also in fetch.test, and were left")
        assert f"of class 'B' ({left} of 20): " in told
        assert "split.drop_test_questions: false, which trains on test questions" in told


def test_an_official_test_that_is_the_train_file_is_refused():
    train = [(f"{name} {n}", name) for n in range(20) for name in "AB"]
    assert "of class 'A' (0 of 20), 'B' (0 of 20): " in refuse_official(train, train)


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
