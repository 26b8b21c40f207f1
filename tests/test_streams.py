"""What is read and laid out piece by piece comes out as if it had been one piece."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pyarrow
import pytest

from qc.inference.batches import pack
from qc.questions.reader import LabelledQuestion
from qc.questions.tables import QuestionTable
from qc.questions.vocabulary import Vocabulary
from qc.split.groups import Reading, group_questions, sample_groups
from tests.conftest import ROOT, label_lines

QUESTIONS = [
    ("test" if number % 10 == 0 else "train", LabelledQuestion(name, fine, text))
    for number, line in enumerate(label_lines(100))
    for name, _, fine, text in [(*line.split(" ", 1)[0].partition(":"), line.split(" ", 1)[1])]
]
IDS = [list(range(3, 4 + number % 7)) for number in range(100)]  # of no tokenizer


def vocabulary(before, after):
    """A tokenizer that puts these special tokens around a text."""
    return Vocabulary("x", 300, 0, 1, before, after, "")


def grouped():
    """The questions, whose ids have a special token before them and two after."""
    columns = {
        "official": [partition == "test" for partition, _ in QUESTIONS],
        "text": [question.text for _, question in QUESTIONS],
        "label": [0] * 100,
        "input_ids": pyarrow.array([[1, *ids, 2, 2] for ids in IDS], pyarrow.list_(pyarrow.int32())),
    }
    return group_questions([Reading(QuestionTable(pyarrow.table(columns)), vocabulary([1], [2, 2]), 64)], seed=1)


def test_traits_of_questions_leave_special_tokens_out(monkeypatch):
    whole = grouped()
    assert whole.official.sum() == 10
    assert whole.lengths.tolist() == [1 + number % 7 for number in range(100)]
    assert set(whole.first_tokens) == {3}
    assert (whole.last_tokens == whole.lengths + 2).all()
    monkeypatch.setattr("qc.split.groups.PIECE", 9)
    for name, expected in vars(whole).items():
        np.testing.assert_array_equal(getattr(grouped(), name), expected)


@pytest.mark.parametrize("keep_special", [True, False])
@pytest.mark.parametrize("special", [(0, 0), (1, 1), (2, 1), (0, 2), (1, 0)])
def test_questions_are_laid_end_to_end_alike_from_lists_and_from_slices_of_arrow(monkeypatch, special, keep_special):
    before, after = [100] * special[0], [200, 201][: special[1]]
    column = pyarrow.array([[*before, *ids, *after] for ids in IDS], pyarrow.list_(pyarrow.int32())).slice(20, 50)
    around = (before, after) if keep_special else ((), ())
    expected = [[*around[0], *ids[:4], *around[1]] for ids in IDS[20:70]]
    monkeypatch.setattr("qc.inference.batches.PIECE", 8)
    for input_ids in (column, column.to_pylist()):
        packed = pack(vocabulary(before, after), input_ids, [0] * 50, 4, keep_special=keep_special)
        assert packed.values.tolist() == list(itertools.chain.from_iterable(expected))
        assert packed.lengths.tolist() == [len(ids) for ids in expected]


def test_the_audits_sample_is_blind_to_the_order_of_rows():
    rows = grouped()
    chosen = np.arange(0, 100, 2)
    order = np.random.default_rng(1).permutation(100)
    sample = sample_groups(rows, chosen, 10)
    shuffled = sample_groups(rows.take(order), np.flatnonzero(np.isin(order, chosen)), 10)
    assert len(sample) == 10
    assert sorted(rows.groups[sample]) == sorted(rows.groups[order[shuffled]])


@pytest.mark.parametrize(("given", "expected"), [({}, "None"), ({"DVC_EXP_NAME": "x"}, "600")])
def test_threads_of_experiments_wait_without_taking_each_others_cores(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_EXP_NAME", "GOMP_SPINCOUNT")}
    script = (
        "from qc.runtime.startup import set_environment as go; go(); import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
