"""Search for guards of a trace that other inputs may violate: those that read a plain input or a size that may change.

The sizes are those that differ for the first half of the example (its tokens, or its rows and columns), if the model
accepts it. Half an input is within all tables of positions, whereas an index that is out of range stops a GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Size, Tensor, fx, nn

from suffice.attach.cutting.guards import chain, decision, is_guard, is_same, outcome
from suffice.attach.cutting.tracer import ancestors, evaluate
from suffice.network import State
from suffice.utils.nest import tree_leaves, tree_map_only

Values = Mapping[fx.Node, Any]


def may_fail(root: nn.Module, nodes: Sequence[fx.Node]) -> bool:
    """Return whether other inputs may violate a guard.

    Args:
        root: Module that the targets of the nodes refer to.
        nodes: All nodes of a trace, in order.
    """
    guards = [node for node in nodes if is_guard(node) and not is_same(node)]
    if any(_reads_plain_input(node) for node in guards):
        return True
    needed = set[fx.Node]().union(*map(ancestors, guards))
    path = [node for node in nodes if node in needed and not is_guard(node)]
    return any(_differs(node, values) for values in _resized(root, path) for node in guards)


def _resized(root: nn.Module, path: Sequence[fx.Node]) -> Iterator[Values]:
    """Yield the values of nodes for inputs of other sizes that the model accepts: one size halved at a time."""
    inputs = next((node.meta["values"][0] for node in path if node.op == "placeholder"), None)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    for size in sorted({size for tensor in tensors for size in tensor.shape[1:] if size > 1}):
        try:
            root(tree_map_only(Tensor, partial(_half, size=size), inputs))
        except Exception:  # the model does not accept this size
            continue
        yield _evaluated(root, path, tree_map_only(Tensor, partial(_half, size=size), inputs))


def _half(tensor: Tensor, size: int) -> Tensor:
    """Return a copy of a tensor (N, …) with the first half of all dimensions of one size but the first."""
    for dim in range(1, tensor.ndim):
        if tensor.shape[dim] == size:
            tensor = tensor.narrow(dim, 0, (size + 1) // 2)
    return tensor.clone()


def _evaluated(root: nn.Module, path: Sequence[fx.Node], inputs: State) -> dict[fx.Node, Any]:
    """Return the values of the nodes that can be computed for inputs; others follow a branch that is not theirs."""
    values: dict[fx.Node, Any] = {}
    for node in path:
        with suppress(Exception):
            values[node] = inputs if node.op == "placeholder" else evaluate(root, node, values.__getitem__)
    return values


def _differs(node: fx.Node, values: Values) -> bool:
    """Return whether a guard reads other plain values, or has another outcome, than for the example."""
    decided, kind = decision(node)
    if decided in values and kind == "structure":
        return outcome(values[decided], kind) != outcome(decided.meta["values"][0], kind)
    plain, _ = chain(node)
    return any(each in values and _unequal(values[each], each.meta["values"][0]) for each in plain)


def _unequal(a: Any, b: Any) -> bool:
    return not isinstance(a, Size) and a != b


def _reads_plain_input(node: fx.Node) -> bool:
    plain, tensors = chain(node)
    nests = [source for source in tensors if source.op == "placeholder" and not _is_tensor(source)]
    return any(nest in each.all_input_nodes for nest in nests for each in plain)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["values"][0], Tensor)
