"""Batches, the training loop, and what makes a run repeatable."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from qc.config.settings import Settings
from qc.errors import QcError
from qc.inference.batches import bucket_by_length, pack
from qc.inference.logits import predict, score
from qc.models.common import HierarchicalHead, Task
from qc.models.parameters import TrainingConfig
from qc.models.scratch import ScratchClassifier, ScratchConfig
from qc.models.scratch_parameters import ScratchTrainingConfig
from qc.paths import Folders
from qc.questions.vocabulary import Vocabulary
from qc.runtime.device import pick_device, pick_precision, seed_everything
from qc.schema import read_yaml
from qc.training.data import load_training_data
from qc.training.loop import Epoch, balanced_weights, best_epoch, fit
from qc.training.precomputed import cast_frozen
from qc.training.trainer import train_model

CONFIG = TrainingConfig(
    epochs=8, patience=8, select_by="accuracy", batch_size=16, learning_rate=3e-3, head_learning_rate=None,
    betas=[0.9, 0.98], eps=1e-9,
    weight_decay=0.01, schedule="linear", warmup=0.1, clip_norm=1.0, label_smoothing=0.0, fine_weight=0.0,
    max_length=None,
)  # fmt: skip
SIZES = ScratchConfig(
    vocab_size=30, classes=3, coarse_of=(), hidden_size=16, heads=2, ffn_size=32, layers=1, max_length=12,
    dropout=0.1, convolution=0, pooling="mean", head_dropout=0.0, norm="post",
    mask_padding=True, unknown_id=1, pad_id=0,
)  # fmt: skip


def packed(input_ids, labels, max_length=12, special=(0, 0), pad_id=0):
    """Packed questions of a tokenizer that puts so many special tokens before and after a text."""
    vocabulary = Vocabulary("x", 30, pad_id, 1, [2] * special[0], [3] * special[1], "")
    return pack(vocabulary, input_ids, labels, max_length, keep_special=True)


def task(count, seed):
    """Questions whose class is told by one token, anywhere."""
    generator = torch.Generator().manual_seed(seed)
    rows, labels = [], []
    for number in range(count):
        length = int(torch.randint(3, 10, (), generator=generator))
        row = torch.randint(10, 30, (length,), generator=generator).tolist()
        label = number % 3
        row[int(torch.randint(0, length, (), generator=generator))] = 5 + label
        rows.append(row)
        labels.append(label)
    return packed(rows, labels)


def changed(config, **values):
    return config.model_copy(update=values)


def trained(config=CONFIG, seed=1, precision="fp32", **options):
    seed_everything(seed, threads=1)
    model = ScratchClassifier(SIZES)
    return model, fit(model, task(240, 1), task(60, 2), config, seed, precision, **options)


@given(
    st.lists(st.lists(st.integers(4, 29), min_size=1, max_size=14), min_size=1, max_size=60),
    st.integers(1, 20),
    st.none() | st.integers(0, 99),
)
def test_batches_give_every_token_once_in_its_place(rows, batch_size, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    questions = packed(rows, range(len(rows)), pad_id=3)
    plan = bucket_by_length(questions.lengths, batch_size, generator)
    given_back = {}
    for indices, batch in zip(plan, questions.batches(plan), strict=True):
        assert 1 <= len(indices) <= batch_size
        real = torch.ones_like(batch.inputs, dtype=torch.bool) if batch.mask is None else batch.mask
        assert real.sum(dim=1).max() == batch.inputs.shape[1]  # padded to its own longest
        assert (batch.inputs[~real] == 3).all()
        assert batch.mask is None or not batch.mask.all()
        for label, ids, mask in zip(batch.labels.tolist(), batch.inputs, real, strict=True):
            assert label not in given_back
            given_back[label] = ids[mask].tolist()
    assert given_back == {number: row[:12] for number, row in enumerate(rows)}


def test_a_long_question_is_cut_within_its_special_tokens():
    questions = packed([[2, 7, 8, 3], [2, 10, 11, 12, 13, 3]], [0, 1], 3, (1, 1))
    assert questions.batch(torch.tensor([1])).inputs.tolist() == [[2, 10, 11, 12, 3]]
    assert questions.batch(torch.tensor([0, 1])).inputs.tolist() == [[2, 7, 8, 3, 0], [2, 10, 11, 12, 3]]


def test_batches_differ_between_epochs_and_hold_little_padding():
    lengths = torch.randint(5, 40, (1600,), generator=torch.Generator().manual_seed(1))
    first, second = (bucket_by_length(lengths, 32, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    together = [{frozenset(batch.tolist()) for batch in batches} for batches in (first, second)]
    assert len(together[0] & together[1]) <= 2
    questions = packed([[7] * length for length in lengths.tolist()], [0] * 1600, 64)
    assert questions.padding_share(first) < 0.1
    assert questions.padding_share(lengths.new_tensor(range(1600)).split(32)) > 0.3


def test_lengths_rounded_up_as_on_a_gpu_change_no_logit_and_never_pass_the_longest():
    seed_everything(1, threads=1)
    model = ScratchClassifier(SIZES).eval()
    questions = task(60, 1)
    rounded = dataclasses.replace(questions, length_multiple=8)
    longest = int(questions.lengths.max())
    for indices in bucket_by_length(questions.lengths, 16):
        batch = rounded.batch(indices)
        assert batch.inputs.shape[1] in (8, 16, longest)
        assert batch.inputs.shape[1] <= longest
        assert (batch.inputs[:, questions.padded_length(indices) :] == questions.pad_id).all()
    assert torch.allclose(predict(model, rounded), predict(model, questions), atol=1e-5)
    plan = [torch.arange(60)]
    assert rounded.padding_share(plan) == questions.padding_share(plan)
    shortest = [torch.argsort(questions.lengths)[:4]]
    assert rounded.padding_share(shortest) > questions.padding_share(shortest)


def test_rare_tokens_are_counted_in_the_split():
    questions = packed([[7, 8, 7], [9, 8]], [0, 1], max_length=5)
    counts = torch.bincount(questions.values)
    sizes = {name: value for name, value in vars(SIZES).items() if name in ScratchTrainingConfig.model_fields}
    section = ScratchTrainingConfig(**{**sizes, **CONFIG.model_dump()}, min_count=2, tokenizer="x")
    rows = ScratchClassifier.create(section, Task(2, (), 5, 12, 1, 0, counts)).rows
    assert (rows != rows[1]).nonzero()[:, 0].tolist() == [7, 8]
    every = ScratchClassifier.create(changed(section, min_count=0), Task(2, (), 5, 12, 1, 0, counts)).rows
    assert every.tolist() == list(range(12))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loop_learns_a_task(precision):
    model, end = trained(precision=precision)
    assert end.curve[end.best - 1].valid_accuracy > 0.95
    assert end.curve[0].train_loss > 2 * end.curve[-1].train_loss
    held_out = task(60, 3)
    assert score(predict(model, held_out), held_out.labels).accuracy > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_end_in_the_same_bits_and_another_seed_in_others(precision):
    first, second, other = (trained(changed(CONFIG, epochs=1), seed, precision)[0] for seed in (1, 1, 2))
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)


def test_prediction_averages_the_coarse_opinion_and_the_fine_one():
    layer = HierarchicalHead(4, classes=2, coarse_of=[1, 0, 1])
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    own, fine = logits[:, :2].softmax(1), logits[:, 2:].softmax(1)
    summed = torch.stack((fine[:, 1], fine[:, 0] + fine[:, 2]), dim=1)
    torch.testing.assert_close(layer.coarse_logits(logits), (own * summed).sqrt().log())
    certain = torch.tensor([[0.0, -1e4, 0.0, 1e4, -1e4]])  # all fine classes of one coarse class underflow to 0
    assert layer.coarse_logits(certain).isfinite().all()
    plain = HierarchicalHead(4, classes=5)
    assert torch.equal(plain.coarse_logits(logits), logits)


@pytest.mark.parametrize(("select_by", "best"), [("accuracy", 3), ("macro_f1", 5), ("loss", 1), ("last", 6)])
def test_the_best_epoch_is_that_of_the_best_score_then_of_lowest_loss_then_the_first(select_by, best):
    scores = [(0.8, 0.2, 0.1), (0.9, 0.5, 0.2), (0.9, 0.4, 0.3), (0.9, 0.4, 0.4), (0.7, 0.3, 0.5), (0.7, 0.3, 0.5)]
    curve = [Epoch(n, 0.0, 0.0, loss, accuracy, f1) for n, (accuracy, loss, f1) in enumerate(scores, start=1)]
    assert best_epoch(curve, select_by) is curve[best - 1]


@pytest.mark.parametrize("select_by", ["accuracy", "macro_f1", "loss", "last"])
def test_the_best_epoch_is_restored(select_by):
    seen = []

    def report(checkpoint):
        if checkpoint.best == checkpoint.curve[-1].epoch:
            seen.append({name: weights.clone() for name, weights in checkpoint.best_weights.items()})

    rate = 0.1  # so high that the best epoch is not the last
    model, end = trained(changed(CONFIG, select_by=select_by, learning_rate=rate), report=report)
    best = best_epoch(end.curve, select_by)
    assert best.epoch == end.best
    assert (end.best == 8) == (select_by == "last")
    assert all(torch.equal(weights, seen[-1][name]) for name, weights in model.named_parameters())
    scores = score(predict(model, task(60, 2)), task(60, 2).labels)
    assert (scores.accuracy, scores.loss) == (best.valid_accuracy, best.valid_loss)
    assert scores.macro_f1 == best.valid_macro_f1


def test_scores_are_those_of_scikit_learn_macro_f1_over_the_classes_that_have_questions():
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        logits = torch.randn(6, 5, generator=generator)
        predicted, labels = logits.argmax(dim=1), torch.randint(0, 4, (6,), generator=generator)
        assert dataclasses.astuple(score(logits, labels)) == pytest.approx(
            (
                log_loss(labels, logits.double().softmax(dim=1), labels=range(5)),
                accuracy_score(labels, predicted),
                f1_score(labels, predicted, labels=labels.unique(), average="macro", zero_division=0),
            ),
            abs=1e-6,
        )


def test_balanced_weights_are_those_of_scikit_learn():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 0])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balanced_weights(labels, 3).tolist() == pytest.approx(expected.tolist())
    assert balanced_weights(labels, 4)[3].isfinite()  # a class of which train has none


def test_a_loss_that_is_no_number_ends_training_with_what_to_change():
    with pytest.raises(QcError, match=r"epoch 1: the training loss is nan; in params.yaml a lower learning_rate"):
        trained(changed(CONFIG, learning_rate=1e30, clip_norm=None))
    one = task(16, 1)  # a single step: its loss is finite, and what it leaves is not
    ruinous = changed(CONFIG, learning_rate=1e38, warmup=0.0, clip_norm=None)
    with pytest.raises(QcError, match=r"epoch 1: the validation loss is nan; in params.yaml a lower learning_rate"):
        fit(ScratchClassifier(SIZES), one, task(60, 2), ruinous, 1)


@pytest.mark.parametrize(("dropout", "equal"), [(0.0, True), (0.1, False)])
def test_processes_draw_dropout_of_their_own_and_the_same_batches(monkeypatch, dropout, equal):
    """What torchrun tells each of two processes, which train on the same questions here."""
    launch = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    losses = []
    for rank in ("0", "1"):
        for name, value in {**launch, "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        torch.manual_seed(1)
        model = ScratchClassifier(dataclasses.replace(SIZES, dropout=dropout))
        losses.append(fit(model, task(48, 1), task(12, 2), changed(CONFIG, epochs=1), 1).curve[0].train_loss)
    assert (losses[0] == losses[1]) == equal


@pytest.mark.soak
def test_compiled_training_learns_the_same():
    questions = task(48, 1)  # of 3 to 9 tokens, so padded and masked
    assert all(
        batch.mask is not None for batch in questions.batches(bucket_by_length(questions.lengths, CONFIG.batch_size))
    )
    curves = []
    for compiled in (False, True):
        seed_everything(1, threads=1)
        model = ScratchClassifier(dataclasses.replace(SIZES, dropout=0.0))
        curves.append(fit(model, questions, questions, CONFIG, 1, compiled=compiled).curve)
    for plain, compiled in zip(*curves, strict=True):
        assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_training_runs_the_model_through_the_compiler(compiled, monkeypatch):
    batches = []

    def compile(module, **options):
        assert options == {"dynamic": True}
        return lambda inputs, mask: batches.append(inputs) or module(inputs, mask)

    monkeypatch.setattr(torch, "compile", compile)
    fit(ScratchClassifier(SIZES), task(32, 1), task(8, 2), changed(CONFIG, epochs=3), 1, compiled=compiled)
    assert len(batches) == (3 * 2 if compiled else 0)


def test_every_epoch_draws_dropout_of_its_own():
    """Of one question, many times, the order in a batch changes nothing; nor do steps this small."""
    seed_everything(1, threads=1)
    model = ScratchClassifier(dataclasses.replace(SIZES, dropout=0.5))
    still = changed(CONFIG, learning_rate=1e-12, epochs=3)
    losses = {epoch.train_loss for epoch in fit(model, packed([[5, 6, 7]] * 16, [0] * 16), task(9, 1), still, 1).curve}
    assert len(losses) == 3


def test_fine_classes_are_packed_beside_the_classes():
    vocabulary = Vocabulary("x", 30, 0, 1, [], [], "")
    questions = pack(vocabulary, [[4], [5, 6]], [1, 0], 9, keep_special=True, fine_labels=np.array([3, -1]))
    assert (questions.labels.tolist(), questions.fine_labels.tolist()) == ([1, 0], [3, -1])
    assert packed([[4]], [1]).fine_labels is None
    assert questions.to(torch.device("cpu")).length_multiple == 1


def test_training_stops_when_patience_runs_out():
    still = changed(CONFIG, learning_rate=1e-12, epochs=50, patience=3)
    _, end = trained(still)
    assert len(end.curve) == end.best + 3


def test_predictions_come_in_the_order_of_the_questions():
    model, _ = trained()
    questions = task(100, 4)
    alone = [predict(model, packed(questions.batch(torch.tensor([i])).inputs.tolist(), [0])) for i in range(100)]
    torch.testing.assert_close(predict(model, questions), torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_auto_takes_what_the_machine_has():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(QcError, match="device: invalid value 'cuda'"):
            pick_device("cuda")
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, "fp32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_the_precision_goes_by_what_the_cpu_multiplies_fast(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_precision("auto", torch.device("cpu")) == precision


def test_frozen_matrices_alone_are_lowered():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[:2].requires_grad_(False)
    before = copy.deepcopy(model)
    cast_frozen(model, "fp32")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    cast_frozen(model, "bf16")
    assert [parameter.dtype for parameter in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 4


class Reference(nn.Module):
    """Two linear layers over the mean of embedded tokens: enough to train, and nothing hidden in it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.head = HierarchicalHead(8, classes=3, coarse_of=(2, 1, 0))
        self.batches = []

    @property
    def output_layer(self):
        return self.head

    def forward(self, inputs, mask):
        if self.training:
            self.batches.append((inputs, mask))
        real = torch.ones_like(inputs) if mask is None else mask.long()
        hidden = self.embedding(inputs) * real[:, :, None]
        return self.head(hidden.sum(dim=1) / real.sum(dim=1, keepdim=True))


