"""Canonical memory layout of saved tensors, so that a fitted object and its reloaded copy compute the same bytes.

Kernels choose their algorithm by memory layout, and with it the last digits of a result. Fitted tensors are often
column-major or views (of a decomposition, a transpose, rows of a stack); loaded ones never are. So every class that
can be saved derives from `Serializable`, which copies its tensors to the layout of loaded ones.
"""

from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Alignment in bytes of torch's own allocations on a CPU; bytes that come from a file may have any."""


class Serializable:
    """Base class of frozen dataclasses that can be saved: their tensors have the canonical layout from the start."""

    storage_dtype: ClassVar[torch.dtype | None] = None
    """Type that all floating-point tensors are converted to; None to keep their own."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            if field.init:
                object.__setattr__(self, field.name, _canonical(getattr(self, field.name), self.storage_dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by field name, as they are stored in an artifact."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def canonical_layout(tensor: Tensor) -> Tensor:
    """Return the tensor if it is row-major, the only one in its storage, and aligned; else such a copy.

    Gradients flow through the copy.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # has no memory of its own inside a transform
        return tensor
    is_alone = tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.nbytes
    if is_alone and tensor.stride() == row_major_strides(tensor.shape) and tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a new tensor of that shape, also for dimensions of size 1, which `is_contiguous` skips."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _canonical(value: Any, dtype: torch.dtype | None) -> Any:
    """Return a tensor, or a tuple of tensors, in canonical layout and the given type; other values as they are."""
    if isinstance(value, Tensor):
        return canonical_layout(value if dtype is None or not value.is_floating_point() else value.to(dtype))
    return tuple(_canonical(item, dtype) for item in value) if isinstance(value, tuple) else value
