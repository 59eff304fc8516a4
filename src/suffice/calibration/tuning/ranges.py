"""Search ranges of tuned values, and the warning for values at an edge of their range."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from suffice.calibration.exits import CalibratedExit

PRIOR_PRECISION = (1e-3, 1e5)
"""Search range of δ relative to the initial one of an exit. The range of T is that of its likelihood, times the unit of
the outputs."""
ODDS = (1e-3, 1e3)
"""Search range of the weight of an exit relative to the sum of those before it."""
NEGLIGIBLE = 1e-3
"""Gain in nats per example for which a range need not be wider; the NLL of 10,000 examples is less exact."""
_MEANINGS = {
    ("prior precision", 0): "; the posterior has its largest allowed variance there",
    ("prior precision", 1): "; the posterior adds nothing there",
    ("temperature", 0): "; the predictions are underconfident by more than this factor",
    ("temperature", 1): "; the predictions are overconfident by more than this factor",
    ("weight", 0): "; the exit adds nothing to those before it",
    ("weight", 1): "; the exits before it add nothing",
}
"""Consequence of a value at the lower (0) or upper (1) limit of its range."""


def temperature_range(exit_: CalibratedExit, unit: float) -> tuple[float, float]:
    """Return the smallest and largest T in the search for an exit whose outputs have this unit."""
    least, most = exit_.likelihood.temperatures
    return least * unit, most * unit


def prior_range(exit_: CalibratedExit, unit: float = 1.0) -> tuple[float, float]:
    """Return the smallest and largest δ in the search for an exit with a posterior.

    Args:
        exit_: Calibrated exit.
        unit: Unit of its outputs. If it comes from the weights, and not from the features, δ is in inverse squares
            of it.
    """
    initial = float(exit_.require_posterior().prior_precision)
    return PRIOR_PRECISION[0] * initial * min(1, unit**-2), PRIOR_PRECISION[1] * initial * max(1, unit**-2)


@dataclass(frozen=True)
class TunedValue:
    """Tuned value of one exit with its search range.

    Attributes:
        exit: Number of the exit.
        name: Name of the value: "prior precision", "prior variance", "temperature" or "weight".
        value: Result of the search.
        limits: Smallest and largest value in the search.
        slope: Absolute slope of the mean NLL over the logarithm of the value, in nats; infinite if it is not known.
    """

    exit: int
    name: str
    value: float
    limits: tuple[float, float]
    slope: float = math.inf

    @property
    def edge(self) -> float | None:
        """Limit that the value equals, or None."""
        return next((limit for limit in self.limits if abs(math.log(self.value / limit)) < 1e-3), None)


def warn_at_edges(values: Sequence[TunedValue]) -> bool:
    """Warn once for each edge that values ended at, with the numbers of their exits, if a wider range would gain.

    The warning is attributed to the caller of a decorated public function that calls this one.

    Returns:
        Whether there was a warning.
    """
    ended: dict[tuple[str, float, str], list[int]] = {}
    for tuned in values:
        if tuned.edge is not None and tuned.slope > NEGLIGIBLE:
            meaning = _MEANINGS.get((tuned.name, tuned.limits.index(tuned.edge)), "")
            ended.setdefault((tuned.name, tuned.edge, meaning), []).append(tuned.exit)
    for (name, edge, meaning), exits in ended.items():
        where = f"exit{'s' if len(exits) > 1 else ''} {', '.join(map(str, exits))}"
        warnings.warn(f"the {name} of {where} ended at the edge of its range, {edge:g}{meaning}", stacklevel=4)
    return bool(ended)
