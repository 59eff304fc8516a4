"""How good an estimate of a spread is, when the truth itself is measured by a few passes.

With two independent measurements a, b of the same spreads and an estimate ŝ

    noise-corrected R²        1 − mean[(ŝ − a)(ŝ − b)] / Cov(a, b)          sees bias
    noise-corrected squared correlation     r(ŝ, a) · r(ŝ, b) / r(a, b)      blind to it

as the noise of a and b is independent, products have the expectation of noiseless ones. The same on logarithms gives
τ², the variance of log(σ/ŝ). Where a = b, for a teacher without randomness, they are the ordinary ones. Ranks, and
who is among the lowest or highest, are taken from the mean of both: give it many passes.
"""

import math

import torch
from torch import Tensor

from suffice import metrics


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


def log_r_squared(estimate: Tensor, a: Tensor, b: Tensor) -> float:
    """Noise-corrected R² of the logarithm of an estimate (N,), over rows where a and b are above zero.

    An estimate below all that was measured counts as the least measured: a zero would decide everything.
    """
    seen = (a > 0) & (b > 0)
    if not bool(seen.any()):
        return math.nan
    estimate, a, b = (values[seen].double() for values in (estimate, a, b))
    least = torch.minimum(a, b).min()
    return r_squared(estimate.clamp_min(least).log(), a.log(), b.log())


def spearman(estimate: Tensor, truth: Tensor) -> float:
    """Rank correlation of an estimate (N,) with the truth, ties at their mean rank; NaN where either is constant."""
    from scipy.stats import rankdata

    x, y = (torch.from_numpy(rankdata(values.cpu())) for values in (estimate, truth))
    between = _covariance(x, x) * _covariance(y, y)
    return _covariance(x, y) / math.sqrt(between) if between > 0 else math.nan


def extremes(estimate: Tensor, truth: Tensor, share: float = 0.1) -> tuple[float, float]:
    """How well an estimate (N,) tells the lowest share of the truth from the rest, and the highest: AUROC of each."""
    low, high = truth.double().quantile(torch.tensor([share, 1 - share], dtype=torch.float64, device=truth.device))
    return float(metrics.auroc(-estimate, truth <= low)), float(metrics.auroc(estimate, truth >= high))


def measures(estimate: Tensor, a: Tensor, b: Tensor) -> dict[str, float]:
    """All of these by name: r2, r2_log, spearman, auc_low and auc_high; the ranks are judged by the mean of a and b.

    Args:
        estimate: (N,).
        a: (N,), measured over so many passes that logarithms and ranks have little noise, and unbiased.
        b: (N,), the same once more.
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
