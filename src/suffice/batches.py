"""Uniform reading of any loader: checked inputs and labels on the model's device.

A loader is any iterable of batches: pairs `(x, y)`, mappings with the labels under `"labels"`, or inputs alone; x is
any nest of tensors. A loader needs no length: examples are counted while they are read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from suffice.network import State, batch_size, check_finite, placement
from suffice.utils import checks
from suffice.utils.nest import tree_leaves, tree_map_only

Loader = Iterable[object]


@dataclass(frozen=True)
class Batch:
    """Examples `start` to `start + size` of a pass.

    Attributes:
        inputs: Nest of tensors, batch first.
        labels: Labels or targets, (N,) or (N, …), if the batch has any.
        size: Number of examples N.
        start: Position of the first example in the pass.
    """

    inputs: State
    labels: Tensor | None
    size: int
    start: int


def read(loader: Loader, model: nn.Module) -> Iterator[Batch]:
    """Yield batches on the device and in the floating type of `model`; labels keep their own type.

    Raises:
        TypeError: If `check_loader` raises one.
        ValueError: If the loader yields no example, or an input is not finite; the message names its position.
    """
    check_loader(loader)
    device, dtype = placement(model)
    start = 0
    for raw in loader:
        x, y = _split(raw)
        inputs = tree_map_only(Tensor, lambda t: _place(t, device, dtype), x)
        size = batch_size(inputs)
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                check_finite(leaf, "inputs", start)
        if size:
            yield Batch(inputs, None if y is None else _as_labels(y, device), size, start)
        start += size
    if start == 0:
        raise ValueError(
            "expected at least one example, got an empty loader; "
            "a generator is empty the second time: pass a list or a DataLoader"
        )


def peek(loader: Loader, model: nn.Module) -> tuple[Batch, Loader]:
    """Read the first batch without losing it.

    Returns:
        The first batch, as `read` yields it, and an iterator over all batches, the first included.

    Raises:
        TypeError: If `check_loader` raises one.
        ValueError: If `read` raises one.
    """
    check_loader(loader)
    remaining, consumed = iter(loader), []

    def recorded() -> Iterator[object]:
        for raw in remaining:
            consumed.append(raw)
            yield raw

    first = next(read(recorded(), model))
    return first, chain(consumed, remaining)


def check_loader(loader: object) -> None:
    """Raise a TypeError unless `loader` iterates batches; a data set or a pair of tensors does not."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        kind, remedy = "a Dataset of single examples", "wrap it in a DataLoader"
    elif isinstance(loader, Tensor):
        kind, remedy = "a tensor", "pass [x], a list of one batch, or wrap a TensorDataset in a DataLoader"
    elif _is_pair(loader):
        kind, remedy = "a pair of tensors", "pass [(x, y)], or wrap TensorDataset(x, y) in a DataLoader"
    elif not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        kind = type(loader).__name__
        remedy = "pass its .batches()" if hasattr(loader, "batches") else "pass a DataLoader or a list of batches"
    else:
        return
    raise TypeError(f"expected batches (x, y), such as a DataLoader yields, got {kind}; {remedy}")


def read_targets(
    loader: Loader, model: nn.Module, check: Callable[[Tensor, Batch], Tensor]
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches with their checked targets.

    Args:
        loader: Iterable of batches with labels.
        model: Model that sets the device and the floating type.
        check: Function `(labels, batch) -> targets` that validates and converts the labels of a batch.

    Raises:
        ValueError: If `read` or `check` raises one, or labels are missing.
    """
    for batch in read(loader, model):
        if batch.labels is None:
            raise ValueError(
                "expected batches (x, y) or mappings with a key 'labels', got inputs alone; labels are needed here"
            )
        yield batch, check(batch.labels, batch)


def read_labeled(loader: Loader, model: nn.Module, num_classes: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches with their labels, int64 (N,) in [0, num_classes).

    Raises:
        ValueError: If `read` raises one, or labels are missing, of another length, or out of range.
    """
    return read_targets(loader, model, lambda labels, batch: class_labels(labels, batch, num_classes))


def class_labels(labels: Tensor, batch: Batch, num_classes: int) -> Tensor:
    """Convert the labels of a batch to int64 (N,).

    Raises:
        ValueError: Unless they are N integers in [0, num_classes).
    """
    if labels.shape != (batch.size,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"expected integer labels of shape ({batch.size},), "
            f"got {labels.dtype} of shape {tuple(labels.shape)} from position {batch.start}"
        )
    return checks.class_labels(labels, num_classes, batch.start)


def _is_pair(loader: object) -> bool:
    """Return whether `loader` is a single batch (x, y): two tensors of equal length; a list needs different kinds."""
    if not isinstance(loader, (tuple, list)) or len(loader) != 2:
        return False
    x, y = loader
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.shape[:1] != y.shape[:1]:
        return False
    return isinstance(loader, tuple) or (x.ndim, x.dtype) != (y.ndim, y.dtype)


def _split(raw: object) -> tuple[State, Tensor | None]:
    if isinstance(raw, Mapping):
        inputs = {key: value for key, value in raw.items() if key != "labels"}
        return inputs, raw.get("labels")
    if isinstance(raw, (tuple, list)) and len(raw) == 2:
        return raw[0], raw[1]
    if isinstance(raw, (tuple, list)) and len(raw) == 1:
        return raw[0], None
    if isinstance(raw, Tensor):
        return raw, None
    raise TypeError(f"expected a batch (x, y), a mapping with a key 'labels', or a tensor, got {type(raw).__name__}")


def _as_labels(y: object, device: torch.device) -> Tensor:
    """Convert labels to a tensor of their own type; Python floats become float32, whatever torch's default type is."""
    try:
        labels = torch.as_tensor(y, device=device)
        if labels.is_floating_point() and not isinstance(y, (Tensor, np.ndarray, np.generic)):
            labels = torch.as_tensor(y, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"expected a batch (x, y) with numbers as y, got {type(y).__name__}") from error
    return _place(labels, device, labels.dtype)


def _place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Move a tensor to a device and cast floating types; inference tensors are copied, so that gradients work."""
    placed = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
    return placed.clone() if placed.is_inference() and not torch.is_inference_mode_enabled() else placed
