"""What is read and laid out piece by piece comes out as if it had been one piece."""

import itertools
import os
import subprocess
import sys

import pyarrow
import pytest

from qc.inference.batches import pack
from qc.questions.vocabulary import Vocabulary
from tests.conftest import ROOT

IDS = [list(range(3, 4 + number % 7)) for number in range(100)]  # of no tokenizer


def vocabulary(before, after):
    """A tokenizer that puts these special tokens around a text."""
    return Vocabulary("x", 300, 0, 1, before, after, "")


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


@pytest.mark.parametrize(("given", "expected"), [({}, "None"), ({"DVC_EXP_NAME": "x"}, "600")])
def test_threads_of_experiments_wait_without_taking_each_others_cores(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_EXP_NAME", "GOMP_SPINCOUNT")}
    script = (
        "from qc.runtime.startup import set_environment as go; go(); import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
