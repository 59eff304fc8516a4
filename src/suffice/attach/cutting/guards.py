"""Guards of a trace: decisions of Python code that were taken for the example and are checked at each call.

A graph has no branches. A condition, the length of a tuple and the structure of a value are as they were for the
example; a node in the graph computes each of them again, and raises an error for inputs with another outcome.
"""

from operator import getitem
from typing import Any

from torch import Size, Tensor, fx

from suffice.utils.nest import tree_leaves


def guard(value: Any, kind: str, expected: str) -> None:
    """Raise a ValueError unless the outcome of a decision is that of the example.

    Args:
        value: Value that was decided on.
        kind: Kind of the decision: "condition", "length" or "structure".
        expected: Outcome for the example.

    Raises:
        ValueError: If the outcome is another one.
    """
    got = outcome(value, kind)
    if got != expected:
        raise ValueError(
            "expected inputs of the same sizes, plain values and structure as in the example of "
            f"suffice.attach_exits, got a {kind} in the model's forward pass that is {got} instead of {expected}, "
            "which a traced network cannot follow; attach the exits with an example like these inputs, or pass the "
            "stages, at=[first, second, …]"
        )


def outcome(value: Any, kind: str) -> str:
    """Return the outcome of a decision on a value as text."""
    if kind == "condition":
        return str(bool(value))
    if kind == "length":
        return str(len(value))
    if value is None:
        return "None"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a dict of {sorted(map(str, value))}" if isinstance(value, dict) else "a value"


def is_guard(node: fx.Node) -> bool:
    """Return whether a node checks a decision."""
    return node.target is guard


def decision(node: fx.Node) -> tuple[fx.Node, str]:
    """Return the node that a guard decides on, and the kind of the decision."""
    decided, kind = node.args[:2]
    assert isinstance(decided, fx.Node)
    return decided, str(kind)


def is_same(node: fx.Node) -> bool:
    """Return whether a guard holds for all inputs of a model.

    The number of dimensions, the type and the device of a tensor, and the structure of a module's output, are taken to
    be those of the example for all inputs.
    """
    decided, kind = decision(node)
    if kind == "structure":
        return decided.op not in ("call_function", "call_method") or decided.target is getitem
    if kind == "length" and isinstance(decided.meta["values"][0], Size):
        return True
    plain, tensors = chain(node)
    return all(_read(each) in _SAME for each in plain if tensors.intersection(each.all_input_nodes))


def reads_values(node: fx.Node) -> bool:
    """Return whether a plain value is computed from the values of a tensor."""
    plain, _ = chain(node)
    return any(_read(each) in _OF_VALUES for each in plain)


def sources(node: fx.Node) -> set[fx.Node]:
    """Return the last nodes with tensors that a guard depends on."""
    return chain(node)[1]


def chain(node: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the plain nodes that a node depends on, itself included, and the nodes with tensors before them."""
    plain: set[fx.Node] = set()
    tensors: set[fx.Node] = set()
    pending = [node]
    while pending:
        node = pending.pop()
        if node in plain or node in tensors:
            continue
        if node.op == "placeholder" or any(isinstance(leaf, Tensor) for leaf in tree_leaves(node.meta["values"][0])):
            tensors.add(node)
        else:
            plain.add(node)
            pending.extend(node.all_input_nodes)
    return plain, tensors


_SAME = frozenset(
    ("ndim", "dim", "dtype", "device", "is_cuda", "is_nested", "is_floating_point", "is_complex", "layout")
)
"""Names of what is read from a tensor and is the same for all inputs of a model."""

_OF_VALUES = frozenset(("item", "tolist", "equal", "allclose", "is_nonzero", "numpy", "__contains__", "contains"))
"""Names of functions and methods that return plain values computed from the values of tensors."""


def _read(node: fx.Node) -> str:
    """Return the name of the attribute, function or method of a node."""
    if node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))
