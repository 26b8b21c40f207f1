"""What is read and laid out piece by piece comes out as if it had been one piece."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from qc.questions.parquet import read_chosen, read_pieces, write_table

from benchmarks import scale
from qc.errors import QcError
from qc.inference.batches import pack
from qc.questions.reader import LabelledQuestion
from qc.questions.tables import question_tables, take_inventory
from qc.split.groups import COLUMNS, TokenizedQuestions, group_questions, sample_groups
from tests.conftest import ROOT, label_lines

QUESTIONS = [
    ("test" if number % 10 == 0 else "train", LabelledQuestion(name, fine, text))
    for number, line in enumerate(label_lines(100))
    for name, _, fine, text in [(*line.split(" ", 1)[0].partition(":"), line.split(" ", 1)[1])]
]


def table():
    """The questions as the tokenize stage writes them, with ids of their own making."""
    found = pyarrow.concat_tables(question_tables(QUESTIONS, take_inventory(QUESTIONS).labels.classes))
    return found.append_column("input_ids", [[list(range(3, 4 + number % 7)) for number in range(len(found))]])


def rows_of(pieces, size=100):
    """What is read of the questions, whose ids have a special token before them and two after."""
    ids = [[1, *row, 2, 2] for row in table()["input_ids"].to_pylist()]
    ids = pyarrow.table({"input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))})
    return group_questions(pieces, [TokenizedQuestions(ids.to_batches(size), 1, 2)], seed=1)


def test_a_table_is_the_same_in_pieces_of_any_size(monkeypatch):
    whole = table()
    assert whole["id"].to_pylist() == list(range(100))
    assert whole["text"].to_pylist() == [question.text for _, question in QUESTIONS]
    monkeypatch.setattr("qc.questions.tables.PIECE", 7)
    assert table() == whole


def test_the_inventory_counts_questions_and_classes():
    found = take_inventory(QUESTIONS)
    assert (found.questions, found.without_fine) == (100, 0)
    assert found.labels.classes == sorted({question.coarse for _, question in QUESTIONS})
    assert found.labels.record()["fine_classes"] == [list(pair) for pair in found.labels.fine_classes]
    with pytest.raises(QcError, match="only one class, LOC"):
        take_inventory([("train", LabelledQuestion("LOC", "city", "where"))] * 3)


def test_chosen_rows_and_traits_are_the_same_in_pieces_of_any_size(monkeypatch, tmp_path):
    path, whole = tmp_path / "questions.parquet", table()
    write_table(path, (whole.slice(start, 30) for start in range(0, 100, 30)))
    chosen = np.array([0, 3, 4, 29, 30, 31, 64, 99])
    traits = rows_of(read_pieces(path, *COLUMNS))
    monkeypatch.setattr("qc.questions.parquet.PIECE", 9)
    assert pyarrow.concat_tables(read_chosen(path, chosen)) == whole.take(chosen)
    for name, expected in vars(traits).items():
        np.testing.assert_array_equal(getattr(rows_of(read_pieces(path, *COLUMNS), 11), name), expected)
    assert traits.official.sum() == 10
    assert traits.lengths.tolist() == [1 + number % 7 for number in range(100)]
    assert set(traits.first_tokens) == {3}
    assert (traits.last_tokens == traits.lengths + 2).all()


@pytest.mark.parametrize("keep_special", [True, False])
@pytest.mark.parametrize("special", [(0, 0), (1, 1), (2, 1), (0, 2), (1, 0)])
def test_questions_are_laid_end_to_end_alike_from_lists_and_from_slices_of_arrow(monkeypatch, special, keep_special):
    before, after = [100] * special[0], [200, 201][: special[1]]
    texts = table()["input_ids"].to_pylist()
    column = pyarrow.array([[*before, *ids, *after] for ids in texts], pyarrow.list_(pyarrow.int32())).slice(20, 50)
    rows = column.to_pylist()
    around = (before, after) if keep_special else ((), ())
    expected = [[*around[0], *ids[:4], *around[1]] for ids in texts[20:70]]
    monkeypatch.setattr("qc.inference.batches.PIECE", 8)
    for input_ids in (column, rows):
        found = pack(input_ids, [0] * 50, 4, special, keep_special=keep_special, pad_id=0)
        assert found.values.tolist() == list(itertools.chain.from_iterable(expected))
        assert found.lengths.tolist() == [len(ids) for ids in expected]


def test_the_audits_sample_is_blind_to_the_order_of_rows():
    rows = rows_of(table().to_batches())
    chosen = np.arange(0, 100, 2)
    order = np.random.default_rng(1).permutation(100)
    sample = sample_groups(rows, chosen, 10)
    shuffled = sample_groups(rows.take(order), np.flatnonzero(np.isin(order, chosen)), 10)
    assert len(sample) == 10
    assert sorted(rows.groups[sample]) == sorted(rows.groups[order[shuffled]])


def test_the_generated_questions_differ_and_stay_the_same():
    words = [f"w{number}" for number in range(50)]
    found = list(scale.questions(500, words))
    assert found == list(scale.questions(500, words))
    assert len({line.split(" ", 1)[1] for line in found}) == 500
    assert {line.split(":")[0] for line in found} == set(scale.CLASSES)


def test_the_page_on_scale_shows_what_was_measured():
    page = (ROOT / scale.PAGE).read_text(encoding="utf-8")
    assert scale.table(json.loads((ROOT / scale.RESULTS).read_text(encoding="utf-8"))) in page


@pytest.mark.parametrize(("given", "expected"), [({}, "None"), ({"DVC_EXP_NAME": "x"}, "600")])
def test_threads_of_experiments_wait_without_taking_each_others_cores(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_EXP_NAME", "GOMP_SPINCOUNT")}
    script = (
        "from qc.runtime.startup import set_environment as go; go(); import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
