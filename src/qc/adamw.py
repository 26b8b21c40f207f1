"""AdamW (Loshchilov and Hutter, ICLR 2019) over named parameters, by PyTorch's own fused kernel.

`torch.optim.AdamW` does the same; its class imports PyTorch's compiler on first use, which takes as long as the rest of
a training stage's start.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


@dataclass
class Group:
    """Parameters that are treated alike.

    Attributes:
        factor: By what their learning rate differs from the one that a step is given.
        weight_decay: Decoupled weight decay.
        parameters: The parameters by name.
    """

    factor: float
    weight_decay: float
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


class AdamW:
    """The optimizer of `qc.training`.

    Attributes:
        tensors: What it knows of the parameters: `step.NAME`, the steps taken, a scalar, and `exp_avg.NAME` and
            `exp_avg_sq.NAME`, the running moments, each of its parameter's shape; in fp32, on its device.
    """

    def __init__(self, groups: list[Group], betas: tuple[float, float], eps: float) -> None:
        """Begin with no step taken.

        Args:
            groups: What is trained; every parameter is to have a gradient at every step.
            betas: Decay rates of the running moments.
            eps: The term added to the denominator.
        """
        self._groups = groups
        self._betas = betas
        self._eps = eps
        self.tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters():
            self.tensors[f"step.{name}"] = torch.zeros((), device=parameter.device)
            self.tensors[f"exp_avg.{name}"] = torch.zeros_like(parameter, requires_grad=False)
            self.tensors[f"exp_avg_sq.{name}"] = torch.zeros_like(parameter, requires_grad=False)

    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients, and forget those."""
        with torch.no_grad():
            for group in self._groups:
                adamw(
                    list(group.parameters.values()),
                    [parameter.grad for parameter in group.parameters.values()],
                    [self.tensors[f"exp_avg.{name}"] for name in group.parameters],
                    [self.tensors[f"exp_avg_sq.{name}"] for name in group.parameters],
                    [],
                    [self.tensors[f"step.{name}"] for name in group.parameters],
                    fused=True,
                    amsgrad=False,
                    beta1=self._betas[0],
                    beta2=self._betas[1],
                    lr=learning_rate * group.factor,
                    weight_decay=group.weight_decay,
                    eps=self._eps,
                    maximize=False,
                )
        for _, parameter in self._parameters():
            parameter.grad = None

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for group in self._groups:
            yield from group.parameters.items()
