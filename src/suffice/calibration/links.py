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

import torch
from torch import Tensor

from suffice.prediction import entropy

CHUNK = 1 << 17
"""Logits of samples held at once, so that they stay in a processor's cache."""

_SHORT = 32
"""Number of classes below which they are laid out first."""

_FLOOR = -80.0
"""Least log-odds to the top class within a sample: its exponential is a normal float32, denormals are slow."""


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
    rows = max(1, CHUNK // values[0].numel())
    weights, mean = values / temperature, logits / temperature
    parts = [_mean_softmax(m, c, weights) for m, c in zip(mean.split(rows), coefficients.split(rows), strict=True)]
    probs, aleatoric = (torch.cat(part) for part in zip(*parts, strict=True))
    # What lies at the floor in every sample is about as small as at the mean of the logits.
    least = _FLOOR + math.log(2)
    at_mean = mean.log_softmax(dim=-1).clamp_max(least)
    log_probs = torch.where(probs > math.exp(least), probs.clamp_min(math.exp(least)).log(), at_mean)
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


def _mean_softmax(mean: Tensor, coefficients: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the samples of the softmax (N, C) and of its entropy (N,)."""
    samples, classes = weights.shape[1:]
    if classes >= _SHORT:
        z = (coefficients @ weights.flatten(1)).unflatten(1, (samples, classes)) + mean[:, None]
        return _mean_over_samples(z, along=2)
    # Reductions along a short last dimension are slow: put the classes first and the examples last.
    z = (weights.permute(2, 1, 0).flatten(0, 1) @ coefficients.T).unflatten(0, (classes, samples)) + mean.T[:, None]
    probs, entropies = _mean_over_samples(z, along=0)
    return probs.T, entropies


def _mean_over_samples(z: Tensor, along: int) -> tuple[Tensor, Tensor]:
    """Mean over dimension 1 of the softmax along a dimension, and of its entropy."""
    z = (z - z.amax(dim=along, keepdim=True).detach()).clamp_min(_FLOOR)
    unnormalised = z.exp()
    total = unnormalised.sum(dim=along, keepdim=True)
    probs = unnormalised / total
    entropies = (total.log() - (probs * z).sum(dim=along, keepdim=True)).mean(dim=1)
    return probs.mean(dim=1), entropies.flatten()


def _log_comparisons(mean: Tensor, variance: Tensor, temperature: Tensor | float) -> Tensor:
    scale = (temperature**2 + math.pi / 8 * (variance[:, :, None] + variance[:, None])).sqrt()
    return -((mean[:, None] - mean[:, :, None]) / scale).logsumexp(dim=-1)


def _without_samples(log_probs: Tensor, logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    at_mean = entropy((logits / temperature).log_softmax(dim=-1))
    return log_probs, torch.minimum(at_mean, entropy(log_probs))
