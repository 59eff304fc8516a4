"""Moments and samples of the logits of calibrated exits, before any temperature."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from suffice.calibration.exits import CalibratedExit
from suffice.calibration.posterior.moments import Moments
from suffice.network import check_finite
from suffice.utils import arguments

ExitFeatures = tuple[CalibratedExit, Tensor, Tensor]
"""An exit with its features φ (N, D), the constant of a bias included, and its outputs (N, C) with a posterior."""


def moments(features: Iterable[ExitFeatures]) -> list[Moments]:
    """Return the moments of every exit's logits under its posterior; raises a ValueError if one is not finite."""
    results = [exit_.require_posterior().moments(phi, outputs) for exit_, phi, outputs in features]
    for k, result in enumerate(results):
        check_finite(result.variance, f"variances at exit {k}")
    return results


def joint_samples(features: Iterable[ExitFeatures], samples: int, generator: torch.Generator | None) -> list[Tensor]:
    """Sample logits (N, S, C) of every exit, joint over the batch; raises a ValueError if one is not finite."""
    arguments.whole("samples", samples)
    arguments.optional_generator(generator)
    results: list[Tensor] = []
    for exit_, phi, outputs in features:
        deviations = exit_.require_posterior().joint_samples(phi, samples, generator=generator)
        results.append(outputs[:, None] + deviations)
        check_finite(results[-1], f"samples at exit {len(results) - 1}")
    return results


def fixed_samples(features: Sequence[ExitFeatures]) -> Tensor:
    """Return the fixed samples (S, N, C) of the last exit's logits; raises a ValueError if it has none."""
    exit_, phi, logits = features[-1]
    if exit_.posterior is None or exit_.offsets is None:
        got = f"link={exit_.link!r}; calibrate with one"
        if exit_.posterior is not None and exit_.link == "sampled":
            got = f"likelihood {exit_.likelihood.name!r}, with predictions in closed form; use joint_samples"
        raise ValueError(f"expected a sampled posterior at the last exit, got {got}")
    spectrum = exit_.posterior.spectrum(phi)
    samples = exit_.likelihood.logit_samples(logits, exit_.posterior, spectrum, exit_.offsets)
    check_finite(samples.movedim(1, 0), "samples")
    return samples
