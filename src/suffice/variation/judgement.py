"""How good an estimate of a spread is, when the truth itself is measured by a few passes.

With two independent measurements a, b of the same spreads and an estimate ŝ

    noise-corrected R²        1 − mean[(ŝ − a)(ŝ − b)] / Cov(a, b)          sees bias
    noise-corrected squared correlation     r(ŝ, a) · r(ŝ, b) / r(a, b)      blind to it

as the noise of a and b is independent, products have the expectation of noiseless ones. The same on logarithms gives
τ², the variance of log(σ/ŝ). Where a = b, for a teacher without randomness, they are the ordinary ones.
"""

import math

import torch
from torch import Tensor


def r_squared(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Noise-corrected R² of an estimate (N,); NaN where the spreads do not differ."""
    estimate, a, b = estimate.double(), a.double(), b.double()
    covariance = _covariance(a, b)
    error = ((estimate - a) * (estimate - b)).mean()
    return float(1 - error / covariance) if covariance > 0 else math.nan


def squared_correlation(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Noise-corrected squared correlation of an estimate (N,)."""
    estimate, a, b = estimate.double(), a.double(), b.double()
    between = _covariance(a, b) * _covariance(estimate, estimate)
    return float(_covariance(estimate, a) * _covariance(estimate, b) / between) if between > 0 else math.nan


def log_error(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """τ², the variance of log(σ/ŝ); at least 1e-4, and taken over rows where all are above zero."""
    seen = (estimate > 0) & (a > 0) & (b > 0)
    if int(seen.sum()) < 2:
        return math.inf
    estimate, a, b = (values[seen].double().log() for values in (estimate, a, b))
    return max(1e-4, _covariance(a - estimate, b - estimate))


def unbiased(deviation: Tensor, passes: int) -> Tensor:
    """A standard deviation over T passes without its bias under nearly normal outputs, times 1 + 1/(4(T − 1))."""
    return deviation * (1 + 1 / (4 * (passes - 1)))


def combined(estimate: Tensor, error: float, measured: Tensor, passes: int) -> Tensor:
    """An estimate (N,) and one measured over k passes merged by the precision of their logarithms.

    Variances τ² and 1/(2(k − 1)); the bias −1/(2(k − 1)) of the logarithm of the measured one is taken out.
    """
    noise = 1 / (2 * (passes - 1))
    weight = noise / (noise + error)
    log_measured = measured.clamp_min(torch.finfo(measured.dtype).tiny).log() + noise
    return torch.exp(weight * estimate.to(measured.dtype).log() + (1 - weight) * log_measured)


def _covariance(a: Tensor, b: Tensor) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean())
