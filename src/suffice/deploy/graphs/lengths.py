"""Numbers of tokens that a traced graph is right for.

A branch of the network on the number of tokens becomes a guard of the trace, such as "at most 16". ONNX graphs do not
have guards, so the numbers are part of the manifest, and whoever runs the graphs has to refuse others.
"""

import re
from collections.abc import Sequence

from torch.export import ExportedProgram

from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.values import TOKENS

Lengths = tuple[int, int | None]
"""Least and greatest number of tokens; None if there is no greatest."""

ANY: Lengths = (1, None)

_SIZE = r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]"
_EQUAL, _LIMIT = re.compile(f"{_SIZE} == {_SIZE}"), re.compile(rf"{_SIZE} (<=|>=|<|>) (\d+)")


def admitted(program: ExportedProgram, graph: Graph) -> Lengths:
    """Return the numbers of tokens that the trace of a graph is right for.

    Raises:
        ValueError: If it depends on them in another way than by a least and a greatest number.
    """
    least, most = ANY
    for guard in getattr(program, "_guards_code", ()):
        if any(_EQUAL.fullmatch(part) for part in guard.split(" or ")):
            continue
        limit = _LIMIT.fullmatch(guard)
        if limit is None or graph.before.values[int(limit[1])].shape[int(limit[2])] != TOKENS:
            raise ValueError(
                f"expected {graph.what} to be one graph for all numbers of tokens, got a branch that depends on "
                f"{guard}; compute it by torch operations, without a branch on a shape"
            )
        number = int(limit[4]) + {"<": -1, ">": 1}.get(limit[3], 0)
        if limit[3].startswith("<"):
            most = number if most is None else min(most, number)
        elif number > 2:  # every trace takes one token for a special case that is not there
            least = max(least, number)
    return least, most


def shared(parts: Sequence[Lengths]) -> Lengths:
    """Return the numbers of tokens that are right for each of several graphs."""
    greatest = [most for _, most in parts if most is not None]
    return max(least for least, _ in parts), min(greatest, default=None)
