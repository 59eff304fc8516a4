"""Bets on the mean of observations in [0, 1].

A bet of size g > 0 multiplies its capital by (1 + g x)/(1 + g m) at an observation x. The expected factor is at most 1
if the conditional mean of x is at most m. With x of 0 or 1 it is the likelihood ratio of a mean q to m, where
g = (q − m)/(m(1 − q)), about q/m − 1 for small q. The sizes are the same for every m: 41 of them, from 0.0003 to 3,000
in steps of a factor e^0.4. A size that is wrong by half a step loses at most about 5 % of the growth rate of the best.

The capital is divided among the sizes in advance, in proportion to 1/(1 + (log g)²): most for means that double.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_LOGS = np.arange(-20, 21) * 0.4

SIZES: Floats = np.exp(_LOGS)
"""Sizes g (J,) of the bets."""

WEIGHTS: Floats = (1 / (1 + _LOGS**2)) / (1 / (1 + _LOGS**2)).sum()
"""Shares (J,) of the initial capital."""

for _constant in (SIZES, WEIGHTS):
    _constant.flags.writeable = False


def factors(values: ArrayLike, mean: ArrayLike, sizes: Floats = SIZES) -> Floats:
    """Compute the factor (…, J) of every bet for observations (…) in [0, 1] and the hypothesis of a mean (…)."""
    x, m = np.asarray(values, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    return (1 + sizes * x[..., None]) / (1 + sizes * m[..., None])


def log_mixture(logs: Floats, weights: Floats = WEIGHTS) -> Floats:
    """Compute the logarithm (…) of the total capital from the log-wealths (…, J) of one unit in each bet."""
    peak = logs.max(axis=-1, keepdims=True)
    return np.log((weights * np.exp(logs - peak)).sum(axis=-1)) + peak[..., 0]
