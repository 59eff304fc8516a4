"""Uniform reading of any loader: checked inputs and labels on the model's device.

A loader is any iterable of batches: pairs `(x, y)`, mappings with the labels under `"labels"`, or inputs alone; x is
any nest of tensors (`suffice.inputs`). The second entry of a pair is never an input: of `(ids, lengths)` the lengths
are read as labels, which cannot be detected; several inputs are a mapping, or one nest, `((ids, lengths), y)`. A loader
needs no length: examples are counted while they are read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from suffice.inputs import LABELS, place, prepare, tensor_of
from suffice.network import State, batch_size, check_finite, placement
from suffice.utils import checks
from suffice.utils.nest import tree_leaves

Loader = Iterable[object]

_LIKE_LABELS = frozenset(("label", "label_ids", "target", "targets", "y", "class", "classes"))
"""Keys, in lower case, that other libraries have in place of "labels"."""


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
    device, start = placement(model)[0], 0
    for raw in loader:
        x, y = _split(raw)
        inputs = prepare(x, model)
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
    elif isinstance(loader, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(loader, Tensor) else "an array"
        remedy = "pass [x], a list of one batch, or wrap a TensorDataset in a DataLoader"
    elif isinstance(loader, Mapping):
        kind, remedy = f"a mapping ({type(loader).__name__})", "pass [batch], a list of one batch, or a DataLoader"
    elif _is_pair(loader):
        kind, remedy = "a pair of tensors", "pass [(x, y)], or wrap TensorDataset(x, y) in a DataLoader"
        if _are_alike(*loader):
            kind += " of one shape and type"
            remedy = f"{remedy}, if they are inputs and labels; pass list(…) of them, if they are two batches of inputs"
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
            raise ValueError(_no_labels_message(batch.inputs))
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
            f"expected integer labels of shape ({batch.size},), got {labels.dtype} of shape {tuple(labels.shape)} "
            f"from position {batch.start}{_shape_remedy(labels, batch.size, num_classes)}"
        )
    return checks.class_labels(labels, num_classes, batch.start)


def _shape_remedy(labels: Tensor, size: int, num_classes: int) -> str:
    """Return what to do about labels that are not N integers, or nothing if it is unclear."""
    if labels.shape == (size, 1):
        return "; pass labels.squeeze(1)" + (".long()" if labels.is_floating_point() else "")
    if labels.shape == (size, num_classes) and bool(((labels == 0) | (labels == 1)).all()):
        if bool((labels.sum(dim=1) == 1).all()):
            return "; of one-hot rows pass labels.argmax(dim=1)"
        return (
            "; in these rows none or several of the classes apply, which a softmax over classes does not model: "
            "a network with one sigmoid for each class does: pass likelihood='multilabel'"
        )
    if labels.shape == (size,) and not labels.is_complex():
        if bool(labels.isnan().any()):
            return "; NaN stands for a missing label: leave those examples out"
        if bool((labels == labels.round()).all()):
            return "; pass labels.long()"
        return "; pass a likelihood of numbers, such as 'regression', if they are no classes"
    return ""


def _no_labels_message(inputs: State) -> str:
    """Compose the error message for a batch without labels where they are needed."""
    got = "inputs alone; labels are needed here"
    if isinstance(inputs, Mapping):
        names = [key for key in inputs if str(key).lower() in _LIKE_LABELS]
        got = f"a mapping with the keys {', '.join(map(repr, inputs))}; labels are needed here"
        got += f": rename {names[0]!r} to {LABELS!r}" if names else ""
    return f"expected batches (x, y) or mappings with a key {LABELS!r}, got {got}"


def _is_pair(loader: object) -> TypeGuard[Sequence[Any]]:
    """Return whether `loader` is one batch (x, y): two tensors (or arrays) of one length; a list needs two kinds.

    The two batches that `x.split(n)` returns are none, though they are a tuple too.
    """
    if not isinstance(loader, (tuple, list)) or len(loader) != 2:
        return False
    x, y = loader
    if not all(isinstance(each, (Tensor, np.ndarray)) for each in loader) or x.shape[:1] != y.shape[:1]:
        return False
    if isinstance(loader, tuple):
        return not _are_rows_of_one(x, y)
    return (x.ndim, x.dtype) != (y.ndim, y.dtype)


def _are_alike(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (x.shape, x.dtype) == (y.shape, y.dtype)


def _are_rows_of_one(x: Any, y: Any) -> bool:
    """Return whether two tensors of one shape are the rows of one tensor that they are views of, first to last."""
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x._base is None or x._base is not y._base:
        return False
    base = x._base
    if base.shape[1:] != x.shape[1:] or not _are_alike(x, y) or (x.stride(), y.stride()) != (base.stride(),) * 2:
        return False
    return y.storage_offset() - x.storage_offset() == len(x) * x.stride(0) > 0


def _split(raw: object) -> tuple[State, Tensor | None]:
    if isinstance(raw, Mapping):
        return raw, raw.get(LABELS)
    if isinstance(raw, (tuple, list)) and len(raw) == 2:
        return raw[0], raw[1]
    if isinstance(raw, (tuple, list)) and len(raw) == 1:
        return raw[0], None
    if isinstance(raw, (Tensor, np.ndarray)):
        return raw, None
    kind, remedy = type(raw).__name__, ""
    if isinstance(raw, (tuple, list)):
        kind, remedy = f"a {kind} of {len(raw)}", "; pass several inputs as one, ((x1, x2), y), and leave out weights"
    raise TypeError(f"expected a batch (x, y), a mapping with a key 'labels', or a tensor, got {kind}{remedy}")


def _as_labels(y: Any, device: torch.device) -> Tensor:
    """Convert labels to a tensor of their own type; Python floats become float32, whatever torch's default type is."""
    try:
        if isinstance(y, Tensor):
            labels = y
        elif hasattr(y, "__array__"):  # NumPy, pandas, Arrow
            labels = tensor_of(np.asarray(y))
        else:
            labels = torch.as_tensor(y)
            labels = labels.float() if labels.is_floating_point() else labels
    except (TypeError, ValueError, RuntimeError) as error:
        of = f" of {type(y[0]).__name__}" if isinstance(y, (list, tuple)) and y else ""
        raise TypeError(
            f"expected a batch (x, y) with numbers as y, got {type(y).__name__}{of}; number the classes from 0"
        ) from error
    return place(labels, device, labels.dtype)
