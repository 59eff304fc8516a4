"""Training on numbers of any scale."""

import pytest
import torch
from torch import nn

import suffice
from suffice.training import Checkpointing, SGDConfig, losses, train
from suffice.training.units import TargetUnits
from tests import builders

WIDTH = builders.inputs(1).shape[1]
SCALES = [(2.0**10, 5000.0), (2.0**-13, 0.0), (2.0**20, -1e7)]


def targets(x):
    return x[:, :1].sin() + x[:, 1:2] * x[:, 2:3].abs()


def network(outputs, seed=1):
    torch.manual_seed(seed)
    stages = [nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU()), nn.Sequential(nn.Linear(32, 32), nn.ReLU())]
    return suffice.ExitNetwork(stages, [suffice.Exit(nn.Identity(), nn.Linear(32, outputs)) for _ in stages])


def relative_errors(net, x, y):
    with torch.no_grad():
        outputs = net.eval()(x)
    return [float((z[:, :1] - y).square().mean().sqrt() / y.std()) for z in outputs]


@pytest.mark.parametrize(
    ("likelihood", "optimizer"),
    [("regression", None), ("heteroscedastic", None), ("regression", SGDConfig(0.02))],
)
@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_a_network_learns_targets_of_any_scale_as_well_as_those_near_one(scale, shift, optimizer, likelihood):
    x, errors = builders.inputs(400), []
    outputs = 2 if likelihood == "heteroscedastic" else 1
    for unit, origin in ((1.0, 0.0), (scale, shift)):
        net, y = network(outputs), targets(x) * unit + origin
        train(net, builders.batched(x, y, 20), epochs=8, likelihood=likelihood, optimizer=optimizer)
        errors.append(relative_errors(net, x, y))
    assert max(errors[0]) < 0.8
    assert errors[1] == pytest.approx(errors[0], abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 4096.0, 2.0**-20])
def test_exits_on_a_frozen_model_learn_targets_of_any_scale_and_leave_its_output(scale):
    x = builders.inputs(400)
    y = targets(x) * scale + 7 * scale
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    net = suffice.attach_exits(model, at=["1"], example=x[:4])
    before = model(x)
    train(net, builders.batched(x, y, 20), epochs=8, likelihood="regression")
    assert relative_errors(net, x, y)[0] < 0.85
    assert torch.equal(net(x)[-1], before)


def test_the_reported_loss_is_in_the_unit_of_the_targets():
    x = builders.inputs(64)
    y = 1000 * targets(x)
    net = network(1)
    history = train(net, [(x, y)], epochs=1, likelihood="regression", optimizer=SGDConfig(0.0))
    with torch.no_grad():
        expected = sum((z - y).square().mean() for z in net(x))
    assert history[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_network_has_its_real_outputs_while_it_is_trained():
    x = builders.inputs(200)
    y, seen = 1e6 + 1000 * targets(x), []
    net = network(1)

    def look(_):
        with torch.no_grad():
            seen.append(float(net(x)[-1].mean()))

    train(net, builders.batched(x, y, 50), epochs=2, likelihood="regression", on_step=look)
    assert seen == pytest.approx([1e6] * len(seen), rel=0.01)


def test_an_exit_that_was_trained_is_not_scaled():
    x = builders.inputs(400)
    y, loader = 1000 * targets(x), builders.batched(x, 1000 * targets(x), 20)
    net = network(1)
    train(net, loader, epochs=20, likelihood="regression")
    weights = [net.exit(k).classifier.weight.clone() for k in range(2)]
    errors = relative_errors(net, x, y)
    train(net, loader, epochs=1, likelihood="regression", optimizer=SGDConfig(0.0))
    assert all(torch.equal(net.exit(k).classifier.weight, weights[k]) for k in range(2))
    assert relative_errors(net, x, y) == errors


def test_an_interrupted_training_on_large_targets_ends_with_the_same_bytes(tmp_path):
    x = builders.inputs(300)
    loader = builders.batched(x, 3000 * targets(x) + 500, 50)
    whole, killed, resumed = network(1), network(1), network(1)
    history = train(whole, loader, epochs=3, likelihood="regression")
    checkpoint = Checkpointing(tmp_path / "run", every=0.0)

    def kill(progress):
        if (progress.epoch, progress.step) == (2, 4):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(killed, loader, epochs=3, likelihood="regression", checkpoint=checkpoint, on_step=kill)
    assert train(resumed, loader, epochs=3, likelihood="regression", checkpoint=checkpoint) == history
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))


def test_units_are_powers_of_two_and_convert_exactly():
    y = torch.tensor([[1.0, 3000.0, 7.0], [5.0, -3000.0, 7.0]])
    scale = losses.units(y, "regression")
    assert scale == (2.0, 4096.0, 1.0)
    assert losses.units(y, "heteroscedastic") == (*scale, 1.0, 1.0, 1.0)
    assert losses.units(torch.tensor([0, 1]), "classification") == ()
    net = network(3)
    before = [p.detach().clone() for p in net.parameters()]
    units = TargetUnits(net, net.parameters(), scale)
    with units.step():
        pass
    assert all(map(torch.equal, net.parameters(), before))


def test_a_network_that_was_given_as_it_is_has_no_units():
    net = network(2)
    assert TargetUnits(net, net.parameters()).parameters == list(net.parameters())
