"""Untuned exits with cached validation data, and the objective from its definition."""

import math
from dataclasses import replace

import torch

from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.tuning.objective import Cache, Objective
from suffice.calibration.tuning.validation import SPREAD
from tests import builders


def setting(widths=(6, 5, 7), n=240, prior="exact", seed=0, planted=1.7):
    """Untuned exits, caches of the validation data, labels for which the network is overconfident, and weights."""
    net, x = builders.network(widths, seed=seed), builders.inputs(n, seed=seed)
    with torch.no_grad():
        labels = builders.sampled_labels(net(x)[-1], planted)
    few = builders.inputs(25, seed=seed + 1)  # so few examples that the posterior is wide
    calibrated = builders.untuned(net.double(), few.double(), samples=16)
    exits = calibrated.exits
    if prior == "factored":
        exits = [replace(exit_, posterior=replace(exit_.posterior, prior=prior)) for exit_ in exits]
        exits = [exit_.with_prior(1.0) for exit_ in exits]
    caches, state = [], x.double()
    with torch.no_grad():
        for k, exit_ in enumerate(exits):
            state, phi = net.advance(k, state)
            caches.append(Cache(net.exit(k).classifier(phi), exit_.spectrum(phi)))
    return exits, caches, labels, shares_of_cost(calibrated.costs)


def objective(exits, caches, labels, weights, spread=SPREAD):
    """Sum over exits of the mean NLL of the prediction, plus the prior of log T, from their definition."""
    total, numerator, denominator = 0.0, 0.0, 0.0
    for k, (exit_, cache) in enumerate(zip(exits, caches, strict=True)):
        probs = exit_.member(cache.logits, cache.spectrum).probs
        if weights is not None:
            numerator, denominator = numerator + weights[k] * probs, denominator + weights[k]
            probs = numerator / denominator
        total -= float(probs.gather(1, labels[:, None]).log().mean())
        total += math.log(exit_.temperature) ** 2 / (2 * spread**2 * len(labels))
    return total


def moved(exit_, temperature, variance):
    return exit_.with_prior(1 / variance).with_temperature(temperature)


def tuned(tune, exits, caches, labels, weights, **choices):
    """Exits after tuning, for weights of an ensemble or None."""
    objective = Objective(caches, labels, weights)
    choices = {"ensemble_weights": "cost", **choices}
    return tune(exits, objective, Choices(ensemble=weights is not None and "average", **choices))[0]
