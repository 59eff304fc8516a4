"""Links from the moments of the logits to probabilities, as pure functions.

With mean μ and covariance Σ of the logits, and the projection P = I − 11ᵀ/C, which does not change a softmax,

    plugin     softmax(μ / T)                     without the posterior
    sampled    mean over s of softmax(f_s / T)    with the fixed joint samples of `moments.Offsets`
    probit     softmax(κ Pμ / T),                 κ_c = 1 / √(1 + π/8 · v_c / T²)
    meanfield  p_k ∝ 1 / Σ_i exp(−(μ_k − μ_i) / √(T² + π/8 · (v_k + v_i)))

v is the diagonal of PΣP: the variance along 1 comes from the prior only and would distort the last two (error tables
in docs/links.md). Each function returns log-probabilities (N, C) and the expected entropy (N,) in nats, the aleatoric
part of the prediction. Without samples, the latter is the entropy at the mean logits, limited to the total entropy.
MacKay 1992 (probit); Lu, Ie and Sha 2020 (mean field).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from suffice.prediction import entropy
from suffice.utils.chunks import chunked

Link = Literal["sampled", "meanfield", "probit", "plugin"]

CHUNK = 1 << 18
"""Number of sampled logits in memory at once, so that they fit into a CPU cache."""

_BLOCK = 1 << 13
"""Numbers of one row of the offsets in memory at once, so that they fit as well."""

_SHORT = 32
"""Number of classes below which the class dimension comes first in memory."""

_FEW = 1 << 12
"""Number of sampled logits up to which fewer operations are faster than fewer exponentials."""

_FLOOR = -80.0
"""Smallest exponent within a sample: its exponential is a normal float32, as denormals are slow."""

_REACH = 20.0
"""Offsets up to this size keep every exponent in range if the mean is at least −60."""

_FAR = 100.0
"""Offsets up to this size have a rounding error of at most 4e-6, half a unit in the last place, per product."""


def plugin(logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the log-softmax of logits (N, C) at a temperature, and its entropy (N,)."""
    log_probs = (logits / temperature).log_softmax(dim=-1)
    return log_probs, entropy(log_probs)


