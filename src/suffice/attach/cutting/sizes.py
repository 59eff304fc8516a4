"""Which guards of a trace other inputs may violate: those that read a plain input, or a size that inputs may change.

Sizes are compared with those of the example at half and at double size. What cannot be computed at either is taken to
have one size, that of the example.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
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
    """Yield the values of nodes for inputs in which all dimensions of one size have another one."""
    inputs = next((node.meta["values"][0] for node in path if node.op == "placeholder"), None)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    for size in sorted({size for tensor in tensors for size in tensor.shape[1:] if size > 1}):
        for other in (-(-size // 2), 2 * size):
            values = _evaluated(root, path, tree_map_only(Tensor, lambda x, s=size, o=other: _resize(x, s, o), inputs))
            yield values
            if len(values) == len(path):
                break


def _resize(tensor: Tensor, size: int, other: int) -> Tensor:
    """Return a copy of a tensor (N, …) with entries repeated or left out in all dimensions of one size but the first."""
    for dim in range(1, tensor.ndim):
        if tensor.shape[dim] == size:
            tensor = tensor.index_select(dim, torch.arange(other, device=tensor.device) % size)
    return tensor.clone()


def _evaluated(root: nn.Module, path: Sequence[fx.Node], inputs: State) -> dict[fx.Node, Any]:
    """Return the values of the nodes that can be computed for inputs."""
    values: dict[fx.Node, Any] = {}
    for node in path:
        try:
            with torch.no_grad():
                values[node] = inputs if node.op == "placeholder" else evaluate(root, node, values.__getitem__)
        except Exception:  # noqa: S112 - the model does not accept this size here
            continue
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
    plain, _ = chain(node)
    return any(argument.op == "placeholder" for each in plain for argument in each.all_input_nodes)
