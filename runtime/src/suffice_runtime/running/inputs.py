"""Checks of the inputs of a bundle, which cost some microseconds, so that no wrong array is computed with.

The type of an array must be that of the manifest, or one that converts to it exactly and means the same: an integer of
fewer bits, a float of fewer bits, or a boolean for an integer. Pixels of 0 to 255 are never taken for floats.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import printable
from suffice_runtime.bundle.graphs import BATCH, TOKENS, Tensor
from suffice_runtime.bundle.manifest import Manifest

Array = NDArray[Any]

LABELS = "labels"
"""Key of the labels in a mapping; they are no input."""

_CONVERTS = {"f": "f", "i": "biu", "u": "bu", "b": "b"}
"""Kinds of types that may be converted to a kind."""


def prepare(x: Any, manifest: Manifest) -> list[Array]:
    """Return the arrays of a batch in the order of the inputs, of the types that the graphs take.

    Args:
        x: Array, or mapping with one array for each input by its name; a mapping in it holds inputs with names joined
            by ".". The key "labels" is left out.
        manifest: Manifest of the bundle.

    Raises:
        TypeError: For anything that is no array, or an array of another type.
        ValueError: For missing or unknown names, an array of another shape, or a number of tokens that the graphs are
            not right for.
    """
    named = _named(x, manifest)
    arrays, sizes = [], dict[str, int]()
    for tensor in manifest.inputs:
        array = _converted(named[tensor.name], tensor)
        _check_shape(array, tensor, sizes)
        arrays.append(array)
    if TOKENS in sizes:
        _check_length(sizes[TOKENS], manifest)
    return arrays


def check_finite(arrays: Sequence[Array], manifest: Manifest, positions: Array | None = None) -> None:
    """Raise a ValueError that names the first example with NaN, infinity or integers out of range in an input.

    Args:
        arrays: Arrays of a batch, in the order of the inputs.
        manifest: Manifest of the bundle.
        positions: Positions (N,) of the rows; consecutive ones by default.
    """
    for tensor, array in zip(manifest.inputs, arrays, strict=True):
        if tensor.dtype.kind == "f" and not np.isfinite(array).all():
            bad = (~np.isfinite(array)).reshape(len(array), -1).max(axis=1)
            raise not_finite(f"the input {tensor.name!r}", bad, positions)
        if tensor.ranges:
            _check_ranges(array, tensor, positions)


def not_finite(what: str, bad: Array, positions: Array | None) -> ValueError:
    """Return the error for rows `bad` (N,) with NaN or infinity."""
    rows = bad.nonzero()[0] if positions is None else np.sort(positions[bad])
    return ValueError(
        f"expected finite numbers in {what}, got NaN or infinity at position {rows[0]} ({len(rows)} of {len(bad)} "
        "examples in its batch); remove or repair those examples"
    )


def _check_ranges(array: Array, tensor: Tensor, positions: Array | None) -> None:
    """Raise a ValueError that names the first example with a number out of range, for which a graph has no error."""
    by_column = len(tensor.ranges) > 1
    least, most = _limits(tensor.ranges, array.ndim if by_column else 0)
    outside = (array < least) | (array > most)
    if outside.any():
        bad = outside.reshape(len(array), -1).max(axis=1)
        rows = bad.nonzero()[0] if positions is None else np.sort(positions[bad])
        place = np.argwhere(outside)[0]
        limits = tensor.ranges[place[1] if by_column else 0]
        assert limits is not None
        column = f"column {place[1]} of " if by_column else ""
        raise ValueError(
            f"expected numbers from {limits[0]} to {limits[1]} in {column}the input {tensor.name!r}, got "
            f"{array[tuple(place)]} at position {rows[0]} ({len(rows)} of {len(bad)} examples in its batch); remove or "
            "repair those examples"
        )


@cache
def _limits(ranges: tuple[tuple[int, int] | None, ...], ndim: int) -> tuple[Array, Array]:
    """Return the least and the greatest numbers, with one entry for each column in the second of `ndim` axes."""
    whole = np.iinfo(np.int64)
    pairs = np.array([(whole.min, whole.max) if limits is None else limits for limits in ranges], dtype=np.int64)
    shape = (1, -1, *[1] * (ndim - 2)) if ndim else ()
    return pairs[:, 0].reshape(shape), pairs[:, 1].reshape(shape)


def tokens(arrays: Sequence[Array], manifest: Manifest) -> int | None:
    """Return the number of tokens of a batch, padding included, or None if its inputs have none."""
    for tensor, array in zip(manifest.inputs, arrays, strict=True):
        if TOKENS in tensor.shape:
            return int(array.shape[tensor.shape.index(TOKENS)])
    return None


def _named(x: Any, manifest: Manifest) -> dict[str, Any]:
    """Return the values of a batch by the names of the inputs."""
    names = [tensor.name for tensor in manifest.inputs]
    if not isinstance(x, Mapping):
        if len(names) > 1:
            raise TypeError(f"expected a mapping with the arrays {names}, got {_type(x)}")
        return {names[0]: x}
    named = dict(_flat(x))
    missing, unknown = [name for name in names if name not in named], [name for name in named if name not in names]
    if missing or unknown:
        found = printable(list(named), 200)
        remedy = f"add {missing[0]!r}" if missing else f"leave out {printable(repr(unknown[0]))}"
        raise ValueError(f"expected the inputs {names}, got {found}; {remedy}")
    return named


def _flat(x: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings with their keys joined by ".", without labels."""
    for key, value in x.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix or key != LABELS:
            yield f"{prefix}{key}", value


