import pytest
import torch
from torch.nn import functional

from suffice.variation.baselines.slopes import ACTIVATIONS, recognize

GRID = torch.cat([torch.linspace(-9, 9, 181, dtype=torch.float64), torch.tensor([0.0, 6.0], dtype=torch.float64)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_autograd_also_at_kinks(name):
    z = GRID.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ACTIVATIONS[name].value(z).sum(), z)
    slope = ACTIVATIONS[name].slope(GRID)
    assert slope.dtype == torch.float64
    # Both are a few dozen rounded operations on numbers up to 9 and powers of them, which cancel in the tails.
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_an_activation_is_recognized_by_its_values(name):
    assert recognize(ACTIVATIONS[name].function, ACTIVATIONS[name].value) == name


def test_other_parameters_are_not_mistaken_for_the_default_ones():
    assert recognize("leaky_relu", lambda z: functional.leaky_relu(z, 0.2)) is None
    assert recognize("elu", lambda z: functional.elu(z, 2.0)) is None
    assert recognize("gelu", functional.relu) is None
