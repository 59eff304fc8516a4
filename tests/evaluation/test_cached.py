from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import suffice
from suffice import cost
from suffice.evaluation import cached
from tests.builders import batched, inputs, network, sampled_labels


def labeled(net, count=300, seed=0):
    x = inputs(count, seed=seed)
    with torch.no_grad():
        return batched(x, sampled_labels(net(x)[-1], seed=seed), 50)


def test_a_network_over_features_gives_the_logits_of_the_network():
    net = network()
    x, y = map(torch.cat, zip(*labeled(net), strict=True))
    ((phi, labels),) = cached.compute(net, labeled(net))
    assert_close(cached.network_on_features(net)(phi), net(x))
    assert torch.equal(labels, y)


@pytest.mark.filterwarnings("ignore:the temperature")
def test_calibrating_on_features_gives_the_same_as_on_inputs():
    net = network()
    train, val = labeled(net), labeled(net, seed=1)
    costs = cost.count(net, train[0][0])
    direct = suffice.calibrate(net, train, val, link="plugin")
    features = [cached.compute(net, loader) for loader in (train, val)]
    calibrated = suffice.calibrate(cached.network_on_features(net), *features, link="plugin", costs=costs)
    assert calibrated.costs == replace(direct.costs, fixed=True)
    assert calibrated.costs_for(features[1].phi) == calibrated.costs
    for exit_, expected in zip(calibrated.exits, direct.exits, strict=True):
        assert_close(exit_.temperature, expected.temperature, rtol=1e-3, atol=0)
        assert_close(exit_.posterior.feature_values, expected.posterior.feature_values)
        assert_close(exit_.posterior.class_values, expected.posterior.class_values)


def test_a_subset_keeps_features_and_labels_together():
    net = network()
    features = cached.compute(net, labeled(net))
    rows = torch.tensor([7, 3])
    subset = features.subset(rows)
    assert torch.equal(subset.labels, features.labels[rows])
    assert torch.equal(subset.phi[1], features.phi[1][rows])
    assert len(subset) == 1


def test_inputs_without_labels_have_the_label_minus_one():
    assert (cached.compute(network(), batched(inputs(5))).labels == -1).all()