def _converted(value: Any, tensor: Tensor) -> Array:
    """Return an array of the type of an input, contiguous."""
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"expected a NumPy array of {tensor.dtype} for the input {tensor.name!r}, got {_type(value)}; pass "
            f"numpy.asarray(x, dtype=numpy.{tensor.dtype})"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"expected an array without a mask for the input {tensor.name!r}, got a masked array; fill it, "
            "x.filled(0), and pass the mask as an input of its own if the network takes one"
        )
    if value.dtype != tensor.dtype and not _converts(value.dtype, tensor.dtype):
        raise TypeError(
            f"expected {tensor.dtype} for the input {tensor.name!r}, got {value.dtype}; convert it, if that is meant, "
            f"with x.astype(numpy.{tensor.dtype}), after the preprocessing of the training"
        )
    return np.asarray(value, dtype=tensor.dtype, order="C")


def _converts(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether every number of one type is the same number in another, and means the same."""
    return source.kind in _CONVERTS[target.kind] and np.can_cast(source, target, "safe")


def _check_shape(array: Array, tensor: Tensor, sizes: dict[str, int]) -> None:
    """Raise a ValueError unless a shape fits an input and the sizes of the axes so far, which are updated."""
    if array.ndim != len(tensor.shape):
        fits = len(array.shape) == len(tensor.shape) - 1 and all(
            isinstance(size, str) or size == got for size, got in zip(tensor.shape[1:], array.shape, strict=True)
        )
        single = "; one example needs an axis for the batch, x[None]" if fits else ""
        raise ValueError(f"expected {tensor} as an input, got shape {array.shape}{single}")
    for stated, size in zip(tensor.shape, array.shape, strict=True):
        expected = sizes.setdefault(stated, size) if isinstance(stated, str) else stated
        if size != expected:
            what = {BATCH: f", with {expected} rows as the other inputs", TOKENS: f", with {expected} tokens as there"}
            raise ValueError(f"expected {tensor} as an input{what.get(str(stated), '')}, got shape {array.shape}")


def _check_length(tokens: int, manifest: Manifest) -> None:
    """Raise a ValueError for a number of tokens that the graphs are not right for, for which they have no error."""
    least, most = manifest.lengths
    if tokens < least or (most is not None and tokens > most):
        expected = f"{least:,} tokens or more" if most is None else f"{least:,} to {most:,} tokens"
        raise ValueError(f"expected {expected} in a text, padding included, got {tokens:,}; cut or pad it")


def _type(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")
