"""Exits before tuning and the validation set as they see it, and the objective from its definition."""

import math
import warnings
from dataclasses import replace

import torch

from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.tuning.cache import Cache
from suffice.calibration.tuning.validation import SPREAD
from tests import builders


def setting(widths=(6, 5, 7), n=240, prior="exact", seed=0, planted=1.7):
    """Exits before tuning, the validation set as they see it, labels that the network is too sure of."""
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
    """Sum over exits of the mean NLL of what is answered there, and the prior of log T, from their definition."""
    total, numerator, denominator = 0.0, 0.0, 0.0
    for k, (exit_, cache) in enumerate(zip(exits, caches, strict=True)):
        answer = exit_.member(cache.logits, cache.spectrum).probs
        if weights is not None:
            numerator, denominator = numerator + weights[k] * answer, denominator + weights[k]
            answer = numerator / denominator
        total -= float(answer.gather(1, labels[:, None]).log().mean())
        total += math.log(exit_.temperature) ** 2 / (2 * spread**2 * len(labels))
    return total


def moved(exit_, temperature, variance):
    return exit_.with_prior(1 / variance).with_temperature(temperature)


def quiet(tune, *arguments):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* ended at the edge")
        return tune(*arguments)
