"""Dropout whose masks cost little on a CPU.

PyTorch draws a random number for each element, in one thread. Here a draw of 64 bits decides on four elements. The
masks depend on the seed alone, not on the number of threads.

Source: Srivastava et al., "Dropout", JMLR 2014.
"""

import torch
from torch import Tensor, nn

BITS = 16  # of randomness for an element: the share of zeros is right to 1/65536


def drop(x: Tensor, p: float) -> Tensor:
    """Set a share of `p` of the elements of `x`, on a CPU, to zero and multiply the others by 1 / (1 - p)."""
    if p == 0:
        return x
    words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)  # -32768 to 32767
    kept = drawn >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with cheaper masks on a CPU; elsewhere, and in compiled code, it is PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x`, in training."""
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return drop(x, self.p)


def use_cheap_dropout(module: nn.Module) -> None:
    """Replace every `torch.nn.Dropout` in a module by `Dropout`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
