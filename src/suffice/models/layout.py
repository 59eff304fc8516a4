"""Stage boundaries of networks that are a sequence of blocks."""

from collections.abc import Sequence
from itertools import pairwise


def stage_bounds(exits_after: Sequence[int], depth: int, unit: str) -> list[int]:
    """Return the number of blocks before the first stage and after each stage: 0, `exits_after` and `depth`.

    Args:
        exits_after: Numbers of blocks after which there are earlier exits.
        depth: Number of blocks.
        unit: Name of the blocks in the message, in the plural.

    Raises:
        ValueError: Unless the numbers increase strictly.
    """
    bounds = [0, *exits_after, depth]
    if any(start >= stop for start, stop in pairwise(bounds)):
        raise ValueError(
            f"expected exits_after to increase strictly within 1 to {depth - 1}, numbers of {unit} out of {depth}, got "
            f"{exits_after}"
        )
    return bounds
