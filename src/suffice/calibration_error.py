"""Calibration errors of the top class: how far confidences are from the rate at which predictions are correct.

With bins b of n_b examples, D_b = Σ (hit − confidence) over a bin, and N = Σ n_b:

    ece              Σ_b |D_b| / N                        Naeini et al. 2015
    ece_noise_floor  Σ_b E|D_b| / N                       its mean if hits were drawn with the confidences themselves
    ece_debiased     Σ_b E[2 sign(A) (D_b − A)] / N       A = (D_b + z)/2, z ~ N(0, s²), s² = Σ p(1 − p), p confidence
    smooth_ece       σ = ∫ |mean_i K_σ(t, p_i) (hit_i − p_i)| dt     without bins; Błasiok and Nakkiran 2023

The absolute value of a noisy sum is larger than that of its mean, so that `ece` is above 0 even for perfect
confidences, and `ece_noise_floor` is how far. In `ece_debiased` one half A of a bin's examples gives the sign and the
other half the size, averaged over all halves. The halves are independent, so that noise of mean 0 stays at 0.
"""

import math

import torch
from torch import Tensor

from suffice.utils import checks
from suffice.utils.arrays import takes_arrays

_EXACT_BELOW = 25.0
"""Variance of a sum of hits below which its distribution is computed exactly. Above, the mean of |D| is that of a
Gaussian up to a relative (λ₃² − λ₄)/24 + 1/12σ² by Edgeworth's expansion, with skewness² and |excess kurtosis| ≤ 1/σ²:
less than 1 %."""

_LATTICE = 256
"""Number of consecutive sums in the exact distribution; by Bernstein's inequality at most 1e-30 lies outside."""

_MESH = 1 << 14
"""Number of intervals of the grid on [0, 1] of the smooth error."""


