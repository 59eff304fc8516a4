"""Goodput: the greatest rate of requests at which the 99 % quantile of the latencies is within a bound."""

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Curve:
    """Latency by load.

    Attributes:
        rates: Requests per second, rising.
        p99: Quantile in milliseconds at each.
    """

    rates: list[float]
    p99: list[float]


def goodput(curve: Curve, limit_ms: float) -> float:
    """Return the rate at which a curve first crosses a bound, with log p99 linear between the rates.

    It is the last rate if the curve stays within the bound, and 0 if it begins above: nothing is extrapolated.

    Example:
        >>> goodput(Curve([100, 200], [10, 1000]), limit_ms=100)
        150.0
    """
    if not curve.p99[0] <= limit_ms:
        return 0.0
    points = list(zip(curve.rates, curve.p99, strict=True))
    for (low, before), (high, behind) in pairwise(points):
        if not behind <= limit_ms:
            share = math.log(limit_ms / before) / math.log(behind / before) if math.isfinite(behind) else 0.0
            return low + share * (high - low)
    return curve.rates[-1]
