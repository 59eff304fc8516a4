"""Agreement of an estimated spread with the truth, when the truth itself is measured by a few passes.

With two independent measurements a, b of the same spreads and an estimate ŝ

    noise-corrected R²        1 − mean[(ŝ − a)(ŝ − b)] / Cov(a, b)          sensitive to bias
    noise-corrected squared correlation     r(ŝ, a) · r(ŝ, b) / r(a, b)      insensitive to bias

The noise of a and b is independent, so that products have the expectation of noiseless ones. The same on logarithms
gives τ², the variance of log(σ/ŝ). If a = b, for a teacher without randomness, both are the usual measures. Ranks, and
the examples with the lowest or highest spreads, are taken from the mean of a and b, which needs many passes.
"""

import math

import torch
from torch import Tensor

from suffice import metrics


def r_squared(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Return the noise-corrected R² of an estimate (N,), or NaN if the measured spreads do not covary."""
    estimate, a, b = estimate.double(), a.double(), b.double()
    covariance = _covariance(a, b)
    error = ((estimate - a) * (estimate - b)).mean()
    return float(1 - error / covariance) if covariance > 0 else math.nan


def squared_correlation(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Return the noise-corrected squared correlation of an estimate (N,), or NaN where it is not defined."""
    estimate, a, b = estimate.double(), a.double(), b.double()
    between = _covariance(a, b) * _covariance(estimate, estimate)
    return float(_covariance(estimate, a) * _covariance(estimate, b) / between) if between > 0 else math.nan


def log_r_squared(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Return the noise-corrected R² of the logarithm of an estimate (N,), over rows where a and b are above zero.

    An estimate is raised to the least measured spread, since the logarithm of a zero would dominate the result.
    """
    positive = (a > 0) & (b > 0)
    if not bool(positive.any()):
        return math.nan
    estimate, a, b = (values[positive].double() for values in (estimate, a, b))
    least = torch.minimum(a, b).min()
    return r_squared(estimate.clamp_min(least).log(), a.log(), b.log())


def spearman(estimate: Tensor, truth: Tensor) -> float:
    """Return the rank correlation of an estimate (N,) with the truth (N,), ties at their mean rank.

    It is NaN if either is constant.
    """
    from scipy.stats import rankdata

    x, y = (torch.from_numpy(rankdata(values.cpu())) for values in (estimate, truth))
    between = _covariance(x, x) * _covariance(y, y)
    return _covariance(x, y) / math.sqrt(between) if between > 0 else math.nan


def extremes(estimate: Tensor, truth: Tensor, share: float = 0.1) -> tuple[float, float]:
    """Return the AUROC of an estimate (N,) for the lowest `share` of the truth (N,), and for the highest."""
    low, high = metrics.quantile(truth, [share, 1 - share])
    return float(metrics.auroc(-estimate, truth <= low)), float(metrics.auroc(estimate, truth >= high))


def measures(estimate: Tensor, a: Tensor, b: Tensor) -> dict[str, float]:
    """Return all measures by name: r2, r2_log, spearman, auc_low and auc_high. Ranks use the mean of a and b.

    Args:
        estimate: Estimated spreads, (N,).
        a: Unbiased measurement of the spreads, (N,), over so many passes that logarithms and ranks have little noise.
        b: Independent second measurement, (N,).
    """
    truth = (a + b) / 2
    low, high = extremes(estimate, truth)
    return {
        "r2": r_squared(estimate, a, b),
        "r2_log": log_r_squared(estimate, a, b),
        "spearman": spearman(estimate, truth),
        "auc_low": low,
        "auc_high": high,
    }


def log_error(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Return τ², the variance of log(σ/ŝ), over rows where all are above zero; at least 1e-4.

    It is infinite if there are fewer than two such rows.
    """
    positive = (estimate > 0) & (a > 0) & (b > 0)
    if int(positive.sum()) < 2:
        return math.inf
    estimate, a, b = (values[positive].double().log() for values in (estimate, a, b))
    return max(1e-4, _covariance(a - estimate, b - estimate))


def unbiased(deviation: Tensor, passes: int) -> Tensor:
    """Correct a standard deviation over T passes for its bias under nearly normal outputs, by 1 + 1/(4(T − 1))."""
    return deviation * (1 + 1 / (4 * (passes - 1)))


def combined(estimate: Tensor, error: float, measured: Tensor, passes: int) -> Tensor:
    """Merge an estimate and a measurement over k passes by the precision of their logarithms.

    Their variances are τ² and 1/(2(k − 1)). The logarithm of the measurement has bias −1/(2(k − 1)), which is removed.

    Args:
        estimate: Estimated standard deviations, (N,).
        error: τ², from `log_error`.
        measured: Measured standard deviations, (N,).
        passes: Number k of passes of the measurement.

    Returns:
        Standard deviations (N,) in the type of `measured`.
    """
    noise = 1 / (2 * (passes - 1))
    weight = noise / (noise + error)
    log_measured = measured.clamp_min(torch.finfo(measured.dtype).tiny).log() + noise
    return torch.exp(weight * estimate.to(measured.dtype).log() + (1 - weight) * log_measured)


def _covariance(a: Tensor, b: Tensor) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean())
