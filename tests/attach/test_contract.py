import pytest
import torch
from torch import nn

import suffice
from suffice import models
from suffice.attach import contract
from suffice.network import Exit, ExitNetwork
from tests import builders


class Written(nn.Module):
    """Writes into its state."""

    def forward(self, state):
        return state.mul_(2)


class Doubled(nn.Module):
    """One example becomes two, as under augmentation at test time."""

    def forward(self, state):
        return torch.cat([state, -state])


class Unbatched(nn.Module):
    """A tensor in the state that belongs to no example."""

    def forward(self, state):
        return {"h": state, "position": torch.arange(5)}


class Counted(nn.Module):
    """The number of examples in the state."""

    def forward(self, state):
        return {"h": state, "examples": len(state)}


class Centred(nn.Module):
    """Examples see each other."""

    def forward(self, state):
        return state - state.mean(dim=0)


class Taken(nn.Module):
    """The hidden layer of a state."""

    def forward(self, state):
        return state["h"] if isinstance(state, dict) else state


def network(stage=None, features=None):
    first = Exit(features or Taken(), nn.Linear(3, 2))
    return ExitNetwork([stage or nn.Identity(), Taken()], [first, Exit(nn.Identity(), nn.Linear(3, 2))])


BROKEN = [
    (Written(), "to leave the state that it is given as it is"),
    (Doubled(), r"to keep the 3 examples first .* shape \(6, 3\)"),
    (Unbatched(), r"to keep the 3 examples first .* shape \(5,\)"),
    (Counted(), "to take each example by itself"),
    (Centred(), "to take each example by itself"),
]


@pytest.mark.parametrize(("stage", "message"), BROKEN, ids=lambda value: type(value).__name__)
def test_a_stage_that_does_not_take_each_example_by_itself_is_named(stage, message):
    with pytest.raises(ValueError, match=f"expected stage 0 {message}"):
        contract.check(network(stage), builders.inputs(6))


@pytest.mark.parametrize(("features", "message"), [BROKEN[0], BROKEN[4]], ids=lambda value: type(value).__name__)
def test_so_is_an_exit(features, message):
    with pytest.raises(ValueError, match=f"expected exit 0 {message}"):
        contract.check(network(features=features), builders.inputs(6))


def test_the_inputs_that_it_tries_are_not_written_into():
    x = builders.inputs(6)
    before = x.clone()
    with pytest.raises(ValueError, match="writes into it"):
        contract.check(network(Written()), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_networks_that_keep_it_pass_whatever_the_batch_and_the_type(count, dtype):
    contract.check(builders.network(nested=True).to(dtype), builders.inputs(count).to(dtype))
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    contract.check(models.convnet(4).to(dtype), images)


def test_infinities_in_a_state_are_compared():
    class Masked(nn.Module):
        def forward(self, state):
            return {"h": state, "mask": state.masked_fill(state < 0, -torch.inf)}

    contract.check(network(Masked()), builders.inputs(6))


@pytest.mark.parametrize("structure", ["kronecker", None])
def test_calibration_refuses_what_breaks_it(structure):
    x = builders.inputs(20)
    loader = builders.batched(x, torch.zeros(20, dtype=torch.long))
    before = x.clone()
    with pytest.raises(ValueError, match="expected stage 0 to leave the state"):
        suffice.calibrate(network(Written()), loader, loader, structure=structure)
    assert torch.equal(x, before)
