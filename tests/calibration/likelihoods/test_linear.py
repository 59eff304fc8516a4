from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import BayesianRidge

from suffice.calibration.likelihoods import linear
from tests import tolerances


def problem(n=200, width=6, outputs=1, noise=0.3, offset=0.0, seed=0):
    """Features with a constant, targets of a linear function of them, and a classifier near it."""
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(n, width, generator=generator, dtype=torch.float64)
    phi[:, -1] = 1
    true = torch.randn(outputs, width, generator=generator, dtype=torch.float64)
    true[:, -1] += offset
    scatter = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    noises = noise * torch.arange(1, outputs + 1, dtype=torch.float64)
    near = true + 0.1 * torch.randn(outputs, width, generator=generator, dtype=torch.float64)
    return phi, phi @ true.T + noises * scatter, near


def sums(phi, targets, weights, size=37):
    statistics = linear.init(phi.shape[1], targets.shape[1])
    for features, y in zip(phi.split(size), targets.split(size), strict=True):
        statistics = linear.update(statistics, features, features @ weights.T, y)
    return statistics


def dense(phi, targets, noise, delta, relative=None):
    """Log-evidence of all outputs, from the covariance of the targets."""
    total = 0.0
    for c, variance in enumerate(noise.tolist()):
        precision = delta if relative is None else delta * float(relative[c])
        covariance = variance * np.eye(len(phi)) + (phi @ phi.T).numpy() / precision
        total += stats.multivariate_normal(np.zeros(len(phi)), covariance).logpdf(targets[:, c].numpy())
    return total


@pytest.mark.parametrize(
    "options",
    [{}, {"n": 20, "width": 15, "seed": 3}, {"noise": 3.0}, {"n": 1000, "width": 60}, {"noise": 1e-3, "offset": 100.0}],
    ids=str,
)
def test_noise_and_prior_of_one_output_are_scikit_learns(options):
    phi, targets, weights = problem(**options)
    noise, delta = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    ridge = BayesianRidge(
        fit_intercept=False, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-12, max_iter=10_000
    ).fit(phi.numpy(), targets[:, 0].numpy())
    assert float(noise) == pytest.approx(1 / ridge.alpha_, rel=1e-5)
    assert delta == pytest.approx(ridge.lambda_, rel=1e-5)


@pytest.mark.parametrize("relative", [None, torch.tensor([1.0, 0.1, 30.0])])
@pytest.mark.parametrize("outputs", [1, 3])
def test_no_step_away_from_the_maximum_has_more_evidence(outputs, relative):
    relative = None if relative is None else relative[:outputs]
    phi, targets, weights = problem(n=40, outputs=outputs)
    noise, delta = linear.maximize(sums(phi, targets, weights), weights, 1.0, relative)
    best = dense(phi, targets, noise, delta, relative)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert dense(phi, targets, noise, delta * factor, relative) < best
        for c in range(outputs):
            moved = noise.clone()
            moved[c] *= factor
            assert dense(phi, targets, moved, delta, relative) < best


def test_each_output_has_a_noise_of_its_own():
    phi, targets, weights = problem(n=5000, outputs=3)
    noise, _ = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    planted = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    torch.testing.assert_close(noise.sqrt(), planted, rtol=tolerances.deviation(5000 - 6), atol=0)


def test_neither_the_start_nor_the_given_classifier_matters():
    phi, targets, weights = problem(outputs=2)
    noise, delta = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    for other, start in [(weights + 1, 1.0), (0 * weights, 1e4), (weights, 1e-6)]:
        again = linear.maximize(sums(phi, targets, other), other, start)
        torch.testing.assert_close(again[0], noise, rtol=1e-6, atol=0)
        assert again[1] == pytest.approx(delta, rel=1e-6)


def test_a_small_noise_far_from_zero_does_not_cancel():
    phi, targets, weights = problem(noise=1e-4, offset=1e6)
    noise, _ = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    assert float(noise.sqrt()) == pytest.approx(1e-4, rel=tolerances.deviation(200 - 6))


def test_targets_that_the_features_reach_exactly_have_a_least_noise():
    phi, targets, weights = problem(n=100, width=40, noise=0.0)
    noise, delta = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    spread = float(targets.max() - targets.min())
    assert float(noise.sqrt()) == pytest.approx(1e-6 * spread, rel=1e-6)
    assert 0 < delta < float("inf")


def test_targets_that_the_features_do_not_explain_are_all_noise():
    """With fewer examples than features any targets can be fitted, but the evidence does not fit them."""
    phi, _, weights = problem(n=15, width=40)
    targets = problem(n=15, outputs=1, seed=5)[1]
    noise, delta = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    assert float(noise) == pytest.approx(float(targets.square().mean()), rel=1e-3)
    assert 1e3 < delta < float("inf")


def test_a_feature_that_is_always_zero_changes_nothing():
    phi, targets, weights = problem(n=3000)
    more = torch.cat([phi, 0 * phi[:, :1]], dim=1)
    padded = torch.cat([weights, 0 * weights[:, :1]], dim=1)
    alone = linear.maximize(sums(phi, targets, weights), weights, 1.0)
    again = linear.maximize(sums(more, targets, padded), padded, 1.0)
    torch.testing.assert_close(again[0], alone[0], rtol=1e-6, atol=0)
    assert again[1] == pytest.approx(alone[1], rel=1e-6)


def test_statistics_merge_whatever_the_batches_and_their_order():
    phi, targets, weights = problem(outputs=2)
    whole, merged = sums(phi, targets, weights, 200), linear.init(6, 2)
    for rows in (slice(150, 200), slice(0, 20), slice(20, 150)):
        merged = linear.merge(merged, sums(phi[rows], targets[rows], weights))
    for field in fields(whole):
        torch.testing.assert_close(getattr(merged, field.name), getattr(whole, field.name))


def test_targets_that_never_vary_are_refused_with_the_output_and_their_value():
    phi, targets, weights = problem(outputs=2)
    for constant in (1, 0):  # the first one is named
        targets[:, constant] = 3.5 - constant
        with pytest.raises(ValueError, match=rf"got {3.5 - constant} for output {constant} in all 200 examples"):
            linear.maximize(sums(phi, targets, weights), weights, 1.0)
