"""One training loop for every model: it knows batches, logits and losses, and nothing of what is inside a model.

Notable:
- bf16 by autocast where asked; master weights, optimizer and losses stay in fp32
- attention as plain products (`ATTENTION`): for questions this short faster on a CPU, and deterministic
- nothing in a step waits for the device: losses are summed there and read once an epoch
- all randomness of an epoch comes from (seed, epoch): a run goes on from a state as if it had never stopped
- the best epoch by validation accuracy, ties by validation loss, is what stays in the model
- several processes go through it side by side, each with its share of every batch (`qc.processes`)
"""

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from qc.batching import Batch, Questions, padding_share, plan_batches
from qc.errors import QcError
from qc.processes import (
    averaging_gradients,
    count,
    is_first,
    local_device,
    local_threads,
    own_rank,
    share,
    summed,
)

Precision = Literal["fp32", "bf16"]

EVALUATION_BATCH = 64
# Forward and backward of 32 questions of 17 tokens, 12 heads of 32, on 2 cores of an AMD EPYC with AVX512-BF16 (medians
# of 40): MATH 2.1 ms in bf16 and 5.3 in fp32, FLASH_ATTENTION 12.7 and 3.1. With dropout, as in training, the latter
# has no kernel on a CPU. MATH casts bf16 to fp32 and multiplies in that.
ATTENTION = SDPBackend.MATH
WEIGHTS = "weights."  # the kind of tensor in a state that is not the optimizer's
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # those that are


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Epochs at most.
        patience: Epochs without a better validation score after which training stops.
        batch_size: Questions a step.
        learning_rate: Peak learning rate of AdamW.
        head_learning_rate: That of the head, if it is to have another; None: the same.
        betas: AdamW's decay rates of the running moments.
        eps: AdamW's term added to the denominator.
        weight_decay: Decoupled weight decay, applied to matrices, not to biases and norms.
        schedule: `constant`, or `linear` down to 0 at the last epoch; both after the warm-up.
        warmup: Share of all steps over which the learning rate rises from 0.
        clip_norm: Longest gradient, by its 2-norm; None for no clipping.
        label_smoothing: Share of the target spread evenly over the classes.
        fine_weight: Weight of the second task's loss beside the first's, where questions have one; 0 leaves it out.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float | None
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: Literal["constant", "linear"]
    warmup: float
    clip_norm: float | None
    label_smoothing: float
    fine_weight: float


@dataclass(frozen=True)
class Scores:
    """What a model reaches on a split: mean cross-entropy in nats, and accuracy 0 to 1."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve."""

    epoch: int
    learning_rate: float
    train_loss: float
    valid_loss: float
    valid_accuracy: float


@dataclass(frozen=True)
class State:
    """A run after a whole epoch: all it takes to go on as if it had never stopped.

    Attributes:
        curve: One row an epoch so far.
        padding_shares: Share of padding among the tokens multiplied in each epoch, 0 to 1.
        tensors: What is trained, as `weights.NAME`, and AdamW's moments and steps, as `exp_avg.NAME` and the like.
        best_weights: What was trained as it stood after the best epoch, by name.
    """

    curve: list[Epoch]
    padding_shares: list[float]
    tensors: dict[str, Tensor]
    best_weights: dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    """What `fit` found; the model holds the weights of `best`.

    Attributes:
        curve: One row an epoch.
        best: The row of the best epoch.
        padding_share: Share of padding among the tokens multiplied in training, 0 to 1.
    """

    curve: list[Epoch]
    best: Epoch
    padding_share: float