def sampled(logits: Tensor, coefficients: Tensor, values: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Average the softmax over S joint samples.

    Args:
        logits: Mean of the logits, (N, C).
        coefficients: Coefficients of the posterior's offsets, (N, R).
        values: Values of the posterior's offsets, (R, S, C).
        temperature: Temperature T, which divides the sampled logits.

    Returns:
        Log-probabilities (N, C) and the mean entropy (N,) of the samples, in nats.
    """
    return _sampled(logits, coefficients, values / temperature, temperature)


def sampled_from(
    logits: Tensor,
    spectrum: Tensor,
    coefficients: Callable[[Tensor], Tensor],
    values: Tensor,
    temperature: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Average the softmax over S joint samples whose coefficients are a function of the spectrum.

    Rows with samples so far from the mean that rounding would be visible are computed in the type of the spectrum,
    if that is wider; all others in the type of the logits. A traced graph cannot branch on values; there all rows are
    computed by the formula that holds for both.

    Args:
        logits: Mean of the logits, (N, C).
        spectrum: Spectrum of φ, one row per example.
        coefficients: Function from rows of the spectrum to coefficients (N, R) of the posterior's offsets.
        values: Values of the posterior's offsets, (R, S, C).
        temperature: Temperature T, which divides the sampled logits.

    Returns:
        Log-probabilities (N, C) and the mean entropy (N,) of the samples, in nats.
    """
    if torch.compiler.is_compiling():
        return _sampled_without_branches(logits, coefficients(spectrum), values, temperature)
    weights, narrow = values / temperature, spectrum.to(logits.dtype)
    narrow_coefficients = coefficients(narrow)
    if narrow is spectrum or not (far := ~(_max_offset(narrow_coefficients, weights) <= _FAR)).any():  # NaN is far
        return _sampled(logits, narrow_coefficients, weights, temperature)
    wide_coefficients = coefficients(spectrum[far])
    near_results = _sampled(logits[~far], narrow_coefficients[~far], weights, temperature)
    far_results = _sampled(
        logits[far].to(wide_coefficients), wide_coefficients, weights.to(wide_coefficients), temperature
    )
    results = logits.new_empty(logits.shape), logits.new_empty(len(logits))
    for result, near_result, far_result in zip(results, near_results, far_results, strict=True):
        result[~far], result[far] = near_result, far_result.to(result)
    return results


def _sampled(
    logits: Tensor, coefficients: Tensor, weights: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Compute `sampled` with the values already divided by the temperature."""
    if len(logits) * weights[0].numel() <= _FEW:
        return _sampled_by_logsumexp(logits / temperature, coefficients, weights)
    mean = (logits - logits.amax(dim=-1, keepdim=True).detach()) / temperature
    wide = bool((_max_offset(coefficients, weights) > _REACH).any())
    clamped = mean if wide else mean.clamp_min(_FLOOR + _REACH)
    probs, aleatoric = _mean_softmax(clamped, coefficients, weights, wide)
    # Probabilities too small to estimate from the samples fall back to the softmax of the mean logits.
    floor = _FLOOR + math.log(2)
    estimated = probs > math.exp(floor) if wide else mean > _FLOOR + _REACH
    log_probs = probs.clamp_min(math.exp(floor)).log()
    if not estimated.all():
        at_mean = mean.log_softmax(dim=-1)
        log_probs = torch.where(estimated, log_probs, at_mean.clamp_max(floor) if wide else at_mean)
    return log_probs, aleatoric


def probit(logits: Tensor, variance: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the log-softmax of centered logits (N, C), scaled down by their centered variances (N, C)."""
    shrunk = (logits - logits.mean(dim=-1, keepdim=True)) / (temperature**2 + math.pi / 8 * variance).sqrt()
    return _with_entropy_at_mean(shrunk.log_softmax(dim=-1), logits, temperature)


def meanfield(logits: Tensor, variance: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the normalized product of pairwise comparisons of logits (N, C); C² terms per example.

    Args:
        logits: Mean of the logits, (N, C).
        variance: Centered variances of the logits, (N, C).
        temperature: Temperature T.
    """
    pairs = chunked(max(1, CHUNK // logits.shape[-1] ** 2), logits, variance)
    chunks = [_log_comparisons(m, v, temperature) for m, v in pairs]
    return _with_entropy_at_mean(torch.cat(chunks).log_softmax(dim=-1), logits, temperature)


def _sampled_by_logsumexp(mean: Tensor, coefficients: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `_sampled` for few logits, directly in logarithms."""
    deviations = (coefficients @ weights.flatten(1)).unflatten(1, weights.shape[1:])
    log_probs = (mean[:, None] + deviations).log_softmax(dim=-1)
    return log_probs.logsumexp(dim=1) - math.log(weights.shape[1]), entropy(log_probs).mean(dim=1)


def _sampled_without_branches(
    logits: Tensor, coefficients: Tensor, values: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Compute `sampled` for offsets of any size: in the type of the coefficients up to the distance from the maximum.

    Below the maximum, a rounding error relative to the distance is far below that of the probability.
    """
    weights = values.to(coefficients) / temperature
    z = (coefficients @ weights.flatten(1)).unflatten(1, weights.shape[1:]) + (logits / temperature)[:, None]
    log_probs = (z - z.amax(dim=-1, keepdim=True)).to(logits.dtype).log_softmax(dim=-1)
    return log_probs.logsumexp(dim=1) - math.log(weights.shape[1]), entropy(log_probs).mean(dim=1)


def _max_offset(coefficients: Tensor, weights: Tensor) -> Tensor:
    """Return upper bounds (N,) on the absolute offset of any sampled logit."""
    return coefficients.detach().abs() @ weights.detach().abs().amax(dim=(1, 2))


def _mean_softmax(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Return the means over the samples of the softmax (N, C) and of its entropy (N,).

    Exponents may be out of range if `wide`.
    """
    samples, classes = weights.shape[1:]
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (mean, coefficients, weights))
    if classes >= _SHORT and not needs_gradient:
        return _in_place(mean, coefficients, weights, wide)
    rows = max(1, CHUNK // (samples * classes))
    pairs = zip(mean.split(rows), coefficients.split(rows), strict=True)
    chunks = [_mean_softmax_chunk(m, c, weights, wide) for m, c in pairs]
    probs, entropies = zip(*chunks, strict=True)
    return torch.cat(probs), torch.cat(entropies)


def _mean_softmax_chunk(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Compute `_mean_softmax` of a few rows, differentiably."""
    samples, classes = weights.shape[1:]
    if classes >= _SHORT:
        z = (coefficients @ weights.flatten(1)).unflatten(1, (samples, classes)) + mean[:, None]
        return _mean_over_samples(z, 2, wide)
    # Reductions along a short last dimension are slow: put the classes first and the examples last.
    z = (weights.permute(2, 1, 0).flatten(0, 1) @ coefficients.T).unflatten(0, (classes, samples)) + mean.T[:, None]
    probs, entropies = _mean_over_samples(z, 0, wide)
    return probs.T, entropies


def _mean_over_samples(z: Tensor, class_dim: int, wide: bool) -> tuple[Tensor, Tensor]:
    """Return the means over dimension 1 of the softmax along `class_dim` and of its entropy."""
    if wide:
        z = (z - z.amax(dim=class_dim, keepdim=True).detach()).clamp_min(_FLOOR)
    unnormalized = z.exp()
    total = unnormalized.sum(dim=class_dim, keepdim=True)
    probs = unnormalized / total
    entropies = (total.log() - (probs * z).sum(dim=class_dim, keepdim=True)).mean(dim=1)
    return probs.mean(dim=1), entropies.flatten()


def _in_place(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Compute `_mean_softmax` without gradients, in blocks of rows and samples that reuse one buffer."""
    samples, classes = weights.shape[1:]
    block_size = max(1, min(samples, _BLOCK // classes))
    rows = max(1, CHUNK // (block_size * classes))
    blocks = [block.flatten(1) for block in weights.split(block_size, dim=1)]
    buffers = mean.new_empty(2, rows * block_size * classes)
    probs, entropies = torch.zeros_like(mean), mean.new_zeros(len(mean))
    for first in range(0, len(mean), rows):
        chunk = slice(first, first + rows)
        for block in blocks:
            _add_block(probs[chunk], entropies[chunk], mean[chunk], coefficients[chunk], block, buffers, wide)
    return probs / samples, entropies / samples


def _add_block(
    probs: Tensor, entropies: Tensor, mean: Tensor, coefficients: Tensor, block: Tensor, buffers: Tensor, wide: bool
) -> None:
    """Add the softmax (N, C) and the entropy (N,) of the samples in a block (R, S·C) to their sums."""
    count, classes = mean.shape
    flat, e = buffers[:, : count * block.shape[1]].view(2, count, -1)
    z, e = torch.mm(coefficients, block, out=flat).unflatten(1, (-1, classes)), e.unflatten(1, (-1, classes))
    z += mean[:, None]
    if wide:
        z -= z.amax(dim=2, keepdim=True)
        z.clamp_min_(_FLOOR)
    total = torch.exp(z, out=e).sum(dim=2)
    inverse = total.reciprocal()
    probs[:, None].baddbmm_(inverse[:, None], e)
    entropies += (total.log_() - z.mul_(e).sum(dim=2) * inverse).sum(dim=1)


def _log_comparisons(mean: Tensor, variance: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the unnormalized log-probabilities (N, C) of the mean-field link."""
    scale = (temperature**2 + math.pi / 8 * (variance[:, :, None] + variance[:, None])).sqrt()
    return -((mean[:, None] - mean[:, :, None]) / scale).logsumexp(dim=-1)


def _with_entropy_at_mean(log_probs: Tensor, logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Pair log-probabilities with the entropy at the mean logits, limited to the total entropy."""
    at_mean = entropy((logits / temperature).log_softmax(dim=-1))
    return log_probs, torch.minimum(at_mean, entropy(log_probs))
