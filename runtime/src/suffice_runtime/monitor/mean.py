"""Bounds on the mean of a stream in [0, 1] that hold at all times at once (Waudby-Smith and Ramdas 2024).

With M̄_n = (1/n) Σ E[x_i | x_1 … x_{i−1}] the mean loss of the stream so far, and g the sizes of `bets`,

    E_n(m) = Σ_g w_g exp(Σ_i log(1 + g x_i) − n log(1 + g m)),   P(some n has E_n(M̄_n) ≥ 1/α) ≤ α,

for any dependence and any change over time. The lower bound is the least m with E_n(m) < 1/α, the upper bound the same
for 1 − x. The state consists of sums that do not depend on m, so that states of two streams merge by adding.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suffice_runtime.monitor.bets import SIZES, log_mixture
from suffice_runtime.monitor.checks import check_open, read_unit

Floats = NDArray[np.float64]

_CHUNK = 1 << 20
_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class MeanBounds:
    """Sums over observations in [0, 1], with bounds on their mean.

    Attributes:
        count: Number n of observations.
        total: Their sum (*streams), float64.
        above: Σ log(1 + g x) for every bet (*streams, J), float64.
        below: Σ log(1 + g (1 − x)) for every bet (*streams, J), float64.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import MeanBounds
        >>> bounds = MeanBounds.start().update(np.arange(2000) % 100 == 0)
        >>> print(f"{bounds.lower(0.05):.4f} < {bounds.mean:.4f} < {bounds.upper(0.05):.4f}")
        0.0049 < 0.0100 < 0.0176
    """

    count: int
    total: Floats
    above: Floats
    below: Floats

    @classmethod
    def start(cls, streams: tuple[int, ...] = ()) -> "MeanBounds":
        """Return the state before the first observation.

        Args:
            streams: Shape of the streams that are watched side by side; a single one by default.
        """
        zeros = np.zeros((*streams, len(SIZES)))
        return cls(0, np.zeros(streams), zeros, zeros)

    def update(self, values: ArrayLike) -> "MeanBounds":
        """Return the state after observations (n, *streams) in [0, 1]; their order does not matter.

        Raises:
            ValueError: For another shape, and for a value outside [0, 1] or NaN.
        """
        x = read_unit(values, self.total.shape)
        rows = max(1, _CHUNK // self.above.size)
        above, below = self.above, self.below
        for start in range(0, len(x), rows):
            part = x[start : start + rows, ..., None]
            above = above + np.log1p(SIZES * part).sum(axis=0)
            below = below + np.log1p(SIZES * (1 - part)).sum(axis=0)
        return MeanBounds(self.count + len(x), self.total + x.sum(axis=0), above, below)

    def merge(self, other: "MeanBounds") -> "MeanBounds":
        """Return the state after the observations of both, for parts of one stream that were watched separately."""
        return replace(
            self,
            count=self.count + other.count,
            total=self.total + other.total,
            above=self.above + other.above,
            below=self.below + other.below,
        )

    @property
    def mean(self) -> Floats:
        """Mean (*streams) of the observations; NaN before the first."""
        return self.total / self.count if self.count else np.full(self.total.shape, np.nan)

    def log_e_above(self, mean: ArrayLike) -> Floats:
        """Compute log E_n (*streams), the evidence that the mean is above `mean` (*streams), in nats."""
        m = np.asarray(mean, dtype=np.float64)
        return log_mixture(self.above - self.count * np.log1p(SIZES * m[..., None]))

    def log_e_below(self, mean: ArrayLike) -> Floats:
        """Compute log E_n (*streams), the evidence that the mean is below `mean` (*streams), in nats."""
        m = np.asarray(mean, dtype=np.float64)
        return log_mixture(self.below - self.count * np.log1p(SIZES * (1 - m[..., None])))

    def upper(self, alpha: float) -> Floats:
        """Compute the upper bound (*streams), above the mean at all times at once with probability 1 − α.

        For an interval, spend α/2 on `upper` and α/2 on `lower`.
        """
        return 1 - self._flipped().lower(alpha)

    def lower(self, alpha: float) -> Floats:
        """Compute the lower bound (*streams), below the mean at all times at once with probability 1 − α."""
        needed = -np.log(check_open("alpha", alpha))
        low = np.zeros(self.total.shape)
        high = self.mean if self.count else low
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            excluded = self.log_e_above(middle) >= needed
            low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
        return low

    def check(self) -> None:
        """Raise a ValueError unless the shapes of a restored state fit together."""
        expected = (*self.total.shape, len(SIZES))
        if self.count < 0 or self.above.shape != expected or self.below.shape != expected:
            raise ValueError(f"expected sums of shape {expected}, got {self.above.shape} and {self.below.shape}")

    def _flipped(self) -> "MeanBounds":
        """Return the state of the observations 1 − x."""
        return MeanBounds(self.count, self.count - self.total, self.below, self.above)
