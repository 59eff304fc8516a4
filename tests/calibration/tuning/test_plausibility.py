"""Validation data that can hardly be meant are warned of, and others are not."""

import pytest
import torch

import suffice
from tests import builders

NET, X = builders.network(), builders.inputs(400)


def fit(network, labels):
    return suffice.calibrate(network, None, builders.batched(X, labels), structure=None, ensemble=False)


def test_an_exit_with_the_same_outputs_for_all_inputs_is_named():
    network = builders.network()
    torch.nn.init.zeros_(network.exit(1).classifier.weight)
    with pytest.warns(UserWarning, match="the same for all 400 validation examples at exit 1; train new exits first"):
        fit(network, builders.sampled_labels(NET(X)[-1]))


def test_labels_of_other_inputs_are_warned_of():
    labels = (5 * NET(X)[-1]).argmax(dim=1)
    fit(NET, labels)  # right, without a word
    with torch.no_grad():
        network = builders.network()
        network.exit(2).classifier.weight.mul_(20)
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    with pytest.warns(UserWarning, match="no better than the frequencies of the labels; check that inputs and labels"):
        fit(network, shuffled)
