"""From the moments of the logits to probabilities: pure functions.

With mean μ and covariance Σ of the logits, and P = I − 11ᵀ/C, the centring that no softmax can see through,

    plugin     softmax(μ / T)                     the network's own answer, at temperature T
    sampled    mean over s of softmax(f_s / T)    with the fixed joint samples of `moments.Offsets`
    probit     softmax(κ Pμ / T),                 κ_c = 1 / √(1 + π/8 · v_c / T²)
    meanfield  p_k ∝ 1 / Σ_i exp(−(μ_k − μ_i) / √(T² + π/8 · (v_k + v_i)))

v is the diagonal of PΣP: variance along 1 is the prior's alone and would only mislead the last two (their tables
are in docs/links.md). Each returns log-probabilities (N, C) and the expected entropy (N,) in nats, the aleatoric
part of the prediction; where there are no samples to expect over, it is the entropy at the mean, and no more
than the total. MacKay 1992 (probit); Lu, Ie and Sha 2020 (mean field).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from suffice.prediction import entropy

Link = Literal["sampled", "meanfield", "probit", "plugin"]

CHUNK = 1 << 18
"""Logits of samples held at once, so that they stay in a processor's cache."""

_BLOCK = 1 << 13
"""Numbers of one row of the offsets taken at once, so that they stay there too."""

_SHORT = 32
"""Number of classes below which they are laid out first."""

_FEW = 1 << 12
"""Logits of samples up to which fewer operations count for more than fewer exponentials."""

_FLOOR = -80.0
"""Least exponent within a sample: its exponential is a normal float32, denormals are slow."""

_REACH = 20.0
"""Offsets no further than this from the mean leave no exponent out of range if the mean is at least −60."""

_FAR = 100.0
"""Offsets up to this are rounded by at most 4e-6, half a unit in the last place of float32, product by product."""


