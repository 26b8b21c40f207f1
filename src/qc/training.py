"""One training loop for every model: it knows batches, logits and losses, and nothing of what is inside a model.

Notable:
- frozen parts are run once (`cache_frozen`), their outputs take the place of the token ids
- bf16 by autocast where asked; master weights, optimizer and losses stay in fp32
- attention as plain products: for questions this short faster on a CPU than the fused backward, and deterministic
- nothing in a step waits for the device: losses are summed there and read once an epoch
- all randomness of an epoch comes from (seed, epoch), so an epoch can be repeated on its own
- the best epoch by validation accuracy, ties by validation loss, is what stays in the model
"""

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from qc.batching import Batch, Questions, padding_share, plan_batches
from qc.errors import QcError

Precision = Literal["fp32", "bf16"]

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Epochs at most.
        patience: Epochs without a better validation score after which training stops.
        batch_size: Questions a step.
        learning_rate: Peak learning rate of AdamW.
        betas: AdamW's decay rates of the running moments.
        eps: AdamW's term added to the denominator.
        weight_decay: Decoupled weight decay, applied to matrices, not to biases and norms.
        schedule: `constant`, or `linear` down to 0 at the last epoch; both after the warm-up.
        warmup: Share of all steps over which the learning rate rises from 0.
        clip_norm: Longest gradient, by its 2-norm; None for no clipping.
        label_smoothing: Share of the target spread evenly over the classes.
        fine_weight: Weight of the second task's loss beside the first's; 0 leaves it out.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
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


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where present, else cpu; QcError where cuda is asked for and absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise QcError("params.yaml: device: 'cuda' is not possible, PyTorch finds no GPU here; allowed: auto, cpu")
    return torch.device(name)


def seed_everything(seed: int, threads: int) -> None:
    """Make a run repeatable: seeds, deterministic algorithms, and a fixed number of threads, which orders the sums."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks for to be deterministic
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written


def pick_precision(name: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the device multiplies it natively (AVX512-BF16 or AMX, a recent GPU), else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context a forward pass runs in: matrix products in bf16, or everything in fp32.

    To be entered anew for every step: on leaving it forgets the bf16 copies of weights that the step then changes.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def lower_frozen(model: nn.Module, precision: Precision) -> None:
    """Keep frozen weights in the precision they are multiplied in, rather than convert them at every use."""
    if precision == "bf16":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)


def cache_frozen(model: nn.Module, questions: Questions, precision: Precision = "fp32") -> Questions:
    """Run `model.frozen` once over a split; the outputs replace the token ids.

    Args:
        model: Has `frozen(inputs, mask) -> (B, T', H)`, T' being T, or 1 where it pools.
        questions: Token ids, on the model's device.
        precision: What the matrices are multiplied in.
    """
    model.eval()
    pieces: list[Tensor] = [torch.empty(0)] * len(questions)
    for batch in questions.batches(EVALUATION_BATCH):
        with autocast(questions.values.device, precision):
            hidden = model.frozen(batch.inputs, batch.mask)
        pooled = hidden.shape[1] == 1
        for row, index in enumerate(batch.indices.tolist()):
            pieces[index] = hidden[row, : 1 if pooled else int(questions.lengths[index])]
    lengths = torch.tensor([len(piece) for piece in pieces])
    return replace(questions, values=torch.cat(pieces), lengths=lengths)


def predict(model: nn.Module, questions: Questions, precision: Precision = "fp32") -> Tensor:
    """Logits of a whole split, without dropout: (N, classes) fp32 on the CPU, in the split's order."""
    model.eval()
    logits, order = [], []
    for batch in questions.batches(EVALUATION_BATCH):
        with torch.inference_mode(), autocast(questions.values.device, precision):
            logits.append(model(batch.inputs, batch.mask)[:, : model.classes].float())
        order.append(batch.indices)
    return torch.cat(logits).cpu()[torch.cat(order).argsort()]


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
    report: Callable[[Epoch, bool], None] = lambda epoch, best: None,
) -> Result:
    """Train a model, and leave the weights of its best epoch in it.

    Args:
        model: Maps (inputs, mask) to logits (B, classes + fine_classes); what requires gradients is trained.
        train: What it learns from, on the model's device.
        valid: What the best epoch is chosen by, on the model's device.
        recipe: How.
        seed: Decides the order of the questions and the dropout of every epoch.
        precision: What the matrices are multiplied in; weights, optimizer and losses are fp32 in any case.
        report: Called after every epoch with its row of the curve, and whether it is the best so far.
    """
    device = train.values.device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = _optimizer(list(trained.values()), recipe)
    steps = math.ceil(len(train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor(recipe, steps))
    curve: list[Epoch] = []
    best, best_weights = None, {}
    shares = []
    for number in range(1, recipe.epochs + 1):
        generator = torch.Generator().manual_seed(_epoch_seed(seed, number))
        torch.manual_seed(_epoch_seed(seed, number))
        plan = plan_batches(train.lengths, recipe.batch_size, generator)
        shares.append(padding_share(train.lengths, plan))
        model.train()
        total = torch.zeros((), device=device)
        for indices in tqdm(plan, desc=f"epoch {number}", unit="batch", leave=False, disable=None):
            batch = train.batch(indices)
            with autocast(device, precision), sdpa_kernel(SDPBackend.MATH):
                logits = model(batch.inputs, batch.mask)
            loss = _loss(logits.float(), batch, model.classes, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(indices)
        scores = score(model, valid, precision)
        epoch = Epoch(number, schedule.get_last_lr()[0], total.item() / len(train), scores.loss, scores.accuracy)
        curve.append(epoch)
        better = best is None or (epoch.valid_accuracy, -epoch.valid_loss) > (best.valid_accuracy, -best.valid_loss)
        if better:
            best = epoch
            best_weights = {name: parameter.detach().clone() for name, parameter in trained.items()}
        report(epoch, better)
        if number - best.epoch >= recipe.patience:
            break
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(best_weights[name])
    return Result(curve, best, sum(shares) / len(shares))


def _loss(logits: Tensor, batch: Batch, classes: int, recipe: Recipe) -> Tensor:
    """Mean cross-entropy of a batch; with `fine_weight` the second task's is added (Caruana, Machine Learning 1997)."""
    loss = F.cross_entropy(logits[:, :classes], batch.labels, label_smoothing=recipe.label_smoothing)
    if recipe.fine_weight:
        fine = F.cross_entropy(logits[:, classes:], batch.fine_labels, label_smoothing=recipe.label_smoothing)
        loss = loss + recipe.fine_weight * fine
    return loss


def _epoch_seed(seed: int, epoch: int) -> int:
    """One seed for each pair, far apart: neighbouring seeds must not share epochs."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


def _optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)


def _learning_rate_factor(recipe: Recipe, steps_per_epoch: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: rising over the warm-up, then constant or falling in a line to 0."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "constant":
            return 1.0
        return (total - step) / max(1, total - warmup)

    return factor
