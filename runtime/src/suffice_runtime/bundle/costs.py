"""Multiply-adds of an example at each exit, which for texts depend on the number of tokens.

Attention makes the cost of a text of T tokens a quadratic polynomial in T. A bundle holds it at three lengths;
Lagrange's formula through them is evaluated in rational numbers, so that every length gets the count of the network
itself.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from suffice_runtime.bundle.entries import Entries

POINTS = 3
"""Number of lengths that determine a quadratic polynomial."""


@dataclass(frozen=True)
class Costs:
    """Cumulative multiply-adds per example, those of the uncertainty and the score included.

    Attributes:
        macs: Multiply-adds (K) of an example that stops at each exit, of the length of the exported example.
        lengths: Three numbers of tokens; empty if the costs do not depend on it, or not in a known way.
        by_length: Multiply-adds (3, K) at these lengths.
        length: Number of tokens that `macs` are for; None if inputs have no tokens.
    """

    macs: tuple[int, ...]
    lengths: tuple[int, ...] = ()
    by_length: tuple[tuple[int, ...], ...] = ()
    length: int | None = None

    @classmethod
    def from_entries(cls, entries: Entries, exits: int) -> "Costs":
        """Read the costs of a manifest.

        Raises:
            ValueError: If an entry is missing or wrong, or lengths repeat.
        """
        macs = entries.wholes("macs", exits)
        if any(later < earlier for earlier, later in pairwise(macs)):
            raise entries.refuse("macs", "as cumulative costs, which do not fall", list(macs))
        length = None if entries.optional("length") is None else entries.whole("length", 1)
        if entries.none("by_length"):
            return cls(macs, length=length)
        table = entries.inner("by_length")
        lengths = table.wholes("T", POINTS)
        if len(set(lengths)) < POINTS:
            raise table.refuse("T", "as different lengths", list(lengths))
        costs = cls(macs, lengths, table.whole_rows("macs", POINTS, exits), length)
        if length is not None and _interpolated(lengths, costs.by_length, length) != macs:
            raise entries.refuse("by_length", f"to give {list(macs)} for {length} tokens", table.any("macs"))
        return costs

    def at(self, tokens: int | None) -> tuple[int, ...] | None:
        """Return the multiply-adds (K) of an example at each exit.

        Args:
            tokens: Number of tokens T of the example, padding included; None if its inputs have none.

        Returns:
            The costs, or None if they are not known for this length, or beyond int64.
        """
        if tokens is None or tokens == self.length:
            return self.macs
        if not self.lengths:
            return None
        found = _interpolated(self.lengths, self.by_length, tokens)
        return found if max(found) <= _MOST else None  # no examples can have any number of tokens


_MOST = (1 << 63) - 1


@lru_cache(maxsize=4096)
def _interpolated(lengths: tuple[int, ...], by_length: tuple[tuple[int, ...], ...], tokens: int) -> tuple[int, ...]:
    """Evaluate the quadratic polynomials through three points, one for each exit, at a number of tokens."""
    weights = []
    for point in lengths:
        weight = Fraction(1)
        for other in lengths:
            if other != point:
                weight *= Fraction(tokens - other, point - other)
        weights.append(weight)
    columns = zip(*by_length, strict=True)
    return tuple(round(sum(weight * macs for weight, macs in zip(weights, column, strict=True))) for column in columns)
