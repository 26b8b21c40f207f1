"""Optimizer and learning-rate schedule.

Source: AdamW as in Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from qc.models.parameters import TrainingConfig


def build_optimizer(trained: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """Build AdamW; the head may have its own learning rate, biases and norms have no weight decay.

    Args:
        trained: Parameters by name; names of the head begin with `head.`.
        config: Learning rates, decay rates and weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        rate = config.learning_rate
        if name.startswith("head.") and config.head_learning_rate is not None:
            rate = config.head_learning_rate
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=tuple(config.betas),
        eps=config.eps,
        fused=True,
    )


def learning_rate_factor(config: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Build the schedule: a function from step to the factor of the learning rates.

    The factor rises over the warm-up, then stays 1 (`constant`) or falls to 0 in a line (`linear`).
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        return (total - step) / max(1, total - warmup)

    return factor
