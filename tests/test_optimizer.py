"""Groups of parameters, and the learning-rate schedule, by hand."""

import pytest
import torch
from torch import nn

from qc.models.parameters import TrainingConfig
from qc.training.optimizer import build_optimizer, learning_rate_factor

CONFIG = TrainingConfig(
    epochs=5, patience=5, select_by="accuracy", batch_size=16, learning_rate=3e-3, head_learning_rate=1e-2,
    betas=[0.8, 0.95], eps=1e-7, weight_decay=0.1, schedule="linear", warmup=0.2, clip_norm=None, label_smoothing=0.0,
    fine_weight=0.0, max_length=None,
)  # fmt: skip
SHAPES = {"words.weight": (5, 2), "norm.weight": (2,), "head.weight": (3, 2), "head.bias": (3,), "heads.weight": (2, 2)}


def changed(**values):
    return CONFIG.model_copy(update=values)


@pytest.mark.parametrize(("head_rate", "rate"), [(1e-2, 1e-2), (None, 3e-3)])
def test_the_head_may_have_its_own_rate_and_vectors_do_not_decay(head_rate, rate):
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    optimizer = build_optimizer(parameters, changed(head_learning_rate=head_rate))
    names = {parameter: name for name, parameter in parameters.items()}
    groups = {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "words.weight": (3e-3, 0.1), "norm.weight": (3e-3, 0.0), "heads.weight": (3e-3, 0.1),
        "head.weight": (rate, 0.1), "head.bias": (rate, 0.0),
    }  # fmt: skip
    for group in groups.values():
        assert group["initial_lr"] == group["lr"]  # without it a resumed run has no schedule
        assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.8, 0.95), 1e-7, False)
        assert group["fused"]


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        # 5 epochs of 2 steps, of which 2 warm up.
        ({}, [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ({"schedule": "constant"}, [1 / 3, 2 / 3, *[1] * 9]),
        ({"warmup": 0.0}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),
        ({"warmup": 0.24}, [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),  # 2.4, so 2
        ({"warmup": 0.9}, [*[(step + 1) / 10 for step in range(9)], 1, 0]),
        ({"warmup": 1.0}, [*[(step + 1) / 11 for step in range(10)], 0]),
    ],
)
def test_the_rate_rises_then_stays_or_falls_to_zero(changes, factors):
    factor = learning_rate_factor(changed(**changes), steps_per_epoch=2)
    assert [factor(step) for step in range(11)] == pytest.approx(factors)
