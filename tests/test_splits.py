"""The rules of the split, on any data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qc.errors import QcError
from qc.questions.text import normalize_text
from qc.split.groups import group_numbers, number_keys, text_keys
from qc.split.splits import most_frequent, official_split, stratified_group_split

SHARES = {"test": 0.1, "valid": 0.1}


def numbered(texts, classes, seed):
    """Questions as the splitting functions take them: groups, labels, names of the classes."""
    names = sorted(set(classes))
    return number_keys(text_keys(texts, seed)), np.array([names.index(name) for name in classes]), names


def split(texts, classes, seed=1, shares=SHARES):
    """Row numbers of every split, as lists."""
    splits = stratified_group_split(*numbered(texts, classes, seed), shares)
    return {name: rows.tolist() for name, rows in splits.items()}


GROUPS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=150)
SHARE = st.floats(0.01, 0.45)


@settings(max_examples=50)
@given(GROUPS, SHARE, SHARE)
def test_a_split_holds_every_question_once_parts_no_group_and_keeps_every_class_or_names_it(rows, test, valid):
    groups, labels = np.array(rows).T
    try:
        splits = stratified_group_split(groups, labels, "ABCD", {"test": test, "valid": valid})
    except QcError as error:
        name = str(error).split("'")[1]
        count = np.sum(labels == "ABCD".index(name))
        assert count > 0
        assert str(error).startswith(f"class '{name}' is too rare to be in every split: {count} question(s), ")
        return
    assert list(splits) == ["train", "test", "valid"]
    assert np.sort(np.concatenate([*splits.values()])).tolist() == list(range(len(rows)))
    assert all(part.tolist() == sorted(part) for part in splits.values())
    for part in splits.values():
        assert set(labels[part]) == set(labels)
        assert not set(groups[part]) & set(np.delete(groups, part))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from("ABC")), max_size=40), st.randoms())
def test_the_split_depends_neither_on_the_order_of_rows_nor_on_case_and_space(extra, rng):
    questions = [
        (f"what is {n} {name}", name) for n, name in [*extra, *((n, name) for n in range(12) for name in "ABC")]
    ]
    shuffled = rng.sample(questions, len(questions))
    changed = [(text.upper().replace(" ", "  ") if rng.random() < 0.5 else text, name) for text, name in shuffled]
    parts = []
    for rows in (questions, changed):
        splits = split(*zip(*rows, strict=True), seed=7)
        parts.append({name: sorted(normalize_text(rows[row][0]) for row in part) for name, part in splits.items()})
    assert parts[0] == parts[1]


def test_the_split_is_the_same_on_every_machine_and_another_with_another_seed():
    texts, classes = [f"question {n}" for n in range(40)], ["A", "B"] * 20
    # The first two of each class by `printf '1:question N' | sha256sum`; the next two are valid.
    splits = split(texts, classes, 1)
    assert splits["test"] == [1, 18, 21, 22]
    assert splits["valid"] == [4, 11, 33, 36]
    assert split(texts, classes, 2)["test"] != splits["test"]


@pytest.mark.parametrize(
    ("sizes", "share", "held_out"),
    [
        ({"A": 30, "B": 20, "C": 50}, 0.1, {"A": 3, "B": 2, "C": 5}),
        ({"A": 25, "B": 25, "C": 50}, 0.1, {"A": 3, "B": 2, "C": 5}),  # 2.5, 2.5 and 5: the first of equal remainders
        ({"A": 24, "B": 26, "C": 50}, 0.1, {"A": 2, "B": 3, "C": 5}),  # 2.4, 2.6 and 5: the largest remainder
        ({"A": 92, "B": 4, "C": 4}, 0.1, {"A": 9, "B": 1, "C": 1}),  # 9.2, 0.4 and 0.4: at least one each
    ],
)
def test_the_shares_of_the_classes_are_by_largest_remainder_and_at_least_one(sizes, share, held_out):
    classes = [name for name, size in sizes.items() for _ in range(size)]
    rows = split([f"question {n}" for n in range(len(classes))], classes, shares={"test": share})["test"]
    assert {name: sum(classes[row] == name for row in rows) for name in sizes} == held_out


def test_the_most_frequent_label_of_a_value_is_the_lowest_among_equals():
    values, labels = most_frequent(np.array([3, 1, 3, 1, 3, 2]), np.array([0, 2, 1, 0, 1, 1]))
    assert (values.tolist(), labels.tolist()) == ([1, 2, 3], [0, 1, 1])


def test_a_group_is_held_out_only_where_it_fits_whole_and_counts_for_its_most_frequent_class():
    # Groups in their order: 0 is larger than what is held out of A, 1 is mostly B, 2 as much A as B: so A.
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, *range(3, 19)])
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 1, *([0] * 7), *([1] * 9)])
    splits = stratified_group_split(groups, labels, "AB", {"test": 0.125})  # of 12 questions each: 1.5, so 2 and 1
    assert splits["test"].tolist() == [6, 7, 15]  # group 2 for A; group 1 does not fit into one of B, the next does


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["lone"], "1 question(s), 1 that models can distinguish, none for train; train, test, valid need one each"),
        (["one", "two"], "2 question(s), 2 that models can distinguish, none for train; train, test, valid need"),
        (["same"] * 20, "20 question(s), 1 that models can distinguish, none for test; train, test, valid need one"),
        ([f"same {n % 3}" for n in range(15)], "15 question(s), 3 that models can distinguish, none for test; a group "
         "of equal questions is larger than what is held out: raise the shares of split in params.yaml"),
    ],
)  # fmt: skip
def test_a_class_too_rare_to_be_in_every_split_is_refused_with_what_it_has(texts, told):
    with pytest.raises(QcError) as caught:
        split([f"question {n}" for n in range(50)] + texts, ["A"] * 50 + ["B"] * len(texts))
    assert str(caught.value).startswith(f"class 'B' is too rare to be in every split: {told}")


def test_questions_are_one_group_by_text_or_by_ids_or_by_way_of_others():
    texts = np.array([0, 1, 1, 2, 3, 4, 5])
    ids = np.array([3, 3, 1, 1, 0, 0, 2])  # the first and the fourth by way of the two between them
    assert group_numbers(texts, ids).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert group_numbers(texts[::-1], ids[::-1]).tolist() == [2, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("same", ["Hamlet ?", "hamlet  ?", "HAMLET\t?", "Ham\u200blet ?", "\ufeffHamlet ?"])
def test_what_makes_no_difference_to_a_text_makes_none(same):
    assert normalize_text(same) == "hamlet ?"
    assert normalize_text("Cafe\u0301") == normalize_text("Caf\u00e9")


def official(train, test, drop=True):
    """Splits of questions as (text, class), half of what is left of train for validation."""
    texts, classes = zip(*train, *test, strict=True)
    official = np.arange(len(texts)) >= len(train)
    splits, shared = official_split(*numbered(texts, classes, 1), official, 0.5, drop)
    return {name: rows.tolist() for name, rows in splits.items()}, shared


@pytest.mark.parametrize(("drop", "left"), [(True, [0, 1, 2, 5, 6, 7, 8, 9]), (False, list(range(10)))])
def test_an_official_test_file_is_the_test_split_and_its_questions_leave_train_or_are_counted(drop, left):
    train = [(f"question {n}", "AB"[n % 2]) for n in range(10)]
    splits, shared = official(train, [("Question  3", "B"), ("new one", "B"), ("question 4", "A")], drop)
    assert (splits["test"], shared) == ([10, 11, 12], 2)
    assert sorted(splits["train"] + splits["valid"]) == left
    assert len(splits["valid"]) == len(left) / 2


@pytest.mark.parametrize("left", [0, 1])
def test_an_official_test_that_takes_a_class_out_of_train_is_refused_by_its_name(left):
    train = [(f"a {n}", "A") for n in range(40)] + [(f"b {n}", "B") for n in range(20)]
    with pytest.raises(QcError) as caught:
        official(train, train[40 : 60 - left])
    told = (
        f"{20 - left} of the 60 questions of fetch.train are also in fetch.test, and were left out of train and valid"
    )
    assert str(caught.value).startswith(told)
    assert f"are left of class 'B' ({left} of 20): train and valid need one each." in str(caught.value)
    assert str(caught.value).endswith(
        "Name another fetch.test, add questions of these classes, or set split.drop_test_questions: false, which "
        "trains on test questions, so that no test score means anything"
    )
    assert official(train, train[40:], drop=False)[1] == 20


def test_an_official_test_that_is_the_train_file_is_refused():
    train = [(f"{name} {n}", name) for n in range(12) for name in "AB"]
    with pytest.raises(QcError, match=r"of class 'A' \(0 of 12\), 'B' \(0 of 12\): "):
        official(train, train)
