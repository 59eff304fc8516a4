"""Alarms that a loss in [0, 1] is above its bound, also where it rises late after a long good time.

Both are for the hypothesis that the conditional mean of every loss, given those before it, is at most `max_loss`.
Losses may depend on each other and change their distribution. What differs is the promise on false alarms:

- `LossAlarm`: the probability that there is ever one is at most α.
- `LossDetector`: the expected number of losses up to the first is at least a given one. It is sooner where a change
  comes late, and it raises a false alarm eventually.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suffice_runtime.monitor import bets
from suffice_runtime.monitor.capital import Capital, EProcess
from suffice_runtime.monitor.checks import check_open, read_unit

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LossAlarm:
    """Evidence that a loss is above its bound. False alarms have a probability of at most α, over all time.

    Attributes:
        max_loss: Bound on the mean loss.
        evidence: E-process of the hypothesis that the bound holds.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import LossAlarm
        >>> alarm = LossAlarm.start(max_loss=0.01, alpha=0.05).update(np.zeros(1000))
        >>> int(alarm.alarm), int(alarm.update(np.arange(400) % 20 == 0).alarm)
        (0, 1281)
    """

    max_loss: float
    evidence: EProcess

    @classmethod
    def start(cls, max_loss: float, alpha: float, streams: tuple[int, ...] = ()) -> "LossAlarm":
        """Return the state before the first loss.

        Args:
            max_loss: Bound on the mean loss, in (0, 1).
            alpha: Probability of a false alarm, over all time.
            streams: Shape of the streams that are watched side by side; a single one by default.

        Raises:
            ValueError: Unless both numbers are in (0, 1).
        """
        evidence = EProcess.start(check_open("alpha", alpha), bets.WEIGHTS, streams)
        return cls(check_open("max_loss", max_loss), evidence)

    @property
    def log_e(self) -> Floats:
        """Logarithm (*streams) of the e-value, in nats."""
        return self.evidence.log_e

    @property
    def e_value(self) -> Floats:
        """E-value (*streams), at most the greatest float."""
        return np.exp(np.minimum(self.log_e, math.log(np.finfo(np.float64).max)))

    @property
    def alarm(self) -> NDArray[np.int64]:
        """Number of losses (*streams) at which the e-value first reached 1/α, or 0."""
        return self.evidence.alarm

    def update(self, losses: ArrayLike) -> "LossAlarm":
        """Return the state after losses (n, *streams) in [0, 1], in order of time.

        Raises:
            ValueError: For another shape, and for a loss outside [0, 1] or NaN.
        """
        evidence = self.evidence
        for x in read_unit(losses, evidence.peak.shape):
            evidence = evidence.advance(bets.factors(x, self.max_loss), bets.WEIGHTS)
        return replace(self, evidence=evidence)

    def check(self) -> None:
        """Raise a ValueError unless a restored state has the shapes of these bets."""
        check_open("max_loss", self.max_loss)
        check_evidence(self.evidence, len(bets.SIZES))


@dataclass(frozen=True, eq=False)
class LossDetector:
    """Alarm that a loss has risen above its bound, with a given average run length up to a false alarm.

    Attributes:
        max_loss: Bound on the mean loss.
        run_length: Least expected number of losses up to a false alarm.
        capital: Capital of the bets, of which one unit starts at every loss.
        alarm: Number of losses (*streams) at the first alarm, or 0. Start anew after an alarm.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import LossDetector
        >>> detector = LossDetector.start(max_loss=0.01, run_length=20_000).update(np.zeros(1000))
        >>> int(detector.alarm), int(detector.update(np.arange(400) % 20 == 0).alarm)
        (0, 1161)
    """

    max_loss: float
    run_length: float
    capital: Capital
    alarm: NDArray[np.int64]

    @classmethod
    def start(cls, max_loss: float, run_length: float, streams: tuple[int, ...] = ()) -> "LossDetector":
        """Return the state before the first loss.

        Args:
            max_loss: Bound on the mean loss, in (0, 1).
            run_length: Least expected number of losses up to a false alarm, at least 1.
            streams: Shape of the streams that are watched side by side; a single one by default.

        Raises:
            ValueError: For numbers outside their ranges.
        """
        if not 1 <= run_length < math.inf:
            raise ValueError(f"expected a finite run_length of at least 1, got {run_length}")
        capital = Capital.start(bets.WEIGHTS, 1.0, streams)
        return cls(check_open("max_loss", max_loss), float(run_length), capital, np.zeros(streams, dtype=np.int64))

    @property
    def log_statistic(self) -> Floats:
        """Logarithm (*streams) of the Shiryaev-Roberts statistic; −inf before the first loss."""
        return self.capital.log_total(-1.0)

    def update(self, losses: ArrayLike) -> "LossDetector":
        """Return the state after losses (n, *streams) in [0, 1], in order of time.

        Raises:
            ValueError: For another shape, and for a loss outside [0, 1] or NaN.
        """
        state = self
        for x in read_unit(losses, self.alarm.shape):
            capital = state.capital.advance(bets.factors(x, self.max_loss), bets.WEIGHTS)
            state = replace(state, capital=capital)
            first = (state.log_statistic >= math.log(self.run_length)) & (state.alarm == 0)
            state = replace(state, alarm=np.where(first, capital.count, state.alarm))
        return state

    def check(self) -> None:
        """Raise a ValueError unless a restored state has the shapes of these bets."""
        check_open("max_loss", self.max_loss)
        check_capital(self.capital, len(bets.SIZES))


def check_evidence(evidence: EProcess, count: int) -> None:
    """Raise a ValueError unless the evidence is that of `count` bets, at a level in (0, 1)."""
    check_open("alpha", evidence.alpha)
    check_capital(evidence.capital, count)
    shape = evidence.capital.scale.shape
    if np.shape(evidence.peak) != shape or np.shape(evidence.alarm) != shape:
        got = f"{np.shape(evidence.peak)} and {np.shape(evidence.alarm)}"
        raise ValueError(f"expected peaks and alarms of shape {shape}, got {got}")


def check_capital(capital: Capital, count: int) -> None:
    """Raise a ValueError unless the capital is that of `count` bets."""
    expected = (*capital.scale.shape, count)
    if capital.count < 0 or capital.capital.shape != expected or (capital.capital < 0).any():
        raise ValueError(f"expected capital of shape {expected}, at least 0, got {capital.capital.shape}")
