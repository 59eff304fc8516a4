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

CHUNK = 1 << 19
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
    log_p = ((logits[:, None] + deviations) / temperature).log_softmax(dim=-1)
    p = log_p.exp()
    # Where every sample underflows, the largest alone is the mean to within a factor of S.
    floor = log_p.amax(dim=1) - math.log(samples)
    log_probs = torch.maximum(p.mean(dim=1).clamp_min(torch.finfo(p.dtype).tiny).log(), floor)
    return log_probs, -(p * log_p).sum(dim=-1).mean(dim=1)
