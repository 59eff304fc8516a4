"""One thread for small operations, where synchronizing threads can take longer than the work.

OpenMP threads spin while they wait for each other. On a shared machine a parallel region of a few microseconds can thus
take a scheduler time slice on every core, and a fit has thousands of such regions; on a machine with many cores all of
them spin between regions. Operations that take no longer than a time slice therefore run on one thread.

Only the calling thread is affected: OpenMP stores a number of threads for each thread. (New threads would inherit a
number that is set with `torch.set_num_threads`.) Whether an operation is small depends on shapes and never on a clock,
so that a repeated fit gives the same bytes.
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

MAX_SMALL_WORK = 1 << 23
"""Elements that an elementwise operation on one core processes in a scheduler time slice, under ten milliseconds."""

_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)

_MACS_PER_ELEMENT = 16
"""Multiply-adds of a matrix product that take as long as one element of another operation."""


@contextmanager
def one_thread_if_small(work: float) -> Iterator[None]:
    """Run the body's operations on one thread if none of them exceeds `MAX_SMALL_WORK`.

    Args:
        work: Number of elements that the largest operation processes.
    """
    if work > MAX_SMALL_WORK:
        yield
        return
    apply_thread_count()
    with _openmp().limit(limits=1, user_api="openmp"):
        yield


def apply_thread_count() -> None:
    """Apply the number of `torch.set_num_threads` to the calling thread, from its next operation on.

    Torch applies it in a new Python thread at the first operation that it splits itself. A matrix product before it
    is split over OpenMP's default number of threads, which changes its last digits.
    """
    torch.get_num_threads()


@cache
def _openmp() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def matmul_work(rows: int, weights: Iterable[Tensor]) -> float:
    """Return the work of the largest product of `rows` rows with one of the weights, in elements; infinite on a GPU."""
    sizes = [weight.numel() if weight.device.type == "cpu" else math.inf for weight in weights]
    return rows * max(sizes, default=1) / _MACS_PER_ELEMENT


def largest_layer_work(model: nn.Module, x: Any) -> float:
    """Return an upper bound on the work of a model's largest operation for a batch x, in elements; infinite on a GPU.

    Each weight is multiplied at no more positions than the batch has pixels or tokens; embeddings are only looked up.
    """
    layers = (layer for layer in model.modules() if not isinstance(layer, _LOOKUPS))
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    return matmul_work(sum(_positions(leaf) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)), weights)


@contextmanager
def record_layer_work(model: nn.Module) -> Iterator[list[float]]:
    """Record the work of each layer's product in the passes of the body, in elements; infinite on a GPU."""
    recorded: list[float] = []

    def record(layer: nn.Module, _inputs: object, output: object) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(output, Tensor):
            recorded.append(matmul_work(output.numel(), [weight[0]]))

    handles = [layer.register_forward_hook(record) for layer in model.modules() if not isinstance(layer, _LOOKUPS)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _positions(leaf: Tensor) -> int:
    """Count the positions of a batch: N·H·W for (N, C, H, W), N·T for (N, T, D) and integers (N, T), N for (N, D)."""
    if leaf.ndim > 3:
        return math.prod(leaf.shape) // max(1, leaf.shape[1])
    sequence = leaf.ndim == 3 or (leaf.ndim == 2 and not leaf.is_floating_point())
    return math.prod(leaf.shape[: 1 + sequence])
