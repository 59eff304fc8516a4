"""Graphs of a bundle as its manifest describes them: files with checksums, and what they take and return."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from suffice_runtime.bundle.entries import Entries, printable

BATCH, TOKENS = "N", "T"
"""Names of the axes of inputs that may have any size: examples, always the first axis, and tokens."""


@dataclass(frozen=True)
class Tensor:
    """Name, type and shape of one input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: Type of its numbers.
        shape: Size of each axis, or its name if it may have any size.
        ranges: Least and greatest number, of integers that a table is looked up by: one pair for all, or one for each
            entry of the second axis, with None where any number is right; empty if all are.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    ranges: tuple[tuple[int, int] | None, ...] = field(default=(), compare=False)

    @classmethod
    def from_entries(cls, entries: Entries) -> "Tensor":
        """Read one input or output of a manifest."""
        name, shape = entries.text("name"), tuple(entries.items("shape"))
        if not shape or shape[0] != BATCH:
            raise entries.refuse("shape", f"with {BATCH!r} as its first axis", list(shape))
        if not all((type(size) is int and size > 0) or (isinstance(size, str) and size) for size in shape):
            raise entries.refuse("shape", "as sizes above 0 and names", list(shape))
        kind = entries.text("dtype")
        if kind not in _DTYPES:
            raise entries.refuse("dtype", f"as one of {sorted(_DTYPES)}", kind)
        return cls(name, np.dtype(kind), shape, _ranges(entries, shape))

    def allowed(self, value: int) -> int:
        """Return the number nearest to a value that is in all ranges."""
        for limits in filter(None, self.ranges):
            value = min(max(value, limits[0]), limits[1])
        return value

    def matches(self, other: "Tensor") -> bool:
        """Return whether another tensor has the same type and shape, up to the names of axes."""
        sizes, others = ([size if isinstance(size, int) else 0 for size in one.shape] for one in (self, other))
        return self.dtype == other.dtype and sizes == others

    def __str__(self) -> str:
        """Describe the tensor as messages do."""
        return f"{printable(self.name)} {self.dtype} ({', '.join(map(str, self.shape))})"


def _ranges(entries: Entries, shape: tuple[int | str, ...]) -> tuple[tuple[int, int] | None, ...]:
    """Return the ranges of an input, whole or by the entries of its second axis."""
    whole, columns = entries.optional("range"), entries.optional("ranges")
    if whole is not None and not _is_range(whole):
        raise entries.refuse("range", "as two integers in rising order", whole)
    if columns is None:
        return () if whole is None else ((whole[0], whole[1]),)
    width = shape[1] if len(shape) > 1 else None
    if whole is not None or not isinstance(columns, list) or len(columns) != width:
        raise entries.refuse("ranges", f"as a list of {width}, one range for each column, and no range", columns)
    if not all(limits is None or _is_range(limits) for limits in columns):
        raise entries.refuse("ranges", "as pairs of integers in rising order, or null", columns)
    return tuple(None if limits is None else (limits[0], limits[1]) for limits in columns)


def _is_range(limits: Any) -> bool:
    is_pair = isinstance(limits, list) and len(limits) == 2 and all(type(limit) is int for limit in limits)
    return is_pair and limits[0] <= limits[1]


_DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)


@dataclass(frozen=True)
class GraphFile:
    """Graph in a bundle: a stage of the network with its exit, or an estimator with its model.

    Attributes:
        file: Name of the file in the bundle.
        sha256: Checksum of the file, in hexadecimal digits.
        bytes: Size of the file.
        inputs: Inputs of the graph, in order.
        outputs: Outputs of the graph.
    """

    file: str
    sha256: str
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def from_entries(cls, entries: Entries, file: str) -> "GraphFile":
        """Read a graph of a manifest, whose file has to have a name."""
        inputs, outputs = (tuple(map(Tensor.from_entries, entries.inners(name))) for name in ("inputs", "outputs"))
        for name, tensors in (("inputs", inputs), ("outputs", outputs)):
            if len({tensor.name for tensor in tensors}) != len(tensors) or not tensors:
                raise entries.refuse(name, "with different names", [tensor.name for tensor in tensors])
        return cls(entries.choice("file", (file,)), entries.text("sha256"), entries.whole("bytes"), inputs, outputs)
