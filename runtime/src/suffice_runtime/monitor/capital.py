"""Capital of bets that start at every time.

Bet j that starts before observation k has the wealth Π_{i=k}^{n} f_ij, with factors f ≥ 0 of conditional mean ≤ 1 under
the hypothesis. Their total over all starting times follows one recursion,

    Q_nj = Q_{n−1,j} f_nj + w_j π_{n+1},   Q_0j = w_j π_1,

with w the division among the bets and π_k what is put on them before observation k. Two choices of π are used:

- `share`: π_k that sum to 1. Then Σ_j Q_nj + the part that is not yet used, 1 − π_1 − … − π_{n+1}, is an e-process,
  which reaches 1/α with probability at most α. Half is used at once; late starts have about 1/(k log² k) each.
- 1 for every k: Σ_j Q_nj − 1 is the e-detector of Shiryaev and Roberts (Shin, Ramdas and Rinaldo 2024), and the
  expected number of observations until it reaches c is at least c.

Numbers are kept as capital · exp(scale), and the scale is raised before they overflow.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LARGE = 1e150


def share(k: int) -> float:
    """Return π_k = T(k − 1) − T(k), with T(k) = 1/(1 + log2(k + 1)), for k = 1, 2, … in turn."""
    return math.log1p(1 / k) / math.log(2) / ((1 + math.log2(k)) * (1 + math.log2(k + 1)))


def unused(k: int) -> float:
    """Return T(k) = 1 − π_1 − … − π_k."""
    return 1 / (1 + math.log2(k + 1))


@dataclass(frozen=True, eq=False)
class Capital:
    """Total capital of every bet over all its starting times.

    Attributes:
        capital: Capital (*streams, J) ready for the next observation, divided by exp(scale), float64.
        scale: Logarithm (*streams) of the unit of the capital, float64.
        count: Number of observations so far.
    """

    capital: Floats
    scale: Floats
    count: int

    @classmethod
    def start(cls, weights: Floats, first: float, streams: tuple[int, ...]) -> "Capital":
        """Return the capital `first` times weights (J,) before the first observation."""
        return cls(np.broadcast_to(weights * first, (*streams, len(weights))).copy(), np.zeros(streams), 0)

    def advance(self, factors: Floats, added: Floats) -> "Capital":
        """Return the capital after factors (*streams, J) and an addition (J,), π_{n+1} w."""
        capital = self.capital * factors + added * np.exp(-self.scale)[..., None]
        peak = capital.max(axis=-1)
        if not (peak > _LARGE).any():
            return Capital(capital, self.scale, self.count + 1)
        raised = np.where(peak > _LARGE, peak, 1.0)
        return Capital(capital / raised[..., None], self.scale + np.log(raised), self.count + 1)

    def log_total(self, more: float) -> Floats:
        """Compute log(Σ_j Q_nj + more) (*streams); −inf where nothing is left."""
        with np.errstate(divide="ignore"):
            total = np.log(np.maximum(self.capital.sum(axis=-1) + more * np.exp(-self.scale), 0.0))
        return total + self.scale


@dataclass(frozen=True, eq=False)
class EProcess:
    """Evidence against a hypothesis, by bets that start at every time with shares that sum to 1.

    Under the hypothesis, the e-value reaches 1/α at any time with probability at most α.

    Attributes:
        alpha: Probability of a false alarm.
        capital: Capital of the bets.
        peak: Greatest logarithm (*streams) of the e-value so far, in nats, at least 0.
        alarm: Number of observations (*streams) at which the e-value first reached 1/α, or 0.
    """

    alpha: float
    capital: Capital
    peak: Floats
    alarm: NDArray[np.int64]

    @classmethod
    def start(cls, alpha: float, weights: Floats, streams: tuple[int, ...] = ()) -> "EProcess":
        """Return the evidence before the first observation, with an e-value of 1, for bets with weights (J,)."""
        capital = Capital.start(weights, share(1), streams)
        return cls(alpha, capital, np.zeros(streams), np.zeros(streams, dtype=np.int64))

    @property
    def log_e(self) -> Floats:
        """Logarithm (*streams) of the e-value, in nats."""
        return self.capital.log_total(unused(self.capital.count + 1))

    def advance(self, factors: Floats, weights: Floats) -> "EProcess":
        """Return the evidence after factors (*streams, J) of the next observation."""
        capital = self.capital.advance(factors, weights * share(self.capital.count + 2))
        after = replace(self, capital=capital)
        peak = np.maximum(self.peak, after.log_e)
        first = (peak >= -math.log(self.alpha)) & (self.alarm == 0)
        return replace(after, peak=peak, alarm=np.where(first, capital.count, self.alarm))
