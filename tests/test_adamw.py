"""The optimizer against PyTorch's own class."""

import pytest
import torch
from torch import nn

from qc.adamw import AdamW, Group


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_it_takes_the_steps_of_pytorchs_optimizer(eps):
    ours, theirs = model(), model()
    names = dict(ours.named_parameters())
    matrices = Group(1.0, 0.1, {name: names[name] for name in ("0.weight", "2.weight")})
    biases = Group(0.5, 0.0, {name: names[name] for name in ("0.bias", "2.bias")})
    own = AdamW([matrices, biases], (0.8, 0.95), eps)
    groups = [
        {
            "params": [parameter for parameter in theirs.parameters() if parameter.dim() == dimensions],
            "weight_decay": decay,
        }
        for dimensions, decay in ((2, 0.1), (1, 0.0))
    ]
    other = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=eps, fused=True)
    generator = torch.Generator().manual_seed(2)
    for rate in (0.1, 0.05, 0.02):
        inputs = torch.randn(5, 3, generator=generator)
        for each in (ours, theirs):
            each(inputs).square().sum().backward()
        other.param_groups[0]["lr"], other.param_groups[1]["lr"] = rate, rate * 0.5
        other.step()
        other.zero_grad()
        own.step(rate)
        assert all(parameter.grad is None for parameter in ours.parameters())
        for (name, parameter), expected in zip(names.items(), theirs.parameters(), strict=True):
            assert torch.equal(parameter, expected)
            for kind, value in other.state[expected].items():
                assert torch.equal(own.tensors[f"{kind}.{name}"], value)
    assert len(own.tensors) == 3 * len(names)
