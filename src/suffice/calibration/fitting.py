"""Fit of untuned exits: posteriors, and the noise of regressions, from one pass over the training data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from suffice.batches import Loader
from suffice.calibration.choices import Choices
from suffice.calibration.exits import CalibratedExit, weights_with_bias
from suffice.calibration.likelihoods import linear, regression
from suffice.calibration.posterior import STRUCTURES, Posterior, kronecker
from suffice.calibration.statistics import add_examples, bias_constants, empty_statistics, residual_statistics
from suffice.network import ExitNetwork
from suffice.twin import inference


def fit_exits(
    network: ExitNetwork, loader: Loader, choices: Choices, generator: torch.Generator | None
) -> list[CalibratedExit]:
    """Return the exits of a network before tuning; the loader is read once, if anything is fitted.

    Args:
        network: Trained network with exits.
        loader: Training data.
        choices: Choices of the calibration.
        generator: Generator of the samples, on the CPU.
    """
    biases = bias_constants(network, choices.bias_precision)
    exits = [CalibratedExit(temperature=1.0, bias=bias, likelihood=choices.family()) for bias in biases]
    if not choices.uses_training_data:
        return exits
    if choices.family.learns_noise:
        exits, posteriors = _fit_noise(network, exits, loader, choices.class_precision)
    else:
        posteriors = _fit_posteriors(network, exits, loader, choices)
    if choices.structure is None:
        return exits
    pairs = zip(exits, posteriors, strict=True)
    link = choices.fitted_link
    return [exit_.with_posterior(posterior, link, choices.samples, generator) for exit_, posterior in pairs]


def classifier_weights(network: ExitNetwork, exits: Sequence[CalibratedExit]) -> list[Tensor]:
    """Return the weights W of the outputs with a posterior, for each exit; the bias, if any, is the last column.

    Raises:
        ValueError: If a classifier is a subclass that computes no affine map.
    """
    latents = exits[0].likelihood.latents(network.num_classes)
    with inference(network) as network:  # a parametrization may compute other weights in training mode
        classifiers = [network.exit(k).classifier for k in range(len(exits))]
        pairs = zip(classifiers, (exit_.bias for exit_ in exits), strict=True)
        return [weights_with_bias(classifier, bias)[:latents] for classifier, bias in pairs]


def _fit_posteriors(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader, choices: Choices
) -> list[Posterior]:
    """Fit the posterior of every exit at the likelihood's initial δ."""
    structure = choices.resolved_structure(network.num_classes)
    assert structure is not None
    likelihood = exits[0].likelihood
    deltas = [likelihood.prior_precision(weights) for weights in classifier_weights(network, exits)]
    options = {"prior": choices.prior} if structure == "kronecker" else {}
    empty = empty_statistics(network, structure, likelihood.latents(network.num_classes))
    statistics = add_examples(network, loader, structure, exits, empty)
    fit = STRUCTURES[structure].Posterior.fit
    pairs = zip(statistics, deltas, strict=True)
    return [fit(sums, delta, class_precision=choices.class_precision, **options) for sums, delta in pairs]


def _fit_noise(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader, class_precision: Tensor | None
) -> tuple[list[CalibratedExit], list[Posterior]]:
    """Return the exits with the noise of maximum evidence, and their posteriors at the δ of maximum evidence."""
    noisy_exits: list[CalibratedExit] = []
    posteriors: list[Posterior] = []
    trained = classifier_weights(network, exits)
    residuals = residual_statistics(network, loader, exits)
    for exit_, sums, weights in zip(exits, residuals, trained, strict=True):
        start = exit_.likelihood.prior_precision(weights)
        noise, delta = linear.maximize(sums, weights, start, class_precision)
        noisy_exits.append(replace(exit_, likelihood=regression.Likelihood(noise)))
        statistics = kronecker.Statistics(sums.features, torch.diag(sums.count / noise), sums.count)
        posteriors.append(kronecker.Posterior.fit(statistics, delta, class_precision=class_precision))
    return noisy_exits, posteriors
