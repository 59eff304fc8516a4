"""Inputs as people pass them, as the nest of tensors that all other code reads.

A tokenizer returns a `UserDict`, a data frame float64 arrays, a loader tensors on the CPU. Every entry point converts
its inputs by `prepare`, so that the same values give the same answers in any container, floating type or device.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from suffice.network import State, batch_size, placement
from suffice.utils.nest import named_leaves, tree_leaves

_SIGNED = {torch.uint16: torch.int64, torch.uint32: torch.int64}

LABELS = "labels"
"""Key of the labels in a mapping; they are no input."""


def prepare(x: object, model: nn.Module) -> State:
    """Return inputs in plain containers, on the device and in the floating type of a model.

    Args:
        x: A tensor or NumPy array, or a nest of them, batch first: mappings of any kind, lists and tuples. Mappings
            become dicts in the same order, without the key "labels". Values that are no tensors stay.
        model: Model that sets the device and the floating type.

    Returns:
        Nest of tensors with one row for each example.

    Raises:
        TypeError: If there is no tensor, or one has no rows that examples can be selected by.
        ValueError: If tensors differ in their number of rows.
    """
    device, dtype = placement(model)
    inputs = {key: value for key, value in x.items() if key != LABELS} if isinstance(x, Mapping) else x
    inputs = _plain(inputs, lambda tensor: place(tensor, device, dtype))
    _check_rows(inputs)
    return inputs


@contextmanager
def noted(x: State) -> Iterator[None]:
    """Add the shapes of inputs to an error that a model raises on them in the body."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        shapes = ", ".join(
            f"{tuple(leaf.shape)} {leaf.dtype}{_at(name)}" for name, leaf in named_leaves(x) if isinstance(leaf, Tensor)
        )
        pair = isinstance(x, (tuple, list)) and len(x) == 2 and isinstance(x[1], Tensor) and x[1].ndim == 1
        labels = pair and not x[1].is_floating_point()
        error.add_note(
            f"raised while the model ran on inputs (or a few examples of them) of shape {shapes}"
            + ("; pass x alone, if this is a pair (x, y)" if labels else "")
        )
        raise


def place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Move a tensor to a device and cast floating types; inference tensors are copied, so that gradients work.

    Unsigned integers of 16 and 32 bits, with which torch can hardly compute, become int64.
    """
    kind = dtype if tensor.is_floating_point() else _SIGNED.get(tensor.dtype, tensor.dtype)
    placed = tensor.to(device, kind)
    return placed.clone() if placed.is_inference() and not torch.is_inference_mode_enabled() else placed


def tensor_of(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a copy of an array of any strides and byte order."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _plain(x: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return a nest with dicts in place of other mappings and tensors in place of arrays, each tensor converted."""
    if isinstance(x, Tensor):
        return convert(x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "biufc":
        return convert(tensor_of(x))
    if isinstance(x, PackedSequence):
        raise TypeError(
            "expected inputs with one row for each example, got a PackedSequence; pass the padded sequences with their "
            "lengths, (padded, lengths), and pack them in the model's forward()"
        )
    if isinstance(x, Mapping):
        return {key: _plain(value, convert) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_plain(value, convert) for value in x))
    if isinstance(x, (list, tuple)):
        values = [_plain(value, convert) for value in x]
        return values if isinstance(x, list) else tuple(values)
    return x


def _check_rows(inputs: State) -> None:
    """Raise an error that names the first tensor of a nest that has not one row for each example."""
    for name, part in inputs.items() if isinstance(inputs, dict) else [("", inputs)]:
        if isinstance(part, (str, list, tuple)) and len(part) and not any(map(torch.is_tensor, tree_leaves(part))):
            where = f" at {name!r}" if name else ""
            raise TypeError(
                f"expected tensors, batch first, got a {type(part).__name__}{where}; pass torch.tensor(…), or "
                "tokenizer(…, padding=True, return_tensors='pt')"
            )
    size = batch_size(inputs)
    for name, leaf in named_leaves(inputs):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.is_nested:
            raise TypeError(
                f"expected inputs with one row for each example, got a nested tensor{_at(name)}; pad it, "
                "torch.nested.to_padded_tensor, and pass a mask"
            )
        if not leaf.ndim:
            raise TypeError(
                f"expected inputs with one row for each example, got a single number{_at(name)} as a tensor; pass it "
                "as a Python number, or once for each example"
            )
        if len(leaf) != size:
            raise ValueError(
                f"expected inputs with one row for each of {size} examples, got {len(leaf)} rows{_at(name)}, of shape "
                f"{tuple(leaf.shape)}; repeat what all examples share, such as with .expand({size}, …), or "
                "pad examples of different lengths and stack them"
            )


def _at(name: str) -> str:
    return f" at {name}" if name else ""