def by_hand(model, batches, config):
    """The loop in a few lines of plain PyTorch, over the same batches; the losses of the steps."""
    rates = {"head": config.head_learning_rate, "embedding": config.learning_rate}
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameter], "lr": rates[name.split(".")[0]],
             "weight_decay": config.weight_decay if parameter.dim() > 1 else 0.0}
            for name, parameter in model.named_parameters()
        ],
        betas=config.betas, eps=config.eps,
    )  # fmt: skip
    total, warmup = len(batches), round(config.warmup * len(batches))
    factors = [(s + 1) / (warmup + 1) if s < warmup else (total - s) / (total - warmup) for s in range(total)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (*factors, 0.0)[step])
    losses = []
    for inputs, mask in batches:
        labels = torch.tensor([next(token - 5 for token in row if token in (5, 6, 7)) for row in inputs.tolist()])
        logits = model(inputs, mask)
        smoothing = {"label_smoothing": config.label_smoothing}
        loss = nn.functional.cross_entropy(logits[:, :3], labels, **smoothing)
        loss = loss + config.fine_weight * nn.functional.cross_entropy(logits[:, 3:], 2 - labels, **smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item() * len(inputs))
    return losses


def test_the_loop_is_the_plain_one_step_by_step():
    """Clipping, smoothing, the second task's weight, a short last batch, warm-up, decay and a rate for the head."""
    config = changed(
        CONFIG, epochs=3, patience=3, batch_size=7, learning_rate=3e-2, head_learning_rate=1e-2, weight_decay=0.1,
        warmup=0.5, clip_norm=0.05, label_smoothing=0.2, fine_weight=0.5, select_by="last",
    )  # fmt: skip
    train = task(46, 1)  # six batches of 7 and one of 4
    train = dataclasses.replace(train, fine_labels=2 - train.labels)
    seed_everything(1, threads=1)
    ours = Reference()
    plain = copy.deepcopy(ours)
    curve = fit(ours, train, train, config, seed=5).curve
    assert len(ours.batches) == 21
    assert [epoch.learning_rate for epoch in curve] == pytest.approx([3e-2 * 8 / 11, 3e-2 * 7 / 11, 0])  # at the end
    losses = np.reshape(by_hand(plain, ours.batches, config), (3, 7)).sum(axis=1) / 46
    assert [epoch.train_loss for epoch in curve] == pytest.approx(losses.tolist(), rel=1e-5)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fine_weight", [0.0, 0.5])
