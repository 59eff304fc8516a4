"""From the moments of the logits to probabilities: pure functions.

    plugin   softmax(mean / T)                      the network's own answer, at temperature T
    sampled  mean over s of softmax(f_s / T)        with the fixed joint samples of `moments.Offsets`

Each returns log-probabilities (N, C) and the expected entropy of a sample's softmax (N,) in nats, which is
the aleatoric part of the prediction.
"""

import math

import torch
from torch import Tensor

from suffice.prediction import entropy

CHUNK = 1 << 17
"""Logits of samples held at once, so that they stay in a processor's cache."""


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
    samples, classes = values.shape[1:]
    rows = max(1, CHUNK // (samples * classes))
    parts = [
        _sampled(mean, weight, values, temperature)
        for mean, weight in zip(logits.split(rows), coefficients.split(rows), strict=True)
    ]
    log_probs, aleatoric = zip(*parts, strict=True)
    return torch.cat(log_probs), torch.cat(aleatoric)


def _sampled(
    logits: Tensor, coefficients: Tensor, values: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    samples, classes = values.shape[1:]
    deviations = (coefficients @ values.flatten(1)).unflatten(1, (samples, classes))
    z = (logits[:, None] + deviations) / temperature
    z = z - z.amax(dim=-1, keepdim=True).detach()
    unnormalised = z.exp()
    total = unnormalised.sum(dim=-1)
    entropies = total.log() - torch.linalg.vecdot(unnormalised, z) / total
    probs = ((1 / (samples * total))[:, None] @ unnormalised)[:, 0]
    # Where every sample underflows, the largest alone is the mean to within a factor of S.
    floor = (z - total.log()[..., None]).amax(dim=1) - math.log(samples)
    tiny = torch.finfo(probs.dtype).tiny
    log_probs = torch.where(probs > tiny, probs.clamp_min(tiny).log(), floor)
    return log_probs, entropies.mean(dim=1)
