"""Where δ and T are searched for, and the warning that there may be a better value beyond."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

PRIOR_PRECISION = (1e-3, 1e5)
"""Range searched for δ."""
TEMPERATURE = (0.05, 20.0)
"""Range searched for T."""


@dataclass(frozen=True)
class Found:
    """A value that was found for one exit, and the range that it was searched in.

    Attributes:
        exit: its number.
        name: "prior precision", "prior variance" or "temperature".
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
    ended: dict[tuple[str, float], list[int]] = {}
    for one in found:
        if one.edge is not None:
            ended.setdefault((one.name, one.edge), []).append(one.exit)
    for (name, edge), exits in ended.items():
        useless = (name, edge) == ("prior precision", PRIOR_PRECISION[1])
        meaning = "; the posterior adds nothing there" if useless else ""
        where = f"exit {', '.join(map(str, exits))}"
        warnings.warn(f"the {name} of {where} ended at the edge of its range, {edge:g}{meaning}", stacklevel=4)
