"""Pooling: one vector for a sequence."""

from torch import Tensor


def masked_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Average over the real positions: (B, T, H) and (B, T) bool -> (B, H); over all positions without a mask.

    The sum is taken in fp32 whatever the precision of `hidden`, so that padding does not change a question's mean.
    Autocast would lower a product with the mask to bf16.
    """
    hidden = hidden.float()
    if mask is None:
        return hidden.mean(dim=1)
    real = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    return (hidden * real).sum(dim=1) / real.sum(dim=1)
