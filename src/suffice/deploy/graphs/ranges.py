"""Ranges of the integers in the inputs of a graph, since an ONNX graph takes −1 for the last row of a table.

They are those of the tables that an input is an index into, unchanged but for its type and shape.
"""

import sys
from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

_aten = torch.ops.aten

_AS_THEY_ARE = frozenset(
    getattr(_aten, name).default
    for name in (
        *("_to_copy", "alias", "clone", "contiguous", "detach", "expand", "flatten", "lift_fresh_copy", "reshape"),
        *("unsqueeze", "view"),
    )
    if hasattr(_aten, name) and hasattr(getattr(_aten, name), "default")
) | {_aten.to.dtype, _aten.flatten.using_ints, _aten.squeeze.dim}
"""Operations whose output holds the same numbers as their input."""

_TABLES = {
    _aten.embedding.default,
    _aten.embedding_bag.default,
    _aten.embedding_bag.padding_idx,
    _aten._embedding_bag.default,
    _aten._embedding_bag_forward_only.default,
}
"""Look-ups `(table, index)` along the first dimension."""

_ALONG = {
    _aten.index_select.default,
    _aten.gather.default,
    _aten.scatter.src,
    _aten.scatter.value,
    _aten.scatter_add.default,
    _aten.scatter_reduce.two,
}
"""Look-ups and updates `(tensor, dimension, index)`."""

_WHOLE = (0, sys.maxsize, 1)
"""Start, end and step of a slice that leaves out nothing."""

Ranges = Mapping[str, tuple[int, int]]
"""Least and greatest number of each input that has a range, by its name."""


def index_ranges(program: torch.export.ExportedProgram, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the ranges of the inputs of a traced graph, whose names are given in order."""
    inputs = dict(zip(program.graph_signature.user_inputs, names, strict=True))
    found: dict[str, tuple[int, int]] = {}
    for node in program.graph.nodes:
        source, size = _index(node)
        while isinstance(source, Node) and _keeps_all(source):
            source = source.args[0]
        name = inputs.get(source.name) if isinstance(source, Node) else None
        if name is not None and size is not None:
            found[name] = (0, min(size - 1, found.get(name, (0, size - 1))[1]))
    return found


def joined(parts: Sequence[Ranges]) -> dict[str, tuple[int, int]]:
    """Return the ranges in which inputs are in the ranges of each of several graphs."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: (0, min(part[name][1] for part in parts if name in part)) for name in names}


def _keeps_all(node: Node) -> bool:
    """Return whether the output of an operation holds the same numbers as its first input, all of them."""
    if node.target is _aten.slice.Tensor:
        return (*node.args[2:], *_WHOLE[len(node.args) - 2 :]) == _WHOLE
    return node.target in _AS_THEY_ARE


def _index(node: Node) -> tuple[object, int | None]:
    """Return the index of a look-up without negative numbers, and the size of its table; None for any other node."""
    if node.target in _TABLES:
        return node.args[1], int(node.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
    if node.target in _ALONG:
        return node.args[2], _fixed(node.args[0].meta["val"].shape[node.args[1]])  # type: ignore[union-attr]
    if node.target is _aten.one_hot.default and len(node.args) > 1 and isinstance(node.args[1], int):
        return node.args[0], node.args[1]
    return None, None


def _fixed(size: object) -> int | None:
    return size if isinstance(size, int) else None