@takes_arrays
def bin_index(confidence: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Return the bin (N,) of each confidence, int64.

    Bins are (i/bins, (i+1)/bins] with 0 in the first and 1 in the last, so no confidence falls outside. With
    `equal_mass` they hold equal numbers of examples sorted by confidence, as far as ties allow: equal confidences are
    in one bin, that of their middle rank, so that the order of the examples does not matter.
    """
    if not equal_mass:
        return (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    _, group, counts = confidence.double().unique(sorted=True, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    doubled_middle = 2 * ends - counts - 1  # first rank plus last rank
    bin_of_group: Tensor = doubled_middle * bins // (2 * max(len(confidence), 1))
    return bin_of_group[group]


@takes_arrays
def reliability(confidence: Tensor, hits: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Compute the table of a reliability diagram.

    Args:
        confidence: Confidences (N,) in [0, 1].
        hits: Whether each prediction is correct, (N,) bool.
        bins: Number of bins.
        equal_mass: Whether bins hold equal numbers of examples instead of having equal widths.

    Returns:
        Count, summed confidence and summed hits of each bin of `bin_index`, (bins, 3) float64.
    """
    hits = checks.flags(hits, "hits", confidence)
    confidence = confidence.double()
    index = bin_index(confidence, bins, equal_mass)
    rows = torch.stack([torch.ones_like(confidence), confidence, hits.double()], dim=1)
    return rows.new_zeros(bins, 3).index_add_(0, index, rows)


@takes_arrays
def ece(probs: Tensor, labels: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Compute the expected calibration error of the top class, Σ_b n_b/N |accuracy_b − confidence_b| (Naeini 2015).

    Example:
        >>> import torch
        >>> from suffice.metrics import ece
        >>> probs = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
        >>> float(ece(probs, torch.tensor([0, 0, 0, 1]))), float(ece(probs, torch.tensor([0, 0, 1, 1])))
        (0.0, 0.25)
    """
    confidence, hits = _top_class(probs, labels)
    table = reliability(confidence, hits, bins, equal_mass)
    return (table[:, 1] - table[:, 2]).abs().sum() / len(labels)


@takes_arrays
def ece_noise_floor(probs: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Compute the mean `ece` of perfectly calibrated predictions with these probabilities (N, C).

    An `ece` near it shows no miscalibration; it falls with 1/√N. No labels are needed.

    Example:
        >>> import torch
        >>> from suffice.metrics import ece_noise_floor
        >>> probs = torch.tensor([[0.75, 0.25]])
        >>> [round(float(ece_noise_floor(probs.repeat(n, 1))), 4) for n in (100, 10_000)]
        [0.0344, 0.0035]
    """
    checks.class_values(probs, 0.0, 1.0)
    confidence = probs.amax(dim=-1).double().clamp(max=1)
    index = bin_index(confidence, bins, equal_mass)
    variance = confidence.new_zeros(bins).index_add_(0, index, confidence * (1 - confidence))
    deviation = (variance * 2 / math.pi).sqrt()
    for b in (variance < _EXACT_BELOW).nonzero()[:, 0].tolist():
        deviation[b] = _mean_deviation(confidence[index == b])
    return deviation.sum() / len(confidence)


def _mean_deviation(chances: Tensor) -> Tensor:
    """Compute E|S − E S| of a sum S of independent hits with chances (n,), by the discrete Fourier transform.

    The distribution of S modulo `_LATTICE` has the characteristic function Π_i (1 − p_i + p_i exp(iθ)) at θ = 2πk/L.
    """
    mean, length = chances.sum(), _LATTICE
    angles = torch.arange(length // 2 + 1, dtype=torch.float64, device=chances.device) * (2 * math.pi / length)
    turns = torch.polar(torch.ones_like(angles), angles) - 1
    transform = torch.ones_like(turns)
    for part in chances.split(1 << 14):
        transform = transform * (1 + part[:, None] * turns).prod(dim=0)
    mass = torch.fft.irfft(transform.conj(), n=length)
    start = math.floor(float(mean)) - length // 2
    sums = torch.arange(start, start + length, device=chances.device)
    deviation: Tensor = mass[sums % length] @ (sums - mean).abs()
    return deviation


@takes_arrays
def ece_debiased(probs: Tensor, labels: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Compute the calibration error without the bias of `ece` by noise; it may be negative.

    In closed form a bin adds D(2Φ(D/s) − 1) − 2sφ(D/s). For sums of hits that are about normal its mean is 0 if the
    confidences are perfect, |E D| if that is well above the noise s, and E D (2Φ(E D/√2s) − 1) between.

    Example:
        >>> import torch
        >>> from suffice.metrics import ece, ece_debiased
        >>> generator = torch.Generator().manual_seed(0)
        >>> confidence = 0.5 + torch.rand(2000, generator=generator) / 2
        >>> labels = (torch.rand(2000, generator=generator) > confidence).long()  # class 0 with its own probability
        >>> probs = torch.stack([confidence, 1 - confidence], dim=1)
        >>> round(float(ece(probs, labels)), 3), round(float(ece_debiased(probs, labels)), 3)
        (0.017, -0.006)
    """
    confidence, hits = _top_class(probs, labels)
    confidence = confidence.double().clamp(max=1)
    index = bin_index(confidence, bins, equal_mass)
    rows = torch.stack([hits.double() - confidence, confidence * (1 - confidence)])
    difference, variance = rows.new_zeros(2, bins).index_add_(1, index, rows)
    noise = variance.sqrt()
    z = difference / noise.clamp_min(torch.finfo(noise.dtype).tiny)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    total: Tensor = (difference * (2 * torch.special.ndtr(z) - 1) - 2 * noise * density).sum()
    return total / len(confidence)


@takes_arrays
def smooth_ece(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the smooth calibration error of the top class (Błasiok and Nakkiran 2023), in [0, 1].

    It is the σ that equals ∫ |mean_i K_σ(t, confidence_i) (hit_i − confidence_i)| dt over [0, 1], with a Gaussian
    kernel K_σ of standard deviation σ that is reflected at 0 and 1. There are no bins to choose, and it is continuous
    in the confidences.

    Example:
        >>> import torch
        >>> from suffice.metrics import smooth_ece
        >>> probs = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
        >>> round(float(smooth_ece(probs, torch.tensor([0, 0, 1, 1]))), 4)
        0.25
    """
    confidence, hits = _top_class(probs, labels)
    if not len(labels) or bool(confidence.isnan().any()):
        return torch.tensor(float("nan"), dtype=torch.float64)
    confidence = confidence.double().clamp(0, 1)
    return torch.tensor(_fixed_point(_on_mesh(confidence, hits.double() - confidence)), dtype=torch.float64)


def _on_mesh(at: Tensor, residual: Tensor) -> Tensor:
    """Distribute the residuals (N,) over N, each to the two nearest of `_MESH` + 1 nodes, in proportion (nodes,)."""
    position = at * _MESH
    below = position.floor().long().clamp(max=_MESH - 1)
    share = position - below
    mesh = residual.new_zeros(_MESH + 1)
    mesh.index_add_(0, below, residual * (1 - share)).index_add_(0, below + 1, residual * share)
    return mesh / len(residual)


def _fixed_point(mesh: Tensor) -> float:
    """Return the σ that equals the integral of the absolute value of residuals smoothed by σ.

    The reflected kernel is diagonal in cosines, cos(πkt) ↦ exp(−(πkσ)²/2) cos(πkt). The integral does not grow with σ,
    so that bisection finds the only solution.
    """
    from scipy.fft import dct, idct

    values = mesh.cpu().numpy().copy()
    values[[0, -1]] *= 2  # half a cell at either end
    transform = dct(values, type=1)
    decay = -((torch.arange(_MESH + 1, dtype=torch.float64) * math.pi).square() / 2).numpy()
    low, high = 0.0, 1.0
    for _ in range(40):
        sigma = (low + high) / 2
        smoothed = torch.from_numpy(idct(transform * torch.from_numpy(decay * sigma**2).exp().numpy(), type=1)).abs()
        integral = float(smoothed.sum() - (smoothed[0] + smoothed[-1]) / 2)
        low, high = (sigma, high) if integral > sigma else (low, sigma)
    return high


def _top_class(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidences (N,) and whether the predictions are correct (N,), from checked probabilities."""
    labels = checks.labeled(probs, labels)
    checks.class_values(probs, 0.0, 1.0)
    return probs.amax(dim=-1), probs.argmax(dim=-1) == labels
