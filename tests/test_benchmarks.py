"""The benchmarks compare like with like, and the page's figures are those of the committed results."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import instead, ours, run, scale, side_by_side
from qc.commands.cross_validate import FOLDS
from qc.commands.tables import replace_block
from qc.config.settings import Settings
from qc.errors import QcError
from qc.models.distilbert import DistilbertClassifier
from qc.models.encoder import load_encoder
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.schema import read_yaml
from tests.project import ROOT
from tests.test_training import packed
from tests.tiny import write_encoder

pytestmark = pytest.mark.soak

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
    section = SimpleNamespace(trainable_layers=2, head_hidden_size=8, dropout=0.3)
    theirs = instead.FineTuned(folder, section, 5).eval()
    model = DistilbertClassifier(load_encoder(folder, 2), 8, 0.3, "mean", 5).eval()
    model.head.load_state_dict(theirs.head.state_dict())
    questions = packed([ids for ids, _ in ROWS], [label for _, label in ROWS])
    batch = questions.batch(torch.arange(3))
    torch.testing.assert_close(model(batch.inputs, batch.mask), logits(theirs, ROWS, 9), atol=1e-5, rtol=1e-4)
    trained = [sum(p.numel() for p in net.parameters() if p.requires_grad) for net in (theirs, model)]
    assert trained[0] == trained[1]


def test_the_transformer_compared_with_has_ours_parameters():
    sizes = ScratchConfig(
        vocab_size=30, classes=3, coarse_of=(), hidden_size=16, heads=2, ffn_size=32, layers=2, max_length=12,
        dropout=0.1, convolution=0, pooling="mean", head_dropout=0.0, norm="post",
        mask_padding=True, unknown_id=1, pad_id=0,
    )  # fmt: skip
    theirs = instead.FromNothing(sizes, 30, 12, 3).eval()
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ScratchClassifier(sizes))]
    assert counts[0] == counts[1]
    assert logits(theirs, ROWS, 9).shape == (3, 3)


def test_fixed_batches_hold_every_question_once():
    rows = [([2, *range(4, 4 + number), 3], number) for number in range(10)]
    batches = list(instead.fixed_batches(rows, 4, 6, torch.Generator().manual_seed(1)))
    assert [batch["input_ids"].shape for batch in batches] == [(4, 6), (4, 6), (2, 6)]
    assert sorted(torch.cat([batch["labels"] for batch in batches]).tolist()) == list(range(10))


@pytest.mark.parametrize("module", [run, scale, side_by_side], ids=lambda module: module.__name__)
def test_the_pages_figures_are_those_of_the_results(module):
    page, results = ((ROOT / path).read_text(encoding="utf-8") for path in (module.PAGE, module.RESULTS))
    assert replace_block(page, module.BEGIN, module.END, module.table(json.loads(results))) == page


@pytest.fixture
def benched(finished, tmp_path, monkeypatch):
    """A copy of the finished project, as the working directory, with benchmarks of a second each."""
    project = finished.copy(tmp_path / "project")
    monkeypatch.chdir(project.root)
    for name, value in {**project.env, **project.forking()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", str(project.programs / "python"))
    for name, value in {
        "SEEDS": (1,),
        "SIZES": (20,),
        "FINE_TUNING_LENGTH": 14,
        "PREFIX_LENGTH": 14,
    }.items():
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr(run, "LARGE", {"hidden_size": 16, "heads": 2, "ffn_size": 16, "layers": 2, "count": 200})
    return project


def test_every_part_of_the_benchmarks_runs_and_the_page_has_what_they_found(benched, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks.run"])
    run.main(read_yaml(Settings, benched.params, "params.yaml"))
    results = json.loads((benched.root / run.RESULTS).read_text())
    assert list(results) == ["machine", "stage", "distilbert", "prefix", "scratch", "scratch_large", "growth"]
    for name in ("stage", "distilbert", "prefix", "scratch", "scratch_large"):
        assert all(ratio > 0 for ratio in results[name]["ratios"].values())
    whole = results["stage"]["contenders"]
    assert whole.keys() == {"ours_fp32", "ours_bf16", "trainer_fp32", "trainer_bf16"}
    assert all(0 <= result["valid_accuracy"] <= 1 for result in whole.values())
    page = (benched.root / run.PAGE).read_text()
    assert "| seconds of the whole stage, 2 epochs (validation accuracy)" in page
    assert replace_block(page, run.BEGIN, run.END, run.table(results)) == page


def test_a_part_of_the_benchmarks_that_there_is_not_is_refused(benched, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks.run", "scrath"])
    with pytest.raises(QcError, match="invalid value 'scrath'; expected stage, distilbert"):
        run.main(read_yaml(Settings, benched.params, "params.yaml"))


def test_processes_and_experiments_are_timed_side_by_side(benched, monkeypatch):
    monkeypatch.setattr(side_by_side, "EPOCHS", 3)
    monkeypatch.setattr(side_by_side, "CASES", (("train_scratch", 32),))
    monkeypatch.setattr(side_by_side, "MODELS", ("scratch", "prefix"))
    queued = side_by_side.queued
    monkeypatch.setattr(side_by_side, "queued", lambda folder, jobs: queued(folder, 2) if jobs == 2 else 1.0)
    side_by_side.main(read_yaml(Settings, benched.params, "params.yaml"))
    results = json.loads(Path(side_by_side.RESULTS).read_text())
    [seconds] = results["processes"].values()
    assert seconds.keys() == side_by_side.WAYS.keys()
    figures = [*seconds.values(), *results["queue"].values(), *results["stages"].values()]
    assert len(figures) == 7
    assert all(figure > 0 for figure in figures)
    assert side_by_side.table(results) in (benched.root / side_by_side.PAGE).read_text()


def test_trainers_folds_are_held_out_and_hold_every_question_once(benched, monkeypatch, capsys):
    """A Trainer that knows what it was trained on by heart, and nothing else, has nothing right."""
    settings = read_yaml(Settings, benched.params, "params.yaml")
    seen, asked = [], []

    def learn(model, rows, *_, **__):
        seen[:] = [ids for ids, _ in rows]

    def share_seen(model, rows, length):
        asked.append(len(rows))
        return sum(ids in seen for ids, _ in rows) / len(rows)

    monkeypatch.setattr(instead, "trainer", learn)
    monkeypatch.setattr(instead, "accuracy", share_seen)
    instead.cross_validate("fp32", settings, "distilbert")
    data = ours.load("distilbert", settings)
    assert len(asked) == FOLDS
    assert sum(asked) == len(data.train) + len(data.valid)
    said = capsys.readouterr().out
    assert said.startswith(f"{sum(asked)} questions, accuracy 0.0000, standard error 0.0000, ")
    assert said.endswith(" seconds a fold\n")
