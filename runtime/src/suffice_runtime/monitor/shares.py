"""Alarm that the shares of exits differ from stated ones by more than a tolerance.

A bundle states the share r_k of the validation examples that stop at each of K exits, but not their exits. With a
tolerance δ the hypotheses are, for every k,

    P(exit = k | past) ≤ r_k + δ   and   P(exit ≠ k | past) ≤ 1 − r_k + δ,

each with an e-process of its own, as that of `LossAlarm`, at the level α/2K. The tolerance covers what the validation
examples leave uncertain about the shares: a standard error is at most 1/(2 √n) for n of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suffice_runtime.monitor import bets
from suffice_runtime.monitor.capital import EProcess
from suffice_runtime.monitor.checks import check_open, read_observations
from suffice_runtime.monitor.loss import check_evidence

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShareAlarm:
    """Evidence that exits have other shares than stated ones. False alarms have a probability of at most α.

    Attributes:
        bounds: Bounds (2K,) on the shares of each exit, and of all other exits than each.
        evidence: E-processes (2K,) of the hypotheses that the bounds hold, each at the level α/2K.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import ShareAlarm
        >>> generator = np.random.default_rng(0)
        >>> alarm = ShareAlarm.start([0.5, 0.3, 0.2], tolerance=0.05, alpha=0.05)
        >>> alarm = alarm.update(generator.choice(3, 1000, p=[0.48, 0.31, 0.21]))
        >>> harder = alarm.update(generator.choice(3, 1000, p=[0.3, 0.3, 0.4]))
        >>> alarm.alarm, harder.alarm > 1000
        (0, True)
    """

    bounds: Floats
    evidence: EProcess

    @classmethod
    def start(cls, shares: ArrayLike, tolerance: float, alpha: float) -> "ShareAlarm":
        """Return the state before the first exit.

        Args:
            shares: Stated shares (K,), which sum to 1.
            tolerance: Difference δ of a share that is no reason for an alarm, in (0, 1).
            alpha: Probability of a false alarm, over all time.

        Raises:
            ValueError: For numbers outside their ranges.
        """
        r = np.asarray(shares, dtype=np.float64)
        if r.ndim != 1 or not ((r >= 0).all() and (r <= 1).all()):
            raise ValueError(f"expected shares of K exits in [0, 1], got {r}")
        bounds = np.minimum(np.concatenate([r, 1 - r]) + check_open("tolerance", tolerance), 1.0)
        level = check_open("alpha", alpha) / len(bounds)
        return cls(bounds, EProcess.start(level, bets.WEIGHTS, bounds.shape))

    @property
    def count(self) -> int:
        """Number of exits so far."""
        return self.evidence.capital.count

    @property
    def log_e(self) -> float:
        """Logarithm of the greatest of the e-values, in nats."""
        return float(self.evidence.log_e.max())

    @property
    def alarm(self) -> int:
        """Number of exits at which the first of the e-values reached 2K/α, or 0."""
        alarms = self.evidence.alarm[self.evidence.alarm > 0]
        return int(alarms.min()) if len(alarms) else 0

    def update(self, exits: ArrayLike) -> "ShareAlarm":
        """Return the state after exits (n,), counted from 0, in an order that does not depend on them.

        Raises:
            ValueError: For another shape, and for an exit that does not exist.
        """
        found, every = read_observations(exits, ()), np.arange(len(self.bounds) // 2)
        if not np.isin(found, every).all():
            raise ValueError(
                f"expected exits from 0 to {every[-1]}, got values from {found.min():g} to {found.max():g}"
            )
        evidence = self.evidence
        for exit_ in found:
            is_it = every == exit_
            inside = np.concatenate([is_it, ~is_it])
            evidence = evidence.advance(bets.factors(inside, self.bounds), bets.WEIGHTS)
        return replace(self, evidence=evidence)

    def check(self) -> None:
        """Raise a ValueError unless a restored state has the shapes of these bets."""
        shape = self.evidence.peak.shape
        if self.bounds.shape != shape or len(shape) != 1 or shape[0] % 2:
            raise ValueError(f"expected bounds of shape {shape}, two for each exit, got {self.bounds.shape}")
        if not ((self.bounds > 0) & (self.bounds <= 1)).all():
            raise ValueError(f"expected bounds in (0, 1], got {self.bounds}")
        check_evidence(self.evidence, len(bets.SIZES))
