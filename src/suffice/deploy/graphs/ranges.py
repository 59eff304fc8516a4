"""Ranges of the integers in the inputs of a graph, since an ONNX graph takes −1 for the last row of a table.

They are those of the tables that an input is an index into, unchanged but for its type and shape.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

_AS_THEY_ARE = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("_to_copy", "alias", "clone", "contiguous", "detach", "expand", "flatten", "lift_fresh_copy", "reshape"),
        *("unsqueeze", "view"),
    )
    if hasattr(torch.ops.aten, name) and hasattr(getattr(torch.ops.aten, name), "default")
) | {torch.ops.aten.to.dtype, torch.ops.aten.flatten.using_ints, torch.ops.aten.squeeze.dim}
"""Operations whose output holds the same numbers as their input."""

Ranges = Mapping[str, tuple[int, int]]
"""Least and greatest number of each input that has a range, by its name."""


def index_ranges(program: torch.export.ExportedProgram, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the ranges of the inputs of a traced graph, whose names are given in order."""
    inputs = dict(zip(program.graph_signature.user_inputs, names, strict=True))
    found: dict[str, tuple[int, int]] = {}
    for node in program.graph.nodes:
        source, size = _index(node)
        while isinstance(source, Node) and source.op == "call_function" and source.target in _AS_THEY_ARE:
            source = source.args[0]
        name = inputs.get(source.name) if isinstance(source, Node) else None
        if name is not None and size is not None:
            found[name] = (0, min(size - 1, found.get(name, (0, size - 1))[1]))
    return found


def joined(parts: Sequence[Ranges]) -> dict[str, tuple[int, int]]:
    """Return the ranges in which inputs are in the ranges of each of several graphs."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: (0, min(part[name][1] for part in parts if name in part)) for name in names}


def _index(node: Node) -> tuple[object, int | None]:
    """Return the index of a look-up without negative numbers, and the size of its table; None for any other node."""
    aten = torch.ops.aten
    if node.target in (aten.embedding.default, aten._embedding_bag.default, aten._embedding_bag_forward_only.default):
        return node.args[1], int(node.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
    if node.target is aten.index_select.default:
        return node.args[2], _fixed(node.args[0].meta["val"].shape[node.args[1]])  # type: ignore[union-attr]
    if node.target is aten.gather.default:
        return node.args[2], _fixed(node.args[0].meta["val"].shape[node.args[1]])  # type: ignore[union-attr]
    if node.target is aten.one_hot.default and len(node.args) > 1 and isinstance(node.args[1], int):
        return node.args[0], node.args[1]
    return None, None


def _fixed(size: object) -> int | None:
    return size if isinstance(size, int) else None
