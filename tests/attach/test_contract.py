from collections import UserDict
from dataclasses import make_dataclass

import pytest
import torch
from torch import nn

import suffice
from suffice import models
from suffice.attach import contract
from suffice.network import Exit, ExitNetwork
from tests import builders


class Written(nn.Module):
    """Stage that writes into its state."""

    def forward(self, state):
        return state.mul_(2)


class Doubled(nn.Module):
    """Stage that makes two examples of each, as in test-time augmentation."""

    def forward(self, state):
        return torch.cat([state, -state])


class Unbatched(nn.Module):
    """Stage with a tensor in its state that has no batch dimension."""

    def forward(self, state):
        return {"h": state, "position": torch.arange(5)}


class Counted(nn.Module):
    """Stage that stores the number of examples in its state."""

    def forward(self, state):
        return {"h": state, "examples": len(state)}


class Centered(nn.Module):
    """Stage that mixes examples: it subtracts the batch mean."""

    def forward(self, state):
        return state - state.mean(dim=0)


class TakeHidden(nn.Module):
    """Selection of the hidden layer from a state."""

    def forward(self, state):
        return state["h"] if isinstance(state, dict) else state


def network(stage=None, features=None):
    first = Exit(features or TakeHidden(), nn.Linear(3, 2))
    return ExitNetwork([stage or nn.Identity(), TakeHidden()], [first, Exit(nn.Identity(), nn.Linear(3, 2))])


BROKEN = [
    (Written(), "to leave its input state unchanged, got an in-place write"),
    (Doubled(), r"to keep the 3 examples first .* shape \(6, 3\)"),
    (Unbatched(), r"to keep the 3 examples first .* shape \(5,\)"),
    (Counted(), "to process each example independently"),
    (Centered(), "to process each example independently"),
]


@pytest.mark.parametrize(("stage", "message"), BROKEN, ids=lambda value: type(value).__name__)
def test_a_stage_that_mixes_examples_or_writes_is_named(stage, message):
    with pytest.raises(ValueError, match=f"expected stage 0 {message}"):
        contract.check(network(stage), builders.inputs(6))


@pytest.mark.parametrize(("features", "message"), [BROKEN[0], BROKEN[4]], ids=lambda value: type(value).__name__)
def test_an_exit_that_mixes_examples_or_writes_is_named(features, message):
    with pytest.raises(ValueError, match=f"expected exit 0 {message}"):
        contract.check(network(features=features), builders.inputs(6))


def test_the_check_does_not_write_into_its_inputs():
    x = builders.inputs(6)
    before = x.clone()
    with pytest.raises(ValueError, match="in-place write"):
        contract.check(network(Written()), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_correct_networks_pass_for_any_batch_size_and_type(count, dtype):
    contract.check(builders.network(nested=True).to(dtype), builders.inputs(count).to(dtype))
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    contract.check(models.convnet(4).to(dtype), images)


def test_equal_infinities_in_a_state_pass():
    class Masked(nn.Module):
        def forward(self, state):
            return {"h": state, "mask": state.masked_fill(state < 0, -torch.inf)}

    contract.check(network(Masked()), builders.inputs(6))


@pytest.mark.parametrize("structure", ["kronecker", None])
def test_calibration_refuses_a_network_that_violates_the_contract(structure):
    x = builders.inputs(20)
    loader = builders.batched(x, torch.zeros(20, dtype=torch.long))
    before = x.clone()
    with pytest.raises(ValueError, match="expected stage 0 to leave its input state unchanged"):
        suffice.calibrate(network(Written()), loader, loader, structure=structure)
    assert torch.equal(x, before)


@pytest.mark.parametrize("container", [UserDict, make_dataclass("Hidden", ["h"])])
def test_a_state_in_a_container_from_which_examples_cannot_be_selected_is_refused(container):
    class Contained(nn.Module):
        def forward(self, state):
            return container(h=state)

    class TakeContained(nn.Module):
        def forward(self, state):
            return state["h"] if isinstance(state, UserDict) else state.h

    name = container.__name__
    with pytest.raises(
        ValueError, match=f"expected stage 0 to return its state in dicts, lists and tuples, got {name}"
    ):
        contract.check(network(Contained(), TakeContained()), torch.randn(4, 3))