def plugin(logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Softmax of logits (N, C) at a temperature."""
    log_probs = (logits / temperature).log_softmax(dim=-1)
    return log_probs, entropy(log_probs)


def sampled(logits: Tensor, coefficients: Tensor, values: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean softmax over S joint samples.

    Args:
        logits: mean of the logits, (N, C).
        coefficients: (N, R), and
        values: (R, S, C), of the posterior's offsets.
        temperature: T, dividing the sampled logits.
    """
    return _sampled(logits, coefficients, values / temperature, temperature)


def sampled_from(
    logits: Tensor,
    spectrum: Tensor,
    coefficients: Callable[[Tensor], Tensor],
    values: Tensor,
    temperature: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """The same from what the coefficients are read off.

    Rows whose samples lie so far from the mean that rounding would show are computed in the type of the spectrum,
    where that is wider; all others in the type of the logits.

    Args:
        logits: mean of the logits, (N, C).
        spectrum: N rows, and
        coefficients: a function of some of them, (N, R).
        values: (R, S, C), of the posterior's offsets.
        temperature: T, dividing the sampled logits.
    """
    weights, near = values / temperature, spectrum.to(logits.dtype)
    read = coefficients(near)
    if near is spectrum or not (far := ~(_reach(read, weights) <= _FAR)).any():  # NaN is far
        return _sampled(logits, read, weights, temperature)
    exact = coefficients(spectrum[far])
    parts = _sampled(logits[~far], read[~far], weights, temperature)
    far_parts = _sampled(logits[far].to(exact), exact, weights.to(exact), temperature)
    found = logits.new_empty(logits.shape), logits.new_empty(len(logits))
    for whole, part, far_part in zip(found, parts, far_parts, strict=True):
        whole[~far], whole[far] = part, far_part.to(whole)
    return found


def _sampled(
    logits: Tensor, coefficients: Tensor, weights: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """`sampled`, with the values over the temperature."""
    if len(logits) * weights[0].numel() <= _FEW:
        return _of_few(logits / temperature, coefficients, weights)
    mean = (logits - logits.amax(dim=-1, keepdim=True).detach()) / temperature
    wide = bool((_reach(coefficients, weights) > _REACH).any())
    at_least = mean if wide else mean.clamp_min(_FLOOR + _REACH)
    probs, aleatoric = _mean_softmax(at_least, coefficients, weights, wide)
    # What is too small to be told from the samples is about as small as at the mean of the logits.
    least = _FLOOR + math.log(2)
    told = probs > math.exp(least) if wide else mean > _FLOOR + _REACH
    log_probs = probs.clamp_min(math.exp(least)).log()
    if not told.all():
        at_mean = mean.log_softmax(dim=-1)
        log_probs = torch.where(told, log_probs, at_mean.clamp_max(least) if wide else at_mean)
    return log_probs, aleatoric


def probit(logits: Tensor, variance: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Softmax of logits (N, C), centred, shrunk by their centred variances (N, C)."""
    shrunk = (logits - logits.mean(dim=-1, keepdim=True)) / (temperature**2 + math.pi / 8 * variance).sqrt()
    return _without_samples(shrunk.log_softmax(dim=-1), logits, temperature)


def meanfield(logits: Tensor, variance: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Product of pairwise comparisons of logits (N, C) with centred variances (N, C); C² terms an example."""
    rows = max(1, CHUNK // logits.shape[-1] ** 2)
    parts = [_log_comparisons(m, v, temperature) for m, v in zip(logits.split(rows), variance.split(rows), strict=True)]
    return _without_samples(torch.cat(parts).log_softmax(dim=-1), logits, temperature)


def _of_few(mean: Tensor, coefficients: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`_sampled` of little: as it is written, in logarithms throughout."""
    deviations = (coefficients @ weights.flatten(1)).unflatten(1, weights.shape[1:])
    each = (mean[:, None] + deviations).log_softmax(dim=-1)
    return each.logsumexp(dim=1) - math.log(weights.shape[1]), entropy(each).mean(dim=1)


def _reach(coefficients: Tensor, weights: Tensor) -> Tensor:
    """Bounds (N,) on what a sample adds to any logit."""
    return coefficients.detach().abs() @ weights.detach().abs().amax(dim=(1, 2))


def _mean_softmax(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Mean over the samples of the softmax (N, C) and of its entropy (N,); `wide`, exponents may be out of range."""
    samples, classes = weights.shape[1:]
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (mean, coefficients, weights))
    if classes >= _SHORT and not learning:
        return _in_place(mean, coefficients, weights, wide)
    rows = max(1, CHUNK // (samples * classes))
    pairs = zip(mean.split(rows), coefficients.split(rows), strict=True)
    parts = [_at_once(m, c, weights, wide) for m, c in pairs]
    probs, entropies = zip(*parts, strict=True)
    return torch.cat(probs), torch.cat(entropies)


def _at_once(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """`_mean_softmax` of a few rows, differentiable."""
    samples, classes = weights.shape[1:]
    if classes >= _SHORT:
        z = (coefficients @ weights.flatten(1)).unflatten(1, (samples, classes)) + mean[:, None]
        return _mean_over_samples(z, 2, wide)
    # Reductions along a short last dimension are slow: put the classes first and the examples last.
    z = (weights.permute(2, 1, 0).flatten(0, 1) @ coefficients.T).unflatten(0, (classes, samples)) + mean.T[:, None]
    probs, entropies = _mean_over_samples(z, 0, wide)
    return probs.T, entropies


def _mean_over_samples(z: Tensor, along: int, wide: bool) -> tuple[Tensor, Tensor]:
    """Mean over dimension 1 of the softmax along a dimension, and of its entropy."""
    if wide:
        z = (z - z.amax(dim=along, keepdim=True).detach()).clamp_min(_FLOOR)
    unnormalized = z.exp()
    total = unnormalized.sum(dim=along, keepdim=True)
    probs = unnormalized / total
    entropies = (total.log() - (probs * z).sum(dim=along, keepdim=True)).mean(dim=1)
    return probs.mean(dim=1), entropies.flatten()


def _in_place(mean: Tensor, coefficients: Tensor, weights: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """`_mean_softmax` without gradients, a block of samples of a few rows at a time, always in the same memory."""
    samples, classes = weights.shape[1:]
    taken = max(1, min(samples, _BLOCK // classes))
    rows = max(1, CHUNK // (taken * classes))
    blocks = [block.flatten(1) for block in weights.split(taken, dim=1)]
    buffers = mean.new_empty(2, rows * taken * classes)
    probs, entropies = torch.zeros_like(mean), mean.new_zeros(len(mean))
    for first in range(0, len(mean), rows):
        here = slice(first, first + rows)
        for block in blocks:
            _add_block(probs[here], entropies[here], mean[here], coefficients[here], block, buffers, wide)
    return probs / samples, entropies / samples


def _add_block(
    probs: Tensor, entropies: Tensor, mean: Tensor, coefficients: Tensor, block: Tensor, buffers: Tensor, wide: bool
) -> None:
    """Add softmax (N, C) and entropy (N,) of the samples of a block (R, S·C) to their sums."""
    count, classes = mean.shape
    flat, e = buffers[:, : count * block.shape[1]].view(2, count, -1)
    z, e = torch.mm(coefficients, block, out=flat).unflatten(1, (-1, classes)), e.unflatten(1, (-1, classes))
    z += mean[:, None]
    if wide:
        z -= z.amax(dim=2, keepdim=True)
        z.clamp_min_(_FLOOR)
    total = torch.exp(z, out=e).sum(dim=2)
    share = total.reciprocal()
    probs[:, None].baddbmm_(share[:, None], e)
    entropies += (total.log_() - z.mul_(e).sum(dim=2) * share).sum(dim=1)


def _log_comparisons(mean: Tensor, variance: Tensor, temperature: Tensor | float) -> Tensor:
    scale = (temperature**2 + math.pi / 8 * (variance[:, :, None] + variance[:, None])).sqrt()
    return -((mean[:, None] - mean[:, :, None]) / scale).logsumexp(dim=-1)


def _without_samples(log_probs: Tensor, logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    at_mean = entropy((logits / temperature).log_softmax(dim=-1))
    return log_probs, torch.minimum(at_mean, entropy(log_probs))
