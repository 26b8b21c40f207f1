"""The training loop, one for every model: it sees batches, logits and losses, never the inside of a model.

Notable:
- no step waits for the device: losses are summed there and read once an epoch
- all randomness of an epoch comes from (seed, epoch), so a resumed run gives the same bytes as an uninterrupted one
- the weights of the best epoch stay: that of the best validation score, ties by validation loss
- several processes run it side by side, each with its shard of every batch (`qc.runtime.process_group`)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from qc.errors import QcError
from qc.inference.batches import Batch, PackedDataset, bucket_by_length
from qc.inference.logits import predict, score
from qc.models.common import Classifier
from qc.models.parameters import SelectBy, TrainingConfig
from qc.questions.labels import UNKNOWN
from qc.runtime.device import Precision, autocast, deterministic_attention
from qc.runtime.process_group import all_reduce_sum, data_parallel, is_main_process, launched_rank, shard, world_size
from qc.training.optimizer import build_optimizer, learning_rate_factor

WEIGHTS = "weights."  # prefix of the names of trained parameters in a checkpoint
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # prefixes of the names of the optimizer's tensors


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve."""

    epoch: int
    learning_rate: float
    train_loss: float
    valid_loss: float
    valid_accuracy: float
    valid_macro_f1: float


@dataclass(frozen=True)
class Checkpoint:
    """A run after a whole epoch: everything that resuming it needs.

    Attributes:
        curve: One row an epoch so far.
        padding_shares: Share of padding among the tokens multiplied in each epoch, 0 to 1.
        tensors: Trained parameters as `weights.NAME`; AdamW's steps and moments as `step.NAME`, `exp_avg.NAME`, ...
        best: Number of the best epoch; 0 before the first.
        best_weights: Trained parameters after the best epoch, by name.
    """

    curve: list[Epoch] = field(default_factory=list)
    padding_shares: list[float] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def best_epoch(curve: Sequence[Epoch], select_by: SelectBy) -> Epoch:
    """Row of the best validation score; ties go to the lowest validation loss, then to the first."""
    score = {
        "accuracy": lambda epoch: epoch.valid_accuracy,
        "macro_f1": lambda epoch: epoch.valid_macro_f1,
        "loss": lambda epoch: 0.0,  # all tie
        "last": lambda epoch: epoch.epoch,
    }[select_by]
    return max(curve, key=lambda epoch: (score(epoch), -epoch.valid_loss))


