"""Dropout with cheap masks: as likely, as large and as independent as PyTorch's, from the seed alone."""

import pytest
import torch
from torch import nn

from qc.models.common import Dropout
from qc.models.encoder import use_cheap_dropout


def drop(p, x, seed=1):
    torch.manual_seed(seed)
    return Dropout(p)(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_the_share_of_zeros_is_p_and_the_others_are_scaled(p, dtype):
    found = drop(p, torch.ones(1000, 999, dtype=dtype))  # no multiple of 4
    kept = found != 0
    standard_error = (p * (1 - p) / found.numel()) ** 0.5
    assert abs(1 - p - kept.double().mean().item()) < 4 * standard_error + 2**-16
    assert (found[kept] == torch.ones((), dtype=dtype) * torch.tensor(1 / (1 - p), dtype=dtype)).all()


def test_elements_are_dropped_independently():
    """Neighbours share a draw; rows, columns and the four of a draw must not be correlated."""
    dropped = (drop(0.3, torch.ones(2000, 400)) == 0).double() - 0.3
    for distance in (1, 2, 3, 4, 400):
        flat = dropped.flatten()
        correlation = (flat[distance:] * flat[:-distance]).mean() / 0.21
        assert abs(correlation) < 5 / len(flat) ** 0.5


def test_the_seed_decides_the_mask_and_the_number_of_threads_does_not():
    x = torch.ones(64, 384)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.append(drop(0.1, x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    assert not torch.equal(found[0], drop(0.1, x, seed=2))
    torch.manual_seed(1)
    layer = Dropout(0.1)
    assert not torch.equal(layer(x), layer(x))


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(50, 70, requires_grad=True)
    found = drop(0.4, x)
    found.sum().backward()
    assert torch.equal(x.grad != 0, found != 0)
    assert torch.allclose(x.grad[found != 0], torch.tensor(1 / 0.6))


def test_outside_training_and_at_zero_nothing_is_dropped():
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


def test_the_dropout_of_other_libraries_is_replaced_and_keeps_its_mode():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.2), nn.Dropout1d(0.3)), nn.Dropout(0.4).eval())
    use_cheap_dropout(layers)
    assert [type(each) for each in layers[1]] == [Dropout, nn.Dropout1d]
    assert (type(layers[2]), layers[2].p, layers[2].training, layers[1][0].training) == (Dropout, 0.4, False, True)
