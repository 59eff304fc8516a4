"""Where δ and T are searched for, and the warning that there may be a better value beyond."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from suffice.calibration.exits import CalibratedExit

PRIOR_PRECISION = (1e-3, 1e5)
"""Range searched for δ, relative to the one that an exit comes with; that of T is its likelihood's."""
ODDS = (1e-3, 1e3)
"""Range searched for the weight of an exit beside the sum of those before it."""
_MEANINGS = {
    ("prior precision", 0): "; the posterior is as wide there as it may be",
    ("prior precision", 1): "; the posterior adds nothing there",
    ("weight", 0): "; the exit adds nothing to those before it",
    ("weight", 1): "; the exits before it add nothing",
}
"""Of ending at the least (0) or the greatest (1) value of a range."""


def prior_range(exit_: CalibratedExit) -> tuple[float, float]:
    """Least and greatest δ searched for an exit with a posterior."""
    own = float(exit_.require_posterior().prior_precision)
    return PRIOR_PRECISION[0] * own, PRIOR_PRECISION[1] * own


@dataclass(frozen=True)
class Found:
    """A value that was found for one exit, and the range that it was searched in.

    Attributes:
        exit: its number.
        name: "prior precision", "prior variance", "temperature" or "weight".
        value: what was found.
        limits: the least and the greatest value searched.
    """

    exit: int
    name: str
    value: float
    limits: tuple[float, float]

    @property
    def edge(self) -> float | None:
        """The limit that it ended at, if any."""
        return next((limit for limit in self.limits if abs(math.log(self.value / limit)) < 1e-3), None)


def warn_at_edges(found: Sequence[Found]) -> None:
    """One warning for each edge that something ended at, naming the exits."""
    ended: dict[tuple[str, float, str], list[int]] = {}
    for one in found:
        if one.edge is not None:
            meaning = _MEANINGS.get((one.name, one.limits.index(one.edge)), "")
            ended.setdefault((one.name, one.edge, meaning), []).append(one.exit)
    for (name, edge, meaning), exits in ended.items():
        where = f"exit {', '.join(map(str, exits))}"
        warnings.warn(f"the {name} of {where} ended at the edge of its range, {edge:g}{meaning}", stacklevel=5)
