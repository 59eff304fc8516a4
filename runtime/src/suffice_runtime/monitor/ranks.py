"""Alarm that live values are not exchangeable with those of the calibration data, by conformal p-values.

The reference holds half of the calibration values and all live values so far, N of them. The next value x has

    p = (#{reference < x} + U (#{reference = x} + 1))/(N + 1),   U uniform on [0, 1).

If calibration and live values are exchangeable, these p-values are independent and uniform, whatever the distribution
and however few values the calibration had (Vovk, Gammerman and Shafer 2005). Bets are made on their departure from it.
Values are compared in bins, with ties broken by U, so that the state has a fixed size. Bins of real values, and what is
bet on shares of exits, are set by the other half of the calibration values. The choice of neither depends on the
reference.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suffice_runtime.monitor.bets import factors
from suffice_runtime.monitor.capital import EProcess
from suffice_runtime.monitor.checks import check_open, check_whole, read_observations
from suffice_runtime.monitor.loss import check_capital

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_TILTS: Floats = np.outer([-1.0, 1.0], [0.1, 0.2, 0.4, 0.8, 1.6]).ravel()
_SIZES: Floats = np.exp2(np.arange(-3, 4))
_BINS = 64
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class DriftAlarm:
    """Evidence that live values differ from calibration values. False alarms have a probability of at most α.

    Attributes:
        edges: Edges (B − 1,) of the bins of the values, ascending; a value at an edge is in the bin above.
        counts: Number of values (*streams, B) of the reference in every bin, int64.
        cuts: Edges (K − 1,) that divide [0, 1] into the calibrated shares of K exits; empty for real values.
        evidence: E-process of the hypothesis that all values are exchangeable.
    """

    edges: Floats
    counts: Counts
    cuts: Floats
    evidence: EProcess

    @property
    def log_e(self) -> Floats:
        """Logarithm (*streams) of the e-value, in nats."""
        return self.evidence.log_e

    @property
    def alarm(self) -> NDArray[np.int64]:
        """Number of live values (*streams) at which the e-value first reached 1/α, or 0."""
        return self.evidence.alarm

    def update(self, values: ArrayLike, *, generator: np.random.Generator) -> "DriftAlarm":
        """Return the state after live values (n, *streams), in order of time.

        Args:
            values: Exits, counted from 0, or real values such as costs, epistemic uncertainties or variations.
            generator: Source of U, independent of the values.

        Raises:
            ValueError: For another shape, a value that is not finite, and an exit that does not exist.
        """
        x = read_observations(values, self.evidence.peak.shape)
        if len(self.cuts) and not np.isin(x, np.arange(len(self.cuts) + 1)).all():
            raise ValueError(f"expected exits from 0 to {len(self.cuts)}, got values from {x.min():g} to {x.max():g}")
        counts, evidence, weights = self.counts.copy(), self.evidence, self._weights()
        for bins in np.searchsorted(self.edges, x, side="right"):
            p = rank(counts, bins, generator.random(bins.shape))
            np.put_along_axis(counts, bins[..., None], np.take_along_axis(counts, bins[..., None], -1) + 1, -1)
            evidence = evidence.advance(self._factors(p), weights)
        return replace(self, counts=counts, evidence=evidence)

    def check(self) -> None:
        """Raise a ValueError unless the shapes of a restored state fit together."""
        streams = self.evidence.peak.shape
        if self.counts.shape != (*streams, len(self.edges) + 1) or (self.counts < 0).any():
            raise ValueError(f"expected counts of {len(self.edges) + 1} bins, at least 0, got {self.counts.shape}")
        if len(self.cuts) not in (0, len(self.edges)):
            raise ValueError(f"expected {len(self.edges)} cuts or none, got {len(self.cuts)}")
        check_capital(self.evidence.capital, len(self._weights()))

    def _weights(self) -> Floats:
        """Return equal weights (J,) of the bets."""
        bets = 2 * len(_SIZES) * (len(self.cuts) + 1) if len(self.cuts) else 2 * len(_TILTS)
        return np.full(bets, 1 / bets)

    def _factors(self, p: Floats) -> Floats:
        """Compute the factor (*streams, J) of every bet for p-values (*streams)."""
        return bet_on_shares(p, self.cuts) if len(self.cuts) else bet_on_shape(p)


def watch_exits(exits: ArrayLike, num_exits: int, alpha: float, *, streams: tuple[int, ...] = ()) -> DriftAlarm:
    """Return the state before the first live exit.

    Args:
        exits: Exits (n,) of the calibration data under the same policy, counted from 0. Every second one sets the
            shares that are bet on, the others are the reference.
        num_exits: Number K of exits, at least 2.
        alpha: Probability of a false alarm, over all time.
        streams: Shape of the streams that are watched side by side; a single one by default.

    Raises:
        ValueError: For fewer than 20 exits, and exits that do not exist.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import watch_exits
        >>> generator = np.random.default_rng(0)
        >>> alarm = watch_exits(generator.choice(3, 2000, p=[0.5, 0.3, 0.2]), num_exits=3, alpha=0.05)
        >>> alarm = alarm.update(generator.choice(3, 1000, p=[0.5, 0.3, 0.2]), generator=generator)
        >>> harder = alarm.update(generator.choice(3, 1000, p=[0.3, 0.3, 0.4]), generator=generator)
        >>> int(alarm.alarm), bool(harder.alarm > 1000)
        (0, True)
    """
    edges = np.arange(1.0, check_whole("num_exits", num_exits, 2))
    x = _read_calibration(exits, "exits")
    if not np.isin(x, np.arange(num_exits)).all():
        raise ValueError(f"expected exits from 0 to {num_exits - 1}, got values from {x.min():g} to {x.max():g}")
    counts = _count(edges, x[::2]) + 0.5
    cuts = (counts.cumsum() / counts.sum())[:-1]
    return _start(edges, x[1::2], cuts, 2 * len(_SIZES) * num_exits, alpha, streams)


def watch_values(values: ArrayLike, alpha: float, *, streams: tuple[int, ...] = ()) -> DriftAlarm:
    """Return the state before the first live value.

    Bets are on values that become larger, smaller, more extreme or more central than the calibration values. No range
    and no distribution is assumed.

    Args:
        values: Values (n,) of the calibration data: costs, epistemic uncertainties or variations. Every second one sets
            the bins, the others are the reference.
        alpha: Probability of a false alarm, over all time.
        streams: Shape of the streams that are watched side by side; a single one by default.

    Raises:
        ValueError: For fewer than 20 values, and values that are not finite.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import watch_values
        >>> generator = np.random.default_rng(0)
        >>> alarm = watch_values(generator.exponential(size=2000), alpha=0.05)
        >>> alarm = alarm.update(generator.exponential(size=1000), generator=generator)
        >>> larger = alarm.update(1.5 * generator.exponential(size=1000), generator=generator)
        >>> int(alarm.alarm), bool(larger.alarm > 1000)
        (0, True)
    """
    x = _read_calibration(values, "values")
    edges = np.unique(np.quantile(x[::2], np.arange(1, _BINS) / _BINS))
    return _start(edges, x[1::2], np.empty(0), 2 * len(_TILTS), alpha, streams)


def rank(counts: Counts, bins: NDArray[np.intp], uniform: ArrayLike) -> Floats:
    """Compute the conformal p-value (*streams), large for large values.

    Args:
        counts: Number of values (*streams, B) of the reference in every bin.
        bins: Bin (*streams) of the next value.
        uniform: Number (*streams) in [0, 1) that breaks ties.
    """
    through = np.take_along_axis(counts.cumsum(axis=-1), bins[..., None], -1)[..., 0]
    equal = np.take_along_axis(counts, bins[..., None], -1)[..., 0]
    return (through - equal + np.asarray(uniform) * (equal + 1)) / (counts.sum(axis=-1) + 1)


def bet_on_shape(p: Floats) -> Floats:
    """Compute the factors (…, J) of linear bets on a p-value (…) and on its distance from ½, both uniform."""
    return np.concatenate([1 + _TILTS * (v[..., None] - 0.5) for v in (p, np.abs(2 * p - 1))], axis=-1)


def bet_on_shares(p: Floats, cuts: Floats) -> Floats:
    """Compute the factors (…, J) of bets that each of K shares of [0, 1], divided by cuts (K − 1,), rises or falls.

    They are those of `bets` for the indicator of the share and its complement.
    """
    widths = np.diff(cuts, prepend=0.0, append=1.0)
    inside = np.searchsorted(cuts, p, side="right")[..., None] == np.arange(len(widths))
    rises, falls = factors(inside, widths, _SIZES), factors(~inside, 1 - widths, _SIZES)
    return np.concatenate([rises, falls], axis=-1).reshape(*np.shape(p), -1)


def _start(
    edges: Floats, reference: Floats, cuts: Floats, bets: int, alpha: float, streams: tuple[int, ...]
) -> DriftAlarm:
    """Return the state before the first live value, with the counts of the reference (n,)."""
    counts = np.broadcast_to(_count(edges, reference), (*streams, len(edges) + 1)).copy()
    evidence = EProcess.start(check_open("alpha", alpha), np.full(bets, 1 / bets), streams)
    return DriftAlarm(edges, counts, cuts, evidence)


def _count(edges: Floats, x: Floats) -> Counts:
    """Count the values (n,) in every bin, (B,) int64."""
    return np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1).astype(np.int64)


def _read_calibration(values: ArrayLike, what: str) -> Floats:
    """Return calibration values (n,), float64, or raise a ValueError for fewer than 20."""
    x = read_observations(values, ())
    if len(x) < _FEWEST:
        raise ValueError(f"expected at least {_FEWEST} {what} of the calibration data, got {len(x)}")
    return x