def fit(
    model: Classifier,
    train: PackedDataset,
    valid: PackedDataset,
    config: TrainingConfig,
    seed: int,
    precision: Precision = "fp32",
    *,
    class_weights: Tensor | None = None,
    forward: nn.Module | None = None,
    compiled: bool = False,
    start: Checkpoint | None = None,
    report: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Checkpoint:
    """Train a model; it ends with the weights of its best epoch, and returns the run after the last.

    Args:
        model: Its parameters that require gradients are trained.
        train: Training split, on the model's device.
        valid: Validation split, on the model's device; chooses the best epoch.
        config: Optimizer, schedule, batch size and epochs.
        seed: Decides the order of the questions and the dropout of every epoch.
        precision: Of the matrix products; weights, optimizer and losses are always fp32.
        class_weights: Weight of the questions of each class in the loss, (classes,); None: all the same.
        forward: What maps a batch of the splits to the model's logits; None: the model itself.
        compiled: Run the training passes through `torch.compile`.
        start: Checkpoint to resume from; None: start from epoch 1.
        report: Called after every epoch with a checkpoint, whose tensors the next epoch changes in place.

    Raises:
        QcError: The loss is not finite.
    """
    device = train.device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = build_optimizer(trained, config)
    steps = math.ceil(len(train) / config.batch_size)
    factor = learning_rate_factor(config, steps)
    parallel = data_parallel(forward or model)
    if compiled:
        torch.use_deterministic_algorithms(True)  # the compiler reads this flag
        parallel = torch.compile(parallel, dynamic=True)
    run = start or Checkpoint()
    if start is not None:
        _restore(start.tensors, trained, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=len(run.curve) * steps - 1)
    while len(run.curve) < config.epochs and len(run.curve) - run.best < config.patience:
        number = len(run.curve) + 1
        generator = torch.Generator().manual_seed(_epoch_seed(seed, number))
        torch.manual_seed(_epoch_seed(seed, number, launched_rank()))
        plan = bucket_by_length(train.lengths, config.batch_size, generator)
        local = [shard(indices) for indices in plan]
        # An empty shard takes part with weight 0.
        batches = train.batches([part if len(part) else all_of[:1] for part, all_of in zip(local, plan, strict=True)])
        model.train()
        total = torch.zeros((), device=device)
        bar = tqdm(plan, desc=f"epoch {number}", unit="batch", leave=False, disable=None if is_main_process() else True)
        for indices, part, batch in zip(bar, local, batches, strict=True):
            with autocast(device, precision), deterministic_attention(device):
                logits = parallel(batch.inputs, batch.mask)
            loss = _loss(logits.float(), batch, model.output_layer.classes, config, class_weights)
            (loss * (len(part) * world_size() / len(indices))).backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(trained.values(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.detach() * len(part)
        train_loss = all_reduce_sum(total).item() / len(train)
        _check_finite(number, "training", train_loss)
        scores = score(predict(model, valid, precision, forward), valid.labels.cpu())
        _check_finite(number, "validation", scores.loss)  # the last step may have broken the weights
        rate = config.learning_rate * factor(number * steps)
        curve = [*run.curve, Epoch(number, rate, train_loss, scores.loss, scores.accuracy, scores.macro_f1)]
        best, best_weights = best_epoch(curve, config.select_by).epoch, run.best_weights
        if best == number:
            best_weights = {name: parameter.detach().clone() for name, parameter in trained.items()}
        shares = [*run.padding_shares, train.padding_share(plan)]
        run = Checkpoint(curve, shares, _tensors(trained, optimizer), best, best_weights)
        report(run)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(run.best_weights[name])
    return run


def _check_finite(epoch: int, split: str, loss: float) -> None:
    """Raise QcError where a loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise QcError(
            f"epoch {epoch}: the {split} loss is {loss}; in params.yaml a lower learning_rate, or a clip_norm where it "
            "is null, keeps it finite"
        )


def _tensors(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Trained parameters and optimizer state, see `Checkpoint.tensors`; not copies."""
    return {f"{WEIGHTS}{name}": parameter for name, parameter in trained.items()} | {
        f"{kind}.{name}": value
        for name, parameter in trained.items()
        for kind, value in optimizer.state[parameter].items()
    }


def _restore(saved: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Copy the tensors of a checkpoint into parameters and optimizer."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[f"{WEIGHTS}{name}"])
            optimizer.state[parameter] = {
                kind: saved[f"{kind}.{name}"].to(parameter.device, copy=True)
                for kind in MOMENTS
                if f"{kind}.{name}" in saved
            }


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weigh classes by N / (classes * N of the class): equal in sum, 1 on average; from class numbers (N,)."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1))


def _loss(
    logits: Tensor, batch: Batch, classes: int, config: TrainingConfig, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy; `fine_weight` adds that of the fine classes (Caruana, "Multitask Learning", 1997).

    Class weights multiply both losses of a question, and are not normalized by batch: shards of a batch stay equal. A
    question of unknown fine class has the first loss alone.
    """
    by_question = {"reduction": "none", "label_smoothing": config.label_smoothing, "ignore_index": UNKNOWN}
    loss = F.cross_entropy(logits[:, :classes], batch.labels, **by_question)
    if config.fine_weight and batch.fine_labels is not None:
        loss = loss + config.fine_weight * F.cross_entropy(logits[:, classes:], batch.fine_labels, **by_question)
    return (loss if class_weights is None else loss * class_weights[batch.labels]).mean()


def _epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Derive an independent seed for each (seed, epoch, rank)."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1)
