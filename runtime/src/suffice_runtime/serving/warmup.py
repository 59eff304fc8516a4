"""Runs of every stage before the first request, as the first run of a graph is much slower than the others."""

from collections.abc import Callable, Sequence

import numpy as np

from suffice_runtime.bundle.graphs import TOKENS, Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.running.network import Network
from suffice_runtime.running.walk import Array
from suffice_runtime.scheduling.rules.times import Times


def run_stages(network: Network, sizes: Sequence[int], times: Times, clock: Callable[[], float]) -> None:
    """Run every stage twice on examples of zeros, and record the times of the second runs.

    Args:
        network: Network of a bundle with exits.
        sizes: Numbers of examples.
        times: Measured times of the scheduler.
        clock: Function that returns the time in seconds.

    Raises:
        Exception: Whatever a graph raises, which would fail for requests, too.
    """
    for size in sizes:
        arrays: Sequence[Array] = _zeros(network.manifest, size)
        for k, graph in enumerate(network.graphs):
            graph(arrays)
            start = clock()
            result = graph(arrays)
            numbers = sum(int(np.prod(array.shape[1:])) for array in arrays)
            times.record(k, numbers, size, clock() - start)
            arrays = result.carried


def _zeros(manifest: Manifest, size: int) -> list[Array]:
    """Return inputs of zeros, or of the numbers nearest to it that are allowed, with all tokens counting."""
    tokens = manifest.costs.length or manifest.lengths[0]
    return [_filled(tensor, size, tokens, 1 if tensor.name == manifest.padding else 0) for tensor in manifest.inputs]


def _filled(tensor: Tensor, size: int, tokens: int, value: int) -> Array:
    shape = (size, *(tokens if axis == TOKENS else int(axis) for axis in tensor.shape[1:]))
    return np.full(shape, tensor.allowed(value), dtype=tensor.dtype)
