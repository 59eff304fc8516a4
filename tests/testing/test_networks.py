import pytest
import torch
from torch import nn

import suffice
from suffice import models
from suffice.network import Exit, ExitNetwork
from suffice.testing import check_exit_network
from tests import builders
from tests.robustness.surroundings import anywhere

X = builders.inputs(6)


class Stage(nn.Module):
    """Stage with one fault."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault, self.linear = fault, nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, state):
        return FAULTS[self.fault](self, state) if self.fault else self.linear(state)


def after(effect):
    """Return a stage that does something besides."""

    def forward(stage, state):
        effect(stage)
        return stage.linear(state)

    return forward


FAULTS = {
    "writes": lambda stage, state: state.mul_(2),
    "mixes": lambda stage, state: stage.linear(state - state.mean(dim=0)),
    "doubles": lambda stage, state: torch.cat([state, state]),
    "drops": lambda stage, state: nn.functional.dropout(stage.linear(state), 0.5, training=True),
    "overflows": lambda stage, state: stage.linear(state) / 0,
    "far companions": lambda stage, state: stage.linear(state) + (len(state) > 5),
    "last is special": lambda stage, state: torch.cat([stage.linear(state[:-1]), stage.linear(state[-1:]) + 1]),
    "counts": after(lambda stage: stage.calls.add_(1)),
    "drifts": after(lambda stage: stage.linear.weight.data.add_(1e-4)),
    "seeds": after(lambda stage: torch.rand(1)),
    "mode": after(lambda stage: stage.train()),
}


def network(fault=None, cls=ExitNetwork):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exits = [Exit(nn.Identity(), nn.Linear(3, 4)) for _ in range(2)]
        return cls([Stage(fault), Stage()], exits)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("writes", "processes examples independently"),
        ("mixes", "processes examples independently"),
        ("doubles", "processes examples independently"),
        ("last is special", "processes examples independently"),
        ("drops", "processes examples independently|is deterministic"),
        ("counts", "leaves the model as it was"),
        ("drifts", "leaves the model as it was|is deterministic"),
        ("mode", "leaves the model as it was"),
        ("seeds", "leaves torch's default generator alone"),
        ("overflows", "returns logits"),
        ("far companions", "answers do not depend on companions"),
    ],
)
def test_a_network_with_a_fault_violates_a_named_rule(fault, rule):
    with pytest.raises(
        AssertionError, match=rf"^rule ['\"]({rule})['\"]: expected|^rule ['\"]({rule})['\"]: ValueError"
    ):
        check_exit_network(network(fault), X)


class Reversed(ExitNetwork):
    def forward(self, x):
        return super().forward(x)[::-1]


class Single(ExitNetwork):
    def forward(self, x):
        return super().forward(x)[-1]


class Wide(ExitNetwork):
    def forward(self, x):
        return [logits.double() for logits in super().forward(x)]


@pytest.mark.parametrize(
    ("cls", "rule", "got"),
    [
        (Reversed, "advances to the same logits", "others by"),
        (Single, "returns logits", "Tensor"),
        (Wide, "returns logits", "float64"),
    ],
)
def test_a_pass_that_is_not_the_stages_one_by_one_violates_a_named_rule(cls, rule, got):
    with pytest.raises(AssertionError, match=rf"^rule '{rule}': expected .*, got .*{got}"):
        check_exit_network(network(cls=cls), X)


def test_a_plain_model_is_no_network_with_exits():
    with pytest.raises(
        AssertionError, match=r"rule 'is an ExitNetwork': .* got Linear; suffice.attach_exits makes one"
    ):
        check_exit_network(nn.Linear(3, 4), X)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_networks_of_every_type_pass(nested, dtype):
    check_exit_network(builders.network(nested=nested).to(dtype), X.to(dtype))


@pytest.mark.parametrize("name", ["convnet", "resnet", "vit"])
def test_reference_models_pass(name):
    make = {
        "convnet": lambda: models.convnet(num_classes=3, widths=(4, 8)),
        "resnet": lambda: models.resnet(20, num_classes=3),
        "vit": lambda: models.vit(num_classes=3, patch_size=8, width=16, depth=4, heads=2, exits_after=(1, 3)),
    }[name]
    x = torch.rand(4, 1 if name == "convnet" else 3, 32, 32, generator=torch.Generator().manual_seed(0))
    check_exit_network(make(), x)


def test_an_attached_network_passes():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    check_exit_network(suffice.attach_exits(model, at=["1"], num_classes=4, example=X), X)


@pytest.mark.parametrize("fault", [None, "drifts", "counts"])
def test_the_network_itself_is_only_read(fault):
    net = network(fault).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        check_exit_network(net, X)
    except AssertionError:
        assert fault
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="expected a batch of at least 3 different examples to check with, got 2"):
        check_exit_network(network(), X[:2])


@anywhere
def test_the_ambient_modes_change_nothing(surrounding):
    right, wrong = network(), network("mixes")
    with surrounding():
        check_exit_network(right, X)
        with pytest.raises(AssertionError, match="processes examples independently"):
            check_exit_network(wrong, X)
