"""Ranges of the integers in the inputs of a graph, since an ONNX graph takes −1 for the last row of a table.

They are those of the tables that an input is an index into, or some of its columns are. Which ones is found by inputs
whose columns hold different numbers: an index that holds the same numbers is made of these columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

_aten = torch.ops.aten

_ROWS = {
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

_NUMBERS = 1 << 20
"""Numbers below which those of the columns are drawn."""

Limits = tuple[int | None, ...]
"""Greatest number of an input, or of each entry of its second axis; None where any number is right. The least is 0."""

Ranges = Mapping[str, Limits]
"""Limits of the inputs that have some, by their names."""


def index_ranges(program: ExportedProgram, names: Sequence[str]) -> dict[str, Limits]:
    """Return the ranges of the inputs of a traced graph, whose names are given in order."""
    inputs = dict(zip(program.graph_signature.user_inputs, names, strict=True))
    found = dict[str, Limits]()
    for node in program.graph.nodes:
        index, size = _look_up(node)
        held = None if index is None or size is None else _held(index)
        if held is not None and size is not None and held[0].name in inputs:
            name = inputs[held[0].name]
            found[name] = _least(found.get(name, (None,)), [size - 1 if holds else None for holds in held[1]])
    return found


def joined(parts: Sequence[Ranges]) -> dict[str, Limits]:
    """Return the ranges in which inputs are in the ranges of each of several graphs."""
    found = dict[str, Limits]()
    for part in parts:
        for name, limits in part.items():
            found[name] = _least(found.get(name, (None,)), limits)
    return found


def has_unchecked(program: ExportedProgram, checked: Sequence[bool]) -> bool:
    """Return whether a table is looked up by numbers from the inputs that no range is known for.

    Args:
        program: Traced graph.
        checked: For each of its inputs, whether it is compared with its range before the graph runs.
    """
    inputs = dict(zip(program.graph_signature.user_inputs, checked, strict=True))
    for node in program.graph.nodes:
        index, size = _look_up(node)
        if index is None or size is None or not any(source.name in inputs for source in _placeholders(index)):
            continue
        held = _held(index)
        if held is None or not inputs[held[0].name]:
            return True
    return False


def _look_up(node: Node) -> tuple[Node | None, int | None]:
    """Return the index of a look-up without negative numbers, and the size of its table; None for any other node."""
    index, size = None, None
    if node.target in _ROWS:
        index, size = node.args[1], node.args[0].meta["val"].shape[0]  # type: ignore[union-attr]
    elif node.target in _ALONG:
        index, size = node.args[2], node.args[0].meta["val"].shape[node.args[1]]  # type: ignore[union-attr]
    elif node.target is _aten.one_hot.default and len(node.args) > 1:
        index, size = node.args[0], node.args[1]
    return index if isinstance(index, Node) else None, size if isinstance(size, int) else None


def _held(index: Node) -> tuple[Node, list[bool]] | None:
    """Return the input whose numbers an index holds, and which columns of it, or None if it holds other numbers.

    The columns are the entries of the second axis; a list of one entry is for all of them.
    """
    sources = _placeholders(index)
    example = sources[0].meta["val"] if len(sources) == 1 else None
    if not isinstance(example, Tensor) or example.is_floating_point() or example.dtype == torch.bool:
        return None
    (source,) = sources
    shape, generator = _shape(example), torch.Generator().manual_seed(0)
    width = shape[1] if len(shape) > 1 else 1
    drawn = [torch.randperm(min(_NUMBERS, torch.iinfo(example.dtype).max), generator=generator)[:width] for _ in "ab"]
    if len(drawn[0]) < width:
        return None
    columns = [_columns(index, source, numbers.to(example.dtype), shape) for numbers in drawn]
    if columns[0] is None or columns[0] != columns[1]:
        return None
    if all(columns[0]):
        return source, [True]
    return (source, columns[0]) if isinstance(example.shape[1], int) else None


def _columns(index: Node, source: Node, numbers: Tensor, shape: Sequence[int]) -> list[bool] | None:
    """Return which of the numbers (F,) of the columns of an input an index holds, or None if it holds others."""
    rows = numbers.view(-1, *[1] * (len(shape) - 2)) if len(shape) > 1 else numbers
    try:
        found = set(_value(index, {source: rows.expand(shape).contiguous()}).unique().tolist())
    except Exception:  # an operation that does not take such numbers
        return None
    return [number in found for number in numbers.tolist()] if found <= set(numbers.tolist()) else None


def _value(node: Node, values: dict[Node, Any]) -> Any:
    """Return the value of a node from those of the inputs."""
    if node.op == "placeholder" and node not in values:
        values[node] = torch.empty(_shape(node.meta["val"]), device="meta")  # another input, for its sizes
    if node not in values:
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: _value(each, values))
        values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]


def _shape(example: Tensor) -> list[int]:
    """Return the shape that a tensor of a trace had in the example."""
    return [size if isinstance(size, int) else size.node.hint for size in example.shape]


def _placeholders(node: Node) -> list[Node]:
    """Return the inputs, parameters and buffers that the numbers of a node depend on, not only their sizes."""
    found, pending, seen = list[Node](), [node], set[Node]()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if each.op == "placeholder":
            found.append(each)
        elif each.target is not _aten.sym_size.int:
            pending += each.all_input_nodes
    return found


def _least(first: Limits, second: Sequence[int | None]) -> Limits:
    """Return the lesser limits, one for each column if one of both has them."""
    width = max(len(first), len(second))
    pairs = zip(*(list(each) * (width if len(each) == 1 else 1) for each in (first, second)), strict=True)
    return tuple(min((limit for limit in pair if limit is not None), default=None) for pair in pairs)
