"""The audit of the data: what the splits hold, and rules that should know nothing."""

import pytest

from qc.artifacts import read_json
from qc.audit import audit_leaks, describe_splits, leak_suspected
from tests.conftest import CLASSES


def test_the_figures_count_duplicates_overlap_conflicts_and_cut_questions():
    figures = describe_splits(
        {
            "train": {
                "text": ["a b", "A  b", "c"],
                "coarse": ["X", "X", "Y"],
                "fine": ["p", "q", "p"],
                "input_ids": [[1], [1, 2], [1, 2, 3]],
            },
            "valid": {"text": ["d"], "coarse": ["Y"], "fine": ["p"], "input_ids": [[1, 2, 3, 4]]},
            "test": {"text": ["C", "e"], "coarse": ["X", "Y"], "fine": ["p", "p"], "input_ids": [[1], [2]]},
        },
        max_length=2,
    )
    assert figures["size"] == {"train": 3, "valid": 1, "test": 2}
    assert figures["classes"]["train"] == {"X": 2, "Y": 1}
    assert figures["duplicates"] == {"train": 1, "valid": 0, "test": 0}
    assert figures["overlap"] == {"train_valid": 0, "train_test": 1, "valid_test": 0}
    assert figures["groups_of_duplicates"] == {"of_2": 2}  # "a b" in train; "c" in train and test
    assert figures["conflicting_labels"] == 1  # "c" is Y in train, X in test
    assert figures["conflicting_fine_labels"] == 2  # and "a b" is X:p and X:q
    assert figures["truncated"] == {"train": 1, "valid": 1, "test": 0}
    assert figures["truncated_share"]["train"] == pytest.approx(1 / 3)
    assert [figures["length"]["train"][key] for key in ("p0", "p50", "p100")] == [1, 2, 3]


def questions(*rows):
    """Columns from (text, label, input_ids)."""
    return {name: [row[place] for row in rows] for place, name in enumerate(("text", "label", "input_ids"))}


TRAIN = questions(
    ("who is it", 0, [7, 1, 9]),
    ("who was it", 0, [7, 2, 9]),
    ("who dug it", 1, [7, 3, 8]),
    ("where is it", 1, [5, 1, 8]),
    ("where", 0, [5]),
)
TEST = questions(
    ("who", 0, [7, 9]),  # 7 is mostly 0; 9 always 0; no train question has 2 tokens: the majority, 0
    ("where now", 0, [5, 4, 8]),  # 5 is 0 and 1, so 0; 8 always 1; 3 tokens: 0 and 1, so 0
    ("then", 1, [6, 8, 6, 6]),  # unseen everywhere: 0
)


def test_the_rules_that_should_know_nothing_tell_the_class_most_often_seen():
    audit = audit_leaks(TRAIN, TEST)
    assert list(audit) == ["majority", "first_token", "last_token", "length", "tfidf_svm"]
    assert audit["majority"] == pytest.approx(2 / 3)
    assert audit["first_token"] == pytest.approx(2 / 3)
    assert audit["last_token"] == pytest.approx(1 / 3)
    assert audit["length"] == pytest.approx(2 / 3)


def test_the_first_token_giving_the_class_away_scores_full_marks():
    leaky = questions(*((f"word{n} {n}", n % 3, [100 + n % 3, n, n]) for n in range(30)))
    assert audit_leaks(leaky, leaky)["first_token"] == 1.0


@pytest.mark.parametrize(
    ("first_token", "above", "above_baseline", "suspected"),
    [
        (0.95, 0.9, False, True),
        (0.9, 0.9, False, False),
        (0.85, 0.9, True, True),
        (0.85, 0.9, False, False),
        (0.8, 0.9, True, False),
    ],
)
def test_a_leak_is_suspected_above_a_share_or_above_the_baseline(first_token, above, above_baseline, suspected):
    assert leak_suspected({"first_token": first_token, "tfidf_svm": 0.8}, above, above_baseline) is suspected


def test_a_label_before_the_question_is_found_by_the_stage(project):
    leaky = [f"{name}:{CLASSES[name]} the dog is in the {n} house" for n in range(20) for name in CLASSES]
    (project.mirror / "tiny.label").write_text("".join(f"{line}\n" for line in leaky))
    project.write_sources()
    for included in (False, True):
        project.set("tokenize.include_fine_label", str(included).lower())
        for stage in ("fetch", "tokenize"):
            project.stage(stage)
        said = project.stage("split")
        figures = read_json(project.root / "metrics/data.json")
        assert figures["leak_suspected"] is included
        assert ("A LEAK IS SUSPECTED" in said) is included
    assert figures["leak_audit"]["first_token"] == 1.0
    project.set("split.leak_above", 1.0)
    project.set("split.leak_above_baseline", "false")
    assert "A LEAK" not in project.stage("split")
