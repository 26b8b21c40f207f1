"""The benchmarks compare like with like, and the README's figures are those of the committed results."""

import json

import pytest
import torch

from benchmarks import instead, ours
from benchmarks.run import BEGIN, END, RESULTS, table
from qc.batching import encode
from qc.models.distilbert import DistilbertClassifier
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.pretrained import load_encoder
from stages.results import with_block
from tests.conftest import write_encoder
from tests.test_readme import committed

ROWS = [([2, 5, 9, 11, 3], 0), ([2, 8, 7, 6, 10, 12, 3], 1), ([2, 4, 3], 2)]


@pytest.fixture
def folder(tmp_path):
    write_encoder(tmp_path)
    return tmp_path


def logits(model, rows, length):
    """Logits of rows padded to a fixed length, in the rows' order."""
    [batch] = instead.fixed_batches(rows, len(rows), length, torch.Generator().manual_seed(1))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    return model(**batch).logits[order.argsort()]


def test_trainer_is_given_the_model_that_ours_trains(folder):
    theirs = instead.FineTuned(folder, 2, 8, 0.3, 5).eval()
    model = DistilbertClassifier(load_encoder(folder), 2, 8, 0.3, "mean", 5).eval()
    model.head.load_state_dict(theirs.head.state_dict())
    questions = encode([ids for ids, _ in ROWS], [label for _, label in ROWS], 12, pad_id=0)
    batch = questions.batch(torch.arange(3))
    torch.testing.assert_close(model(batch.inputs, batch.mask), logits(theirs, ROWS, 9), atol=1e-5, rtol=1e-4)
    trained = [sum(p.numel() for p in each.parameters() if p.requires_grad) for each in (theirs, model)]
    assert trained[0] == trained[1]


def test_the_transformer_compared_with_has_ours_parameters():
    sizes = ScratchConfig(
        vocab_size=30, classes=3, coarse_of=(), width=16, heads=2, ff_width=32, layers=2, max_length=12,
        dropout=0.1, norm="post", mask_padding=True, unknown_id=1, pad_id=0,
    )  # fmt: skip
    counts = [sum(p.numel() for p in make(sizes).parameters()) for make in (instead.FromNothing, ScratchClassifier)]
    assert counts[0] == counts[1]
    assert logits(instead.FromNothing(sizes).eval(), ROWS, 9).shape == (3, 3)


def test_fixed_batches_hold_every_question_once():
    rows = [([2, *range(4, 4 + number), 3], number) for number in range(10)]
    batches = list(instead.fixed_batches(rows, 4, 6, torch.Generator().manual_seed(1)))
    assert [batch["input_ids"].shape for batch in batches] == [(4, 6), (4, 6), (2, 6)]
    assert sorted(torch.cat([batch["labels"] for batch in batches]).tolist()) == list(range(10))


def test_more_questions_than_there_are_repeat_some():
    questions = encode([ids for ids, _ in ROWS], [label for _, label in ROWS], 12, pad_id=0)
    many = ours.drawn(questions, 7)
    assert len(many) == 7
    assert set(many.labels.tolist()) == {0, 1, 2}
    for index in range(7):
        row = many.batch(torch.tensor([index]))
        assert row.inputs[0].tolist() == ROWS[int(row.labels)][0]


def test_the_readmes_figures_are_the_committed_ones():
    readme = committed("README.md")
    assert with_block(readme, BEGIN, END, table(json.loads(committed(str(RESULTS))))) == readme
