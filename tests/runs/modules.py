"""A module of a user: functions that build a network and give data, as import paths name them."""

from types import SimpleNamespace

import torch

from tests import builders

CLASSES = 4


def network():
    """Return a network with random weights, the same in each call."""
    return builders.network(classes=CLASSES)


def other():
    """Return a network of the same shapes with other weights."""
    return builders.network(classes=CLASSES, seed=1)


def narrow():
    """Return a network of other shapes."""
    return builders.network(widths=(6, 5), classes=CLASSES)


def nothing():
    """Return no network."""


def sets():
    """Return loaders of both parts and names of the classes."""
    loaders = {}
    for seed, part in enumerate(("validation", "test")):
        x = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed))
        loaders[part] = [(x[:40], torch.arange(40) % CLASSES), (x[40:], torch.arange(20) % CLASSES)]
    return SimpleNamespace(**loaders, classes=tuple("abcd"))


def unlabeled():
    """Return data without a test part."""
    return SimpleNamespace(validation=sets().validation)
