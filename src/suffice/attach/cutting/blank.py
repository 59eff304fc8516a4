"""Tensors without values: a shape, a type and a device, and where the values would come from.

Operations on a blank give blanks with the shapes that the operations on tensors would give; they cost no arithmetic.
Values are needed by a condition, by an operation in place on a tensor, or by an output that is read. Each of these
raises an error or returns a blank, so a missing value is never replaced by a wrong one.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from suffice.utils.nest import tree_leaves, tree_map, tree_map_only

_VALUE_FREE = frozenset(
    f"aten::{name}"
    for name in (
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    )
)
"""Operations whose results depend on the shape and the type of a tensor, and not on its values."""


_PRE_DISPATCH = torch._C.DispatchKeySet(torch._C.DispatchKey.PreDispatch)


class BlankValueError(RuntimeError):
    """Error for an operation that needs the values of a blank.

    Attributes:
        origins: Keys of the values that are missing.
    """

    def __init__(self, origins: frozenset[str], operation: str) -> None:
        super().__init__(f"{operation} needs the values of {sorted(origins)}")
        self.origins = origins


class Blank(Tensor):
    """Tensor without values.

    Attributes:
        origins: Keys of the values from which its own would be computed.
    """

    origins: frozenset[str]

    @staticmethod
    def like(tensor: Tensor, device: torch.device, origins: Iterable[str]) -> "Blank":
        """Return a blank with the shape, strides and type of a tensor, on a device."""
        blank: Blank = Tensor._make_wrapper_subclass(
            Blank, tensor.size(), strides=tensor.stride(), dtype=tensor.dtype, device=device
        )
        blank.origins = frozenset(origins)
        return blank

    @staticmethod
    def of(shape: Iterable[int], dtype: torch.dtype, device: torch.device, origin: str) -> "Blank":
        """Return a contiguous blank."""
        return Blank.like(torch.empty(tuple(shape), dtype=dtype, device="meta"), device, [origin])

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the shape and the origins."""
        return f"Blank({tuple(self.shape)}, {self.dtype}, of {sorted(self.origins)})"

    def tolist(self) -> Any:
        """Raise a `BlankValueError`: there are no values to list."""
        raise BlankValueError(self.origins, "tolist")

    def numpy(self, *, force: bool = False) -> Any:
        """Raise a `BlankValueError`: there are no values to convert."""
        raise BlankValueError(self.origins, "numpy")

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return what a function returns, outside a trace by `torch.export`, which refuses tensors of other types."""
        del types
        with torch._C.DisableTorchFunctionSubclass(), torch._C._ExcludeDispatchKeyGuard(_PRE_DISPATCH):
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return what an operation returns, without values."""
        del types
        kwargs = kwargs or {}
        blanks = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Blank)]
        if func._schema.name in _VALUE_FREE:
            return func(*tree_map_only(Blank, _without_memory, args), **tree_map_only(Blank, _without_memory, kwargs))
        origins = origins_of(blanks)
        if any(_writes(argument.alias_info) for argument in func._schema.arguments):
            return _write_into_blank(func, args, kwargs, origins)
        result = _run(func, args, kwargs, origins)
        return tree_map_only(Tensor, lambda tensor: Blank.like(tensor, blanks[0].device, origins), result)


def origins_of(nest: Any) -> frozenset[str]:
    """Return the origins of all blanks in a nest; empty if it has all its values."""
    return frozenset[str]().union(*(leaf.origins for leaf in tree_leaves(nest) if isinstance(leaf, Blank)))


def _write_into_blank(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], origins: frozenset[str]) -> Any:
    """Return the blank that an operation writes into; a tensor cannot take values that are missing."""
    written = [
        argument
        for argument, declared in zip(args, func._schema.arguments, strict=False)
        if _writes(declared.alias_info)
    ]
    if not written or not all(isinstance(argument, Blank) for argument in written) or "out" in kwargs:
        raise BlankValueError(origins, str(func._schema.name))
    _run(func, args, kwargs, origins)
    for blank in written:
        blank.origins |= origins
    return written[0]


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], origins: frozenset[str]) -> Any:
    """Run an operation on shapes alone."""
    args, kwargs = tree_map(_to_meta, (args, kwargs))
    try:
        return func(*args, **kwargs)
    except Exception as error:  # without an implementation for shapes alone, as for results whose shape is a value
        raise BlankValueError(origins, str(func._schema.name)) from error


def _to_meta(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def _without_memory(blank: Blank) -> Tensor:
    return torch.empty((), dtype=blank.dtype, device=blank.device).expand(blank.shape)


def _writes(alias: Any) -> bool:
    return alias is not None and bool(alias.is_write)
