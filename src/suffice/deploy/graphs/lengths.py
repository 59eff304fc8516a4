"""Numbers of tokens that a traced graph is right for.

A branch of the network on the number of tokens becomes a guard of the trace, such as "at most 16". ONNX graphs do not
have guards, so the numbers are part of the manifest, and whoever runs the graphs has to refuse others. What a guard
excludes is found by evaluating it for many numbers of examples N and tokens T.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import CodeType

from torch.export import ExportedProgram

from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.values import EXAMPLES, TOKENS

Lengths = tuple[int, int | None]
"""Least and greatest number of tokens; None if there is no greatest."""

ANY: Lengths = (1, None)

_AXIS = re.compile(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_FORMULA = re.compile(rf"(?:\d+|\b(?:{EXAMPLES}|{TOKENS}|or|and|not)\b|[\s()+*/%<>=!-])*")
"""Guards that are formulas of N and T, with whole numbers and operators."""

_EXAMPLES = (2, 3, 5, 8, 12, 64)
"""Numbers of examples for which guards are evaluated; a trace takes a single one for no special case."""

_TOKENS = sorted({*range(1, 600), *(2**power + step for power in range(9, 18) for step in (-1, 0, 1))})
"""Numbers of tokens for which guards are evaluated."""


def admitted(program: ExportedProgram, graph: Graph) -> Lengths:
    """Return the numbers of tokens that the trace of a graph is right for.

    Raises:
        ValueError: If it depends on them in another way than by a least and a greatest number.
    """
    return shared([ANY, *(_admitted_by(guard, graph) for guard in getattr(program, "_guards_code", ()))])


def _admitted_by(guard: str, graph: Graph) -> Lengths:
    """Return the numbers of tokens for which a guard holds, for any number of examples.

    Raises:
        ValueError: If they are not all from a least to a greatest one.
    """
    formula = _AXIS.sub(lambda match: str(graph.before.values[int(match[1])].shape[int(match[2])]), guard)
    found = None
    if _FORMULA.fullmatch(formula):
        found = _interval(partial(_holds, compile(formula, "guard", "eval")))
    if found is None:
        raise ValueError(
            f"expected {graph.what} to be one graph for all numbers of tokens, got a branch that depends on "
            f"{guard}; compute it by torch operations, without a branch on a shape"
        )
    return found


def _holds(formula: CodeType, tokens: int) -> bool:
    """Return whether a guard holds for a number of tokens, and any number of examples."""
    return all(eval(formula, {"__builtins__": {}}, {EXAMPLES: examples, TOKENS: tokens}) for examples in _EXAMPLES)


def _interval(holds: Callable[[int], bool]) -> Lengths | None:
    """Return the numbers of tokens for which a guard holds, or None if they are not all between two."""
    right = [tokens for tokens in _TOKENS if holds(tokens)]
    excluded = set(_TOKENS).difference(right)
    if excluded <= {1}:  # every trace takes one token for a special case that is not there
        return ANY
    if excluded <= {1, 2}:
        return 3, None
    if not right or excluded.intersection(range(right[0], right[-1])):
        return None
    most = None if right[-1] == _TOKENS[-1] else _last(holds, right[-1])
    return 1 if right[0] == 2 else right[0], most


def _last(holds: Callable[[int], bool], right: int) -> int:
    """Return the greatest number of tokens for which a guard holds, from one for which it does, by bisection."""
    wrong = next(tokens for tokens in _TOKENS if tokens > right)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (middle, wrong) if holds(middle) else (right, middle)
    return right


def shared(parts: Sequence[Lengths]) -> Lengths:
    """Return the numbers of tokens that are right for each of several graphs."""
    greatest = [most for _, most in parts if most is not None]
    return max(least for least, _ in parts), min(greatest, default=None)
