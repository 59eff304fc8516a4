"""Layers that are often hard to export: recurrence, attention, norms, dropout, integers, shared weights."""

import pytest
import torch
from torch import nn

import suffice
from suffice.network import Exit, ExitNetwork
from tests import builders
from tests.deploy import bundles

SIDE, WIDTH, CLASSES = 4, 8, 3


class Pixels(nn.Module):
    """Convolution with batch norm and dropout, as a sequence of SIDE² positions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Dropout2d(0.3)
        )

    def forward(self, images):
        h = self.layers(images).flatten(2).transpose(1, 2)
        return {"h": h, "count": torch.ones(images.shape[0], dtype=torch.int32), "any": h.amax(dim=(1, 2)) > 0}


class Recurrent(nn.Module):
    """Recurrent layer with layer norm, and an integer and a flag that pass through."""

    def __init__(self, layer, shared):
        super().__init__()
        self.layer, self.norm, self.shared = layer, nn.LayerNorm(WIDTH), shared

    def forward(self, state):
        h = self.norm(self.shared(self.layer(state["h"])[0]))
        return {"h": h, "count": state["count"] + 1, "any": state["any"]}


class Attention(nn.Module):
    """Attention of torch with several heads, scaled by an integer of the state, with weights of the stage before."""

    def __init__(self, shared):
        super().__init__()
        self.attention, self.shared = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True), shared

    def forward(self, state):
        attended = self.attention(state["h"], state["h"], state["h"], need_weights=False)[0]
        h = state["h"] + self.shared(attended) / state["count"][:, None, None]
        return {**state, "h": torch.where(state["any"][:, None, None], h, -h)}


class Mean(nn.Module):
    """Mean over the positions."""

    def forward(self, state):
        return state["h"].mean(dim=1)


def network():
    """Return a network whose last two exits have one classifier, and last two stages one layer in common."""
    torch.manual_seed(0)
    shared, classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
    stages = [Pixels(), Recurrent(nn.LSTM(WIDTH, WIDTH, batch_first=True), shared), Attention(shared)]
    return ExitNetwork(stages, [Exit(Mean(), nn.Linear(WIDTH, CLASSES)), *[Exit(Mean(), classifier) for _ in "ab"]])


def images(count, seed=0):
    return torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bundle of the network; batch norm has seen data, so that its statistics are not 0 and 1."""
    net = network()
    net(images(64, seed=1))
    net.eval()
    calibrated = builders.untuned(net, images(40, seed=2))
    folder = tmp_path_factory.mktemp("layers") / "bundle"
    suffice.export(calibrated, folder, example=images(2))
    return bundles.Bundle(folder, calibrated)


@pytest.mark.parametrize("count", [1, 5])
def test_hard_layers_give_the_predictions_of_the_network(count, exported):
    x = images(count, seed=3)
    allowed = 4 * bundles.tolerance(exported.calibrated, x)  # SIDE² steps are four times as many terms
    for got, prediction in zip(exported.passes(x), exported.calibrated(x), strict=True):
        for name, values in bundles.fields(got).items():
            expected = getattr(prediction, name)
            atol = bundles.field_tolerance(name, expected, allowed)
            torch.testing.assert_close(values, expected, atol=atol, rtol=0)


def test_integers_and_flags_keep_their_types_between_graphs(exported):
    types = {value["name"]: (value["dtype"], value["shape"]) for value in exported.manifest["stages"][1]["inputs"]}
    assert types["state.0"] == ("float32", ["N", SIDE**2, WIDTH])
    assert types["state.1"] == ("int32", ["N"])
    assert types["state.2"] == ("bool", ["N"])


def test_the_network_is_as_it_was_after_an_export(exported):
    net = exported.calibrated.network
    assert not net.training
    assert all(not module._forward_hooks for module in net.modules())
    assert net.stages[1].shared is net.stages[2].shared
    exported.calibrated.check_weights()
