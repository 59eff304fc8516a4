"""Small work on one thread: where waiting for another thread can take longer than the work.

OpenMP's threads spin while they wait for each other. On a machine that others use too, a region of microseconds so
takes a scheduler's time slice on every core, and a fit is thousands of regions; on one with many cores all of them spin
between regions. So operations that take no longer than such a slice are not shared out.

The number of threads is changed for the calling thread alone: OpenMP keeps one for each thread. (What
`torch.set_num_threads` sets is inherited by threads that begin meanwhile.) What is small is told from shapes, never by
a clock, so that the same fit is the same to the byte.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from suffice.utils.nest import tree_leaves

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

SLICE = 1 << 23
"""Numbers that an operation on one core goes through in a time slice of a scheduler, less than ten milliseconds."""

_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)

_PRODUCTS = 16
"""Multiply-adds of a matrix product that take as long as one number elsewhere."""


@contextmanager
def small(numbers: float) -> Iterator[None]:
    """One thread for the calling thread's operations, if each is on no more than `SLICE` numbers; else as it was."""
    if numbers > SLICE:
        yield
        return
    torch.get_num_threads()  # a thread that has not computed yet would take torch's number of threads later
    with _openmp().limit(limits=1, user_api="openmp"):
        yield


@cache
def _openmp() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def of_products(rows: int, weights: Iterable[Tensor]) -> float:
    """Numbers that the largest product of so many rows with one of the weights takes; infinite on a GPU."""
    sizes = [weight.numel() if weight.device.type == "cpu" else math.inf for weight in weights]
    return rows * max(sizes, default=1) / _PRODUCTS


def of_layers(model: nn.Module, x: Any) -> float:
    """A bound on the numbers that the largest operation of a model takes for a batch x; infinite on a GPU.

    Each weight is multiplied at no more positions than the batch has, pixels or tokens; embeddings are looked up.
    """
    layers = (layer for layer in model.modules() if not isinstance(layer, _LOOKED_UP))
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    return of_products(sum(_positions(leaf) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)), weights)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[float]]:
    """Numbers that the product of each layer takes, in the passes of the body; infinite on a GPU."""
    seen: list[float] = []

    def note(layer: nn.Module, _inputs: object, output: object) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(output, Tensor):
            seen.append(of_products(output.numel(), [weight[0]]))

    handles = [layer.register_forward_hook(note) for layer in model.modules() if not isinstance(layer, _LOOKED_UP)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _positions(leaf: Tensor) -> int:
    """Of all examples: (N, C, H, W) has N·H·W, (N, T, D) and whole numbers (N, T) have N·T, (N, D) has N."""
    if leaf.ndim > 3:
        return math.prod(leaf.shape) // max(1, leaf.shape[1])
    sequence = leaf.ndim == 3 or (leaf.ndim == 2 and not leaf.is_floating_point())
    return math.prod(leaf.shape[: 1 + sequence])
