"""The tuner against the best of many starts, on heads that were trained on real data."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn import datasets
from torch import nn

import suffice
from suffice.calibration.calibrate import fit_exits, read_validation
from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.likelihoods import LIKELIHOODS
from suffice.calibration.serving.served import serving_placement
from suffice.calibration.tuning import validation
from suffice.calibration.tuning.objective import Objective
from suffice.training import AdamWConfig, train

STARTS = 6
INDISTINGUISHABLE = 0.1
"""Difference of summed NLLs in nats, a tenth of the one that a further parameter gains by chance (Akaike 1974)."""
COMBINATIONS = [(False, "cost"), ("average", "cost"), ("average", "tuned"), ("product", "cost"), ("product", "tuned")]
HEADS = {
    "digits": ("classification", datasets.load_digits, 10, 600, 12),
    "digits, overfitted": ("classification", datasets.load_digits, 10, 120, 60),
    "wine": ("classification", datasets.load_wine, 3, 90, 20),
    "cancer": ("binary", datasets.load_breast_cancer, 1, 200, 20),
    "labels of digits": ("multilabel", datasets.load_digits, 3, 400, 15),
    "diabetes": ("regression", datasets.load_diabetes, 1, 250, 20),
    "diabetes with noise": ("heteroscedastic", datasets.load_diabetes, 2, 250, 20),
}
"""Likelihood, data, number of outputs, number of training examples, and epochs of each network with two exits."""


def standardized(values):
    return torch.tensor((values - values.mean(0)) / (values.std(0) + 1e-9), dtype=torch.float32)


def examples(likelihood, load):
    data = load()
    y = torch.tensor(data.target)
    if likelihood == "multilabel":
        y = torch.stack([y % 2 == 0, y > 4, y % 3 == 0], dim=1).long()
    elif likelihood in ("regression", "heteroscedastic"):
        y = standardized(data.target)[:, None]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return standardized(data.data)[order], y[order]


@pytest.fixture(scope="module", params=HEADS)
def head(request):
    """Likelihood, trained network, training data and validation data."""
    likelihood, load, outputs, count, epochs = HEADS[request.param]
    x, y = examples(likelihood, load)
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(width, 24), nn.ReLU()) for width in (x.shape[1], 24)]
    network = suffice.ExitNetwork(stages, [suffice.Exit(nn.Identity(), nn.Linear(24, outputs)) for _ in stages])
    batches = [(x[i : i + 30], y[i : i + 30]) for i in range(0, count, 30)]
    train(network, batches, epochs=epochs, likelihood=likelihood, optimizer=AdamWConfig(3e-3))
    return likelihood, network, batches, [(x[count:], y[count:])]


def problem(head, link, ensemble, weights):
    likelihood, network, training, held_out = head
    choices = Choices(likelihood=likelihood, link=link, ensemble=ensemble, ensemble_weights=weights)
    exits = fit_exits(network, training, choices, torch.Generator().manual_seed(0))
    exits = [exit_.to(*serving_placement(network)) for exit_ in exits]
    caches, targets, costs = read_validation(network, exits, held_out, None)
    shares = shares_of_cost(costs) if ensemble else None
    return exits, Objective(caches, targets, shares, ensemble == "product"), choices


def best_of_random_starts(function):
    """Return the least value that a search with tight tolerances finds from any of some random starts."""
    values = []
    for seed in range(STARTS):
        random = np.random.default_rng(seed)
        widths = [8 if coordinate.name == "prior precision" else 1.5 for coordinate in function.coordinates]
        start = [
            np.clip(np.log(coordinate.initial) + random.uniform(-width, width), *bounds)
            for coordinate, width, bounds in zip(function.coordinates, widths, function.bounds, strict=True)
        ]
        options = {"ftol": 1e-15, "gtol": 1e-9, "maxls": 40, "maxiter": 400}
        function_and_start = function.value_and_gradient, start
        found = minimize(*function_and_start, jac=True, method="L-BFGS-B", bounds=function.bounds, options=options)
        values.append(found.fun)
    return min(values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ensemble", COMBINATIONS)
@pytest.mark.parametrize("link", ["sampled", "meanfield", "probit", "plugin"])
def test_the_tuner_ends_at_the_best_of_many_starts(head, link, ensemble, tried):
    combination, weights = ensemble
    if combination == "product" and not LIKELIHOODS[head[0]].discrete:
        combination = "average"  # a regression has no product
    exits, objective, choices = problem(head, link, combination, weights)
    function = validation._Problem(exits, objective, choices)
    _, values = validation.tune(exits, objective, choices)
    reached = function.value(torch.tensor([value.value for value in values], dtype=torch.float64).log())
    tried("starts of the tuner's objective", STARTS)
    assert reached <= best_of_random_starts(function) + INDISTINGUISHABLE / len(objective.targets)
