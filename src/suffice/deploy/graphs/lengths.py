"""Numbers of tokens that a traced graph is right for.

A branch of the network on the number of tokens becomes a guard of the trace, such as "at most 16". ONNX graphs do not
have guards, so the numbers are part of the manifest, and whoever runs the graphs has to refuse others. What a guard
excludes is found by evaluating it for many numbers of examples N and tokens T.

Guards also exclude single numbers, such as T = 7 or T = N, where torch compares sizes on its way to the same result.
For those the graph is run beside the module.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import CodeType

import torch
from torch import Tensor
from torch.export import ExportedProgram

from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.values import EXAMPLES, TOKENS, Value

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

_RUN = 4
"""Greatest number of excluded cases that are run."""

_LONGEST = 600
"""Number of tokens from which on a case is not run."""

Case = tuple[int, int]
"""Number of examples, and of tokens."""


def admitted(program: ExportedProgram, graph: Graph) -> Lengths:
    """Return the numbers of tokens that the trace of a graph is right for.

    Raises:
        ValueError: If it depends on them in another way than by a least and a greatest number.
    """
    agrees = partial(_agrees, program, graph)
    return shared([ANY, *(_admitted_by(guard, graph, agrees) for guard in getattr(program, "_guards_code", ()))])


def _admitted_by(guard: str, graph: Graph, agrees: Callable[[Case], bool]) -> Lengths:
    """Return the numbers of tokens for which a graph with a guard is right, for any number of examples.

    Raises:
        ValueError: If they are not all from a least to a greatest one.
    """
    formula = _AXIS.sub(lambda match: str(graph.before.values[int(match[1])].shape[int(match[2])]), guard)
    found = None
    if _FORMULA.fullmatch(formula):
        found = _interval(partial(_holds, compile(formula, "guard", "eval")), agrees)
    if found is None:
        raise ValueError(
            f"expected {graph.what} to be one graph for all numbers of tokens, got a branch that depends on "
            f"{guard}; compute it by torch operations, without a branch on a shape"
        )
    return found


def _holds(formula: CodeType, case: Case) -> bool:
    """Return whether a guard holds for numbers of examples and of tokens."""
    return bool(eval(formula, {"__builtins__": {}}, dict(zip((EXAMPLES, TOKENS), case, strict=True))))


def _interval(holds: Callable[[Case], bool], agrees: Callable[[Case], bool]) -> Lengths | None:
    """Return the numbers of tokens for which a graph is right, or None if they are not all between two."""
    excluded, mixed = set[int](), list[Case]()
    for tokens in _TOKENS:
        wrong = [(examples, tokens) for examples in _EXAMPLES if not holds((examples, tokens))]
        if len(wrong) == len(_EXAMPLES):
            excluded.add(tokens)
        else:
            mixed += wrong
    single = {tokens for tokens in excluded if not excluded & {tokens - 1, tokens + 1}} - {1, _TOKENS[-1]}
    few = len(mixed) <= len(_EXAMPLES) and len(single) <= _RUN
    if not few or not all(map(agrees, [*mixed[:_RUN], *((_EXAMPLES[0], tokens) for tokens in single)])):
        single.clear()
        if mixed:
            return None
    return _between(excluded - single, lambda tokens: holds((_EXAMPLES[0], tokens)))


def _between(excluded: set[int], holds: Callable[[int], bool]) -> Lengths | None:
    """Return the least and the greatest number of tokens beside those that are excluded, if there are no gaps."""
    right = [tokens for tokens in _TOKENS if tokens not in excluded]
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


@torch.no_grad()
def _agrees(program: ExportedProgram, graph: Graph, case: Case) -> bool:
    """Return whether a trace gives what its module gives for numbers of examples and of tokens."""
    if case[1] >= _LONGEST:
        return False
    try:
        tensors = [_resized(*pair, case) for pair in zip(graph.before.first.values(), graph.before.values, strict=True)]
        found, wanted = program.module(check_guards=False)(*tensors), graph.module(*tensors)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4, equal_nan=True)
    except Exception:  # a module of the user may raise anything, as may a graph for other inputs
        return False
    return True


def _resized(tensor: Tensor, value: Value, case: Case) -> Tensor:
    """Return a tensor with other numbers of examples and of tokens, by repeating its own.

    Raises:
        ValueError: If it has another dynamic axis.
    """
    for axis, name in enumerate(value.shape):
        if isinstance(name, str):
            size = case[(EXAMPLES, TOKENS).index(name)]
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor


def shared(parts: Sequence[Lengths]) -> Lengths:
    """Return the numbers of tokens that are right for each of several graphs."""
    greatest = [most for _, most in parts if most is not None]
    return max(least for least, _ in parts), min(greatest, default=None)