def test_a_question_of_a_class_of_weight_two_counts_as_two_questions(fine_weight):
    config = changed(CONFIG, label_smoothing=0.1, fine_weight=fine_weight, epochs=1, learning_rate=1e-30)
    rows = [[5 + number % 3, 10 + number] for number in range(6)]

    def loss(rows, weights=None):
        labels = torch.tensor([row[0] - 5 for row in rows])
        questions = dataclasses.replace(packed(rows, labels.tolist()), fine_labels=labels.clamp(max=1))
        seed_everything(1, threads=1)
        model = Reference()
        end = fit(model, questions, questions, config, 1, class_weights=weights and torch.tensor(weights))
        return end.curve[0].train_loss

    assert loss(rows, [1.0, 2.0, 1.0]) * 6 == pytest.approx(loss([*rows, rows[1], rows[4]]) * 8)
    assert loss(rows, [1.0, 1.0, 1.0]) == pytest.approx(loss(rows))


def test_class_weights_of_the_settings_reach_the_loss(here):
    settings = read_yaml(Settings, Path("params.yaml"), "params.yaml")
    losses = []
    for weights in (None, "balanced"):
        data = load_training_data("scratch", settings, Folders())
        rare = data.train.labels == 0
        kept = np.flatnonzero(~rare | (np.cumsum(rare) <= 3))
        data = dataclasses.replace(data, train=data.train.take(kept))
        losses.append(
            train_model("scratch", data, settings.model_copy(update={"class_weights": weights})).curve[0].train_loss
        )
    assert losses[0] != losses[1]


def test_the_temperature_is_fitted_on_the_validation_split_by_its_final_logits(here):
    settings = read_yaml(Settings, Path("params.yaml"), "params.yaml")
    data = load_training_data("scratch", settings, Folders())
    model = train_model("scratch", data, settings)
    logits, labels = model.valid_logits.double(), torch.tensor(data.valid.labels)
    assert nn.functional.cross_entropy(logits, labels).item() == pytest.approx(model.figures["valid"]["loss"])
    losses = [nn.functional.cross_entropy(logits / t, labels).item() for t in np.geomspace(0.05, 20, 2000)]
    best = np.geomspace(0.05, 20, 2000)[np.argmin(losses)]
    if 0.05 < best < 20:
        assert model.temperature == pytest.approx(best, rel=5e-3)
    else:
        assert model.temperature is None
