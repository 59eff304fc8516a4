"""Stages as modules from tensors to tensors; states that cannot pass between graphs are refused."""

import pytest
import torch
from torch import nn

import suffice
from suffice.deploy.graphs.inputs import Inputs
from suffice.deploy.graphs.stage import prepare_stage
from suffice.deploy.graphs.step import Step
from suffice.network import Exit, ExitNetwork
from tests import builders

X = builders.inputs(30)


class Stage(nn.Module):
    """Stage with a state that a function makes of a hidden layer."""

    def __init__(self, state):
        super().__init__()
        self.linear, self.state = nn.Linear(3, 5), state

    def forward(self, x):
        return self.state(self.linear(x).tanh())


class First(nn.Module):
    """First tensor of a state, or the state."""

    def forward(self, state):
        return state["h"]


class After(nn.Module):
    """Stage that reads a state."""

    def forward(self, state):
        return {"h": state["h"] * state.get("factor", 1)}


def network(state):
    torch.manual_seed(0)
    stages = [Stage(state), After()]
    return ExitNetwork(stages, [Exit(First(), nn.Linear(5, 4)) for _ in stages]).eval()


def prepared(state):
    """Return the first stage of a network with a state, and the values behind it."""
    net = network(state)
    calibrated = builders.untuned(net, X, structure=None)
    probe = Inputs.of(net, X).probe(net)
    return prepare_stage(net.stages[0], net.exit(0), Step.of(calibrated, None, 0), probe)


def test_plain_values_are_part_of_the_next_graph():
    _, after = prepared(lambda h: {"h": h, "factor": 3, "name": "hidden"})
    assert list(after.first) == ["state.0", "running.0", "running.1"]
    assert after.template.fill([torch.ones(3, 5)])["factor"] == 3


def test_an_exit_without_an_ensemble_hands_on_the_state_alone():
    net = network(lambda h: {"h": h})
    calibrated = builders.untuned(net, X, structure=None, ensemble=False)
    probe = Inputs.of(net, X).probe(net)
    stage, after = prepare_stage(net.stages[0], net.exit(0), Step.of(calibrated, None, 0), probe)
    assert [value.name for value in stage.outputs] == ["next.state.0", "log_probs", "aleatoric"]
    assert list(after.first) == ["state.0"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda h: {"h": h, "total": h.sum()}, r"behind stage 0: expected 'next\.state\.1' with one row for each"),
        (lambda h: {"h": h, "columns": h.mean(dim=0)}, r"expected 'next\.state\.1' with one row for each"),
        (lambda h: {"h": h, "rows": h.shape[0]}, "do not depend on the inputs, got 3 and 2"),
        (lambda h: {"h": h, "parts": list(h.split(1))}, "of one structure, got another"),
        (lambda h: {"h": h, "half": h.bfloat16()}, "in a type that NumPy has"),
    ],
    ids=["scalar", "columns", "number of rows", "list of rows", "bfloat16"],
)
def test_a_state_that_cannot_pass_to_the_next_graph_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        prepared(state)


def test_a_stage_gives_what_the_calibrated_network_predicts():
    net = network(lambda h: {"h": h})
    calibrated = builders.untuned(net, X)
    stage, _ = prepare_stage(net.stages[0], net.exit(0), Step.of(calibrated, None, 0), Inputs.of(net, X).probe(net))
    with torch.no_grad():
        results = dict(zip([value.name for value in stage.outputs], stage.module(X), strict=True))
    torch.testing.assert_close(results["log_probs"], calibrated(X)[0].log_probs)


def test_the_score_of_a_policy_is_an_output_of_all_exits_but_the_last():
    net = network(lambda h: {"h": h})
    calibrated = builders.untuned(net, X, structure=None)
    policy = suffice.allocate(calibrated, [X], 0.9, score="patience")
    probe = Inputs.of(net, X).probe(net)
    first, probe = prepare_stage(net.stages[0], net.exit(0), Step.of(calibrated, policy, 0), probe)
    last, _ = prepare_stage(net.stages[1], net.exit(1), Step.of(calibrated, policy, 1), probe)
    names = [[value.name for value in stage.outputs] for stage in (first, last)]
    assert names[0][-1] == "score"
    assert {"next.streak.label", "next.streak.count"} <= set(names[0])
    assert names[1] == ["log_probs", "aleatoric"]
    assert {value.name: value.dtype for value in last.before.values}["streak.count"] == "float64"
