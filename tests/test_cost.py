import pytest
import torch
from torch import nn

from suffice import cost
from suffice.cost import Costs
from suffice.network import Exit, ExitNetwork
from tests import builders


def convolutional():
    stages = [nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, bias=False))]
    exits = [
        Exit(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, 5)), nn.Linear(5, 3)) for w in (4, 6)
    ]
    return ExitNetwork(stages, exits)


def test_convolutions_and_linear_layers_are_counted_as_by_hand():
    costs = cost.count(convolutional(), torch.zeros(7, 1, 8, 8))
    assert costs.stages == (8 * 8 * 4 * 1 * 9, 2 * 2 * 6 * 4 * 9)
    assert costs.exits == (4 * 5 + 5 * 3, 6 * 5 + 5 * 3)
    assert costs.uncertainty == (0, 0)


@pytest.mark.parametrize("nested", [False, True])
def test_the_cost_is_that_of_one_example_whatever_the_batch_and_the_state(nested):
    net = builders.network(widths=(6, 5), classes=4, inputs=3, nested=nested)
    for size in (1, 9):
        costs = cost.count(net, builders.inputs(size))
        assert costs.stages == (3 * 6, 6 * 5)
        assert costs.exits == (6 * 4, 5 * 4)


def test_counting_leaves_modes_and_buffers_alone():
    stage = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    net = ExitNetwork([stage], [Exit(nn.Identity(), nn.Linear(4, 2))]).train()
    before = [tensor.clone() for tensor in net.state_dict().values()]
    cost.count(net, builders.inputs(5))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_cumulative_costs_add_stages_exits_and_uncertainty():
    costs = Costs(stages=(10, 20, 30), exits=(1, 2, 3), uncertainty=(0, 0, 0))
    assert costs.network == costs.cumulative == (11, 33, 66)
    dearer = costs.with_uncertainty((100, 200, 300))
    assert dearer.network == (11, 33, 66)
    assert dearer.cumulative == (111, 333, 666)


def test_the_uncertainty_of_a_calibrated_network_is_in_its_cumulative_cost():
    net, x = builders.network(widths=(6, 5), classes=4), builders.inputs(50)
    plain = builders.untuned(net, x, None)
    assert plain.costs.cumulative == plain.costs.network
    few, many = (builders.untuned(net, x, samples=samples) for samples in (8, 16))
    assert few.costs.network == plain.costs.network
    for k, exit_ in enumerate(few.exits):
        rank, (width, kept) = exit_.offsets.values.shape[0], exit_.posterior.compressed().feature_vectors.shape
        assert few.costs.uncertainty[k] == width * kept + (kept + 1) * 4 + 4 * rank + rank * 8 * 4
        assert many.costs.uncertainty[k] - few.costs.uncertainty[k] == rank * 8 * 4
