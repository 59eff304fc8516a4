"""Tensors as a loaded artifact has them, so that a fitted object and its reloaded copy compute the same bytes.

Kernels choose their way, and with it the last digits, by layout: what is fitted is often column-major or a view (a
decomposition, a transpose, rows of a stack), what is loaded never is. So all that can be saved derives from `Stored`.
"""

from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Bytes: torch aligns to them what it allocates on a processor; bytes from a file lie anywhere."""


class Stored:
    """Base of frozen dataclasses that are saved: their tensors lie as in a loaded artifact from the start."""

    kept_in: ClassVar[torch.dtype | None] = None
    """The type of all its floating-point tensors, where it has one."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            if field.init:
                object.__setattr__(self, field.name, _stored_in(getattr(self, field.name), self.kept_in))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names of their fields, as an artifact keeps them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def stored(tensor: Tensor) -> Tensor:
    """The tensor itself if it is row-major, alone in its storage and aligned; else a copy that is. Differentiable."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # inside a transformation it lies nowhere
        return tensor
    alone = tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.nbytes
    if alone and tensor.stride() == row_major(tensor.shape) and tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor made in that shape; of dimensions of size 1 too, which `is_contiguous` overlooks."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _stored_in(value: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return stored(value if dtype is None or not value.is_floating_point() else value.to(dtype))
    return tuple(_stored_in(one, dtype) for one in value) if isinstance(value, tuple) else value
