import pytest
import torch
from torch import nn

from suffice.network import Exit, ExitNetwork
from suffice.variation.baselines import moments
from suffice.variation.baselines.exact import computes_as
from suffice.variation.baselines.last_layer import last_layer


class Named(nn.Linear):
    """Linear layer that differs in its construction only."""

    def __init__(self):
        super().__init__(8, 8)


class Scaled(nn.Linear):
    def forward(self, x):
        return 0.1 * super().forward(x)


class Called(nn.Linear):
    def __call__(self, x):
        return 0.1 * super().__call__(x)


class Leaky(nn.ReLU):
    def forward(self, x):
        return nn.functional.leaky_relu(x)


class Half(nn.Dropout):
    def forward(self, x):
        return super().forward(x) / 2


class Normalized(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + x


class Skip(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x


class Reversed(ExitNetwork):
    def forward(self, x):
        return super().forward(x)[::-1]


class Twice(ExitNetwork):
    def advance(self, k, state):
        return super().advance(k, 2 * state)


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


def assigned(layer):
    layer.forward = lambda x: x
    return layer


def own():
    """Return modules of a tower, each of which computes something else than its class."""
    return {
        "linear": Scaled(8, 8),
        "called": Called(8, 8),
        "relu": Leaky(),
        "dropout": Half(0.2),
        "normalization": Normalized(8),
        "sequential": Skip(nn.Linear(8, 8), nn.ReLU()),
        "hook": hooked(nn.Linear(8, 8)),
        "hooked identity": hooked(nn.Identity()),
        "assigned": assigned(nn.Linear(8, 8)),
        "parametrized": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    }


def test_a_subclass_that_differs_in_its_construction_only_computes_the_same():
    assert computes_as(Named(), nn.Linear)
    assert not computes_as(Named(), nn.ReLU)
    tower = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), Named())
    assert moments.propagate(tower, torch.randn(2, 8)).mean.shape == (2, 8)


@pytest.mark.parametrize("name", own())
def test_a_module_that_computes_something_else_is_not_taken_for_its_class(name):
    tower = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), own()[name], nn.Linear(8, 1))
    with pytest.raises(TypeError, match=r"in a tower, got \w+"):
        moments.propagate(tower.eval(), torch.randn(4, 8))


@pytest.mark.parametrize("kind", [Reversed, Twice])
def test_a_network_with_a_pass_of_its_own_is_not_taken_for_its_stages(kind):
    network = kind([nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.3))], [Exit(nn.Identity(), nn.Linear(4, 2))])
    with pytest.raises(TypeError, match=f"got {kind.__name__}"):
        moments.propagate(network, torch.randn(4, 8))


def test_the_last_layer_is_a_linear_layer_with_the_forward_of_its_class():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), Named())
    assert last_layer(model, torch.randn(3, 8)).dispersion.shape == (3, 8, 8)

    class Lora(nn.Linear):
        def __init__(self):
            super().__init__(8, 4)
            self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return super().forward(x) + self.up(self.down(x))

    with pytest.raises(ValueError, match=r"expected an nn\.Linear as the last layer, got Lora with a forward"):
        last_layer(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), Lora()), torch.randn(3, 8))
