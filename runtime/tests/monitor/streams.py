"""Streams of losses, and what their simulation may show."""

import math

import numpy as np


def most_false(streams, alpha, chance=1e-4):
    """Return the least k with P(Bin(streams, alpha) > k) ≤ chance: more false alarms than k refute a level of α."""
    logs = [
        math.lgamma(streams + 1)
        - math.lgamma(k + 1)
        - math.lgamma(streams - k + 1)
        + k * math.log(alpha)
        + (streams - k) * math.log1p(-alpha)
        for k in range(streams + 1)
    ]
    tails = np.exp(logs)[::-1].cumsum()[::-1]  # P(Bin ≥ k)
    return int((tails > chance).sum()) - 1


def all_paths(length):
    """Return every sequence (length, 2^length) of 0 and 1, one in each column."""
    return (np.arange(2**length) >> np.arange(length)[:, None] & 1).astype(float)


def chances(paths, means):
    """Return the probability of each path (paths,) under conditional means (length, paths)."""
    return np.where(paths == 1, means, 1 - means).prod(axis=0)


def bursts(streams, length, mean, generator):
    """Return losses (length, streams) that depend on those before them, each of the given conditional mean.

    After a loss of 0 the next one is 0 or 1, after another one it is 0 or twice the mean.
    """
    losses = np.zeros((length, streams))
    size = np.ones(streams)
    for row in losses:
        row[:] = size * (generator.random(streams) < mean / size)
        size = np.where(row > 0, 2 * mean, 1.0)
    return losses