def best_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The row of highest validation accuracy; of those, of lowest validation loss; of those, the first."""
    return max(curve, key=lambda epoch: (epoch.valid_accuracy, -epoch.valid_loss))


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where present, else cpu; QcError where cuda is asked for and absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise QcError("params.yaml: device: 'cuda' is not possible, PyTorch finds no GPU here; allowed: auto, cpu")
    return local_device(name)


def seed_everything(seed: int, threads: int) -> None:
    """Make a run repeatable: seeds, deterministic algorithms, and a fixed number of threads, which orders the sums.

    Several processes on one machine share its `threads` evenly.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks for to be deterministic
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(local_threads(threads))
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms`
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written


def pick_precision(name: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the device multiplies it natively, and faster for it, else fp32.

    That goes by the kind of device, not by a measurement, which could come out one way today and another tomorrow: a
    GPU with bf16, a CPU with AMX, and one with AVX512-BF16 unless it is Intel's. Those have AMX for the purpose; where
    it is switched off, their AVX512-BF16 was seen to multiply at half the rate of fp32, AMD's at four times that rate.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        intel = "Intel" in capabilities.get("cpu_name", "")
        faster = capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not intel)
    return "bf16" if faster else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context a forward pass runs in: matrix products in bf16, or everything in fp32.

    To be entered anew for every step: on leaving it forgets the bf16 copies of weights that the step then changes.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def predict(model: nn.Module, questions: Questions, precision: Precision = "fp32") -> Tensor:
    """Logits of a whole split, without dropout: (N, classes) fp32 on the CPU, in the split's order."""
    model.eval()
    logits = torch.zeros(len(questions), model.output_layer.classes, device=questions.device)
    for indices in share(plan_batches(questions.lengths, EVALUATION_BATCH)):
        batch = questions.batch(indices)
        with torch.inference_mode(), autocast(questions.device, precision):
            found = model.output_layer.coarse_logits(model(batch.inputs, batch.mask).float())
        logits[indices.to(questions.device, non_blocking=True)] = found
    return summed(logits).cpu()  # what other processes predict is 0 here


def score(model: nn.Module, questions: Questions, precision: Precision = "fp32") -> Scores:
    """Loss and accuracy of a model on a split."""
    logits, labels = predict(model, questions, precision), questions.labels.cpu()
    return Scores(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=(logits.argmax(dim=1) == labels).float().mean().item(),
    )


def fit(
    model: nn.Module,
    train: Questions,
    valid: Questions,
    recipe: Recipe,
    seed: int,
    precision: Precision = "fp32",
    *,
    compiled: bool = False,
    start: State | None = None,
    report: Callable[[State], None] = lambda state: None,
) -> Result:
    """Train a model, and leave the weights of its best epoch in it.

    Args:
        model: Maps (inputs, mask) to logits (B, classes + fine classes); what requires gradients is trained.
        train: What it learns from, on the model's device.
        valid: What the best epoch is chosen by, on the model's device.
        recipe: How.
        seed: Decides the order of the questions and the dropout of every epoch.
        precision: What the matrices are multiplied in; weights, optimizer and losses are fp32 in any case.
        compiled: Whether the forward and backward passes of training go through `torch.compile`.
        start: A state that `report` was given, to go on from; None to begin.
        report: Called after every epoch with the state of the run, whose tensors the next epoch will change.

    Raises:
        QcError: The loss is no longer a finite number.
    """
    device = train.device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = _optimizer(trained, recipe)
    steps = math.ceil(len(train) / recipe.batch_size)
    factor = _schedule(recipe, steps)
    forward = averaging_gradients(model)
    if compiled:
        torch.use_deterministic_algorithms(True)  # says it to the compiler, too
        forward = torch.compile(forward, dynamic=True)
    curve, shares, best_weights = [], [], {}
    if start is not None:
        curve, shares, best_weights = list(start.curve), list(start.padding_shares), start.best_weights
        _restore(start.tensors, trained, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=len(curve) * steps - 1)
    while not _finished(curve, recipe):
        number = len(curve) + 1
        generator = torch.Generator().manual_seed(_epoch_seed(seed, number))
        torch.manual_seed(_epoch_seed(seed, number, own_rank()))
        plan = plan_batches(train.lengths, recipe.batch_size, generator)
        shares.append(padding_share(train.lengths, plan))
        model.train()
        total = torch.zeros((), device=device)
        bar = tqdm(plan, desc=f"epoch {number}", unit="batch", leave=False, disable=None if is_first() else True)
        for indices in bar:
            own = share(indices)
            batch = train.batch(own if len(own) else indices[:1])  # with nothing to do, take part with weight 0
            with autocast(device, precision), sdpa_kernel(ATTENTION):
                logits = forward(batch.inputs, batch.mask)
            loss = _loss(logits.float(), batch, model.output_layer.classes, recipe)
            (loss * (len(own) * count() / len(indices))).backward()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.detach() * len(own)
        train_loss = summed(total).item() / len(train)
        _check_finite(number, "training", train_loss)
        scores = score(model, valid, precision)
        _check_finite(number, "validation", scores.loss)  # the epoch's last step may have ruined the weights
        curve.append(
            Epoch(number, recipe.learning_rate * factor(number * steps), train_loss, scores.loss, scores.accuracy)
        )
        if best_epoch(curve) is curve[-1]:
            best_weights = {name: parameter.detach().clone() for name, parameter in trained.items()}
        report(State(curve, shares, _tensors(trained, optimizer), best_weights))
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best_weights[name])
    return Result(curve, best_epoch(curve), sum(shares) / len(shares))


def _check_finite(epoch: int, split: str, loss: float) -> None:
    """Refuse to go on from a loss that is no number."""
    if not math.isfinite(loss):
        raise QcError(
            f"epoch {epoch}: the {split} loss is {loss}; in params.yaml a lower learning_rate, or a clip_norm where it "
            "is null, keeps it finite"
        )


def _finished(curve: Sequence[Epoch], recipe: Recipe) -> bool:
    return bool(curve) and (len(curve) == recipe.epochs or len(curve) - best_epoch(curve).epoch >= recipe.patience)


def _tensors(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """What is trained, and what the optimizer knows of it, each under its kind and name; not copies."""
    return {f"{WEIGHTS}{name}": parameter for name, parameter in trained.items()} | {
        f"{kind}.{name}": optimizer.state[parameter][kind] for name, parameter in trained.items() for kind in MOMENTS
    }


def _restore(saved: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Put back what `_tensors` held."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[f"{WEIGHTS}{name}"])
            moments = ((kind, saved[f"{kind}.{name}"]) for kind in MOMENTS)
            optimizer.state[parameter] = {kind: found.to(parameter.device, copy=True) for kind, found in moments}


def _loss(logits: Tensor, batch: Batch, classes: int, recipe: Recipe) -> Tensor:
    """Mean cross-entropy of a batch; with `fine_weight` the second task's is added (Caruana, Machine Learning 1997)."""
    loss = F.cross_entropy(logits[:, :classes], batch.labels, label_smoothing=recipe.label_smoothing)
    if recipe.fine_weight and batch.fine_labels is not None:
        fine = F.cross_entropy(logits[:, classes:], batch.fine_labels, label_smoothing=recipe.label_smoothing)
        loss = loss + recipe.fine_weight * fine
    return loss


def _epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """One seed for each triple, far apart: neighbouring seeds must not share epochs, nor processes their dropout."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1)


def _optimizer(trained: Mapping[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), the head with a rate of its own, biases and norms without decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        rate = recipe.learning_rate
        if name.startswith("head.") and recipe.head_learning_rate is not None:
            rate = recipe.head_learning_rate
        decay = recipe.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": each, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for (rate, decay), each in groups.items()
        ],
        betas=tuple(recipe.betas),
        eps=recipe.eps,
        fused=True,
    )


def _schedule(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor of the learning rates at a step: rising over the warm-up, then 1 or falling in a line to 0."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "constant":
            return 1.0
        return (total - step) / max(1, total - warmup)

    return factor
