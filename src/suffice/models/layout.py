"""Where the stages of a network of equal parts begin and end."""

from collections.abc import Sequence
from itertools import pairwise


def ends(exits_after: Sequence[int], depth: int, of: str) -> list[int]:
    """The numbers of parts before the first stage and after each: 0, where the earlier exits are, and `depth`.

    Args:
        exits_after: numbers of parts after which there are earlier exits.
        depth: number of parts.
        of: what the parts are, for the message.

    Raises:
        ValueError: unless they rise.
    """
    found = [0, *exits_after, depth]
    if any(start >= stop for start, stop in pairwise(found)):
        raise ValueError(
            f"expected exits_after to rise from 1 to {depth - 1}, numbers of {of} out of {depth}, got {exits_after}"
        )
    return found
