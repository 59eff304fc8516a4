import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from suffice import calibrate, metrics
from suffice.calibration.choices import Choices
from suffice.calibration.likelihoods import classification
from suffice.calibration.tuning import grid, validation
from suffice.calibration.tuning import objective as module
from suffice.calibration.tuning.objective import Cache, Objective
from suffice.calibration.tuning.ranges import PRIOR_PRECISION
from tests import builders, tolerances
from tests.calibration.tuning.cached import moved, objective, setting, tuned


@pytest.mark.parametrize("seed", [7, 16, 18])
@pytest.mark.parametrize("planted", [0.6, 1.7])
@pytest.mark.parametrize("prior", ["exact", "factored"])
def test_the_minimum_of_one_exit_is_no_worse_than_any_point_of_the_papers_grid(prior, planted, seed):
    """Also for an underconfident network, where every posterior increases the loss at T = 1.

    And for a search that starts on a plateau, at a δ so large that its first steps gain almost nothing.
    """
    exits, caches, labels, _ = setting(widths=(6,), prior=prior, planted=planted, seed=seed)
    minimum = objective(tuned(validation.tune, exits, caches, labels, None), caches, labels, None)
    points = [
        objective([moved(exits[0], temperature, variance)], caches, labels, None)
        for temperature in grid.TEMPERATURES
        for variance in grid.PRIOR_VARIANCES
    ]
    assert minimum <= min(points) + 1e-6


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ensembled", [True, False])
def test_the_joint_minimum_is_no_worse_than_points_of_the_papers_grid(ensembled, seed):
    exits, caches, labels, weights = setting(seed=seed)
    weights = weights if ensembled else None
    minimum = objective(tuned(validation.tune, exits, caches, labels, weights), caches, labels, weights)
    random = np.random.default_rng(seed)
    for number in range(100):
        k = 1 if number < 50 else len(exits)  # the same point at every exit, then different points
        points = random.choice(grid.TEMPERATURES, k), random.choice(grid.PRIOR_VARIANCES, k)
        temperatures, variances = (np.broadcast_to(point, len(exits)) for point in points)
        there = [moved(exit_, float(t), float(v)) for exit_, t, v in zip(exits, temperatures, variances, strict=True)]
        assert minimum <= objective(there, caches, labels, weights) + 1e-6


@pytest.mark.parametrize("ensembled", ["average", "product", False])
@pytest.mark.parametrize("tuned_weights", [True, False])
@pytest.mark.parametrize("prior", ["exact", "factored"])
def test_the_gradient_agrees_with_finite_differences(prior, ensembled, tuned_weights):
    exits, caches, labels, weights = setting(prior=prior)
    tuned_weights = bool(ensembled and tuned_weights)
    choices = Choices(ensemble=ensembled, ensemble_weights="tuned" if tuned_weights else "cost")
    combined = Objective(caches, labels, weights if ensembled else None, product=ensembled == "product")
    problem = validation._Problem(exits, combined, choices)
    point = np.array([-0.5, 0.3, 1.0, -0.2, 1.2, 2.0, 0.4, -0.7] if tuned_weights else [-0.5, 0.3, 1.0, -0.2, 2.0, 0.4])
    _, gradient = problem.value_and_gradient(point)
    for i, step in enumerate(np.eye(len(point)) * 1e-3):
        up, down = (problem.value(torch.from_numpy(point + sign * step)) for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-3, rel=1e-2, abs=5e-5)


@pytest.mark.parametrize("tuned_weights", [True, False])
def test_at_the_values_that_exits_come_with_it_is_the_nll_of_the_ensemble_that_was_given(tuned_weights):
    exits, caches, labels, weights = setting()
    choices = Choices(ensemble_weights="tuned" if tuned_weights else "cost")
    problem = validation._Problem(exits, Objective(caches, labels, weights), choices)
    initial = torch.tensor([coordinate.initial for coordinate in problem.coordinates], dtype=torch.float64)
    expected = objective(exits, caches, labels, weights)
    assert problem.value(initial.log()) == pytest.approx(expected, rel=tolerances.gamma(3 * 240, torch.float64))


def test_rows_taken_at_once_change_neither_value_nor_gradient(monkeypatch):
    exits, *data = setting()
    problem = validation._Problem(exits, Objective(*data), Choices())
    point = np.zeros(8)
    value, gradient = problem.value_and_gradient(point)
    monkeypatch.setattr(module, "_TERMS", 50 * 3 * 16 * 4)
    assert [len(rows) for rows in problem.objective.chunks(exits)] == [50, 50, 50, 50, 40]
    again, gradient_again = problem.value_and_gradient(point)
    assert again == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient_again, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.0, 5.0])
def test_a_planted_temperature_is_recovered(planted):
    logits = builders.inputs(6000, 5) * 3
    labels = builders.sampled_labels(logits, planted)
    calibrated = calibrate(builders.identity_network(5), [], builders.batched(logits, labels, 1000), structure=None)
    assert calibrated.exits[0].temperature == pytest.approx(planted, rel=0.08)


def test_without_temperature_only_the_prior_is_tuned_and_without_posterior_nothing_is():
    exits, caches, labels, weights = setting()
    results = tuned(validation.tune, exits, caches, labels, weights, temperature=False)
    assert [exit_.temperature for exit_ in results] == [1.0] * 3
    assert all(exit_.prior_precision != 1 for exit_ in results)
    bare = [type(exits[0])(temperature=1.0, bias=1.0)]
    assert tuned(validation.tune, bare, [Cache(caches[0].logits, None)], labels, None, temperature=False) == bare


def test_tuned_values_are_numbers_and_the_offsets_follow_the_prior():
    exits, *rest = setting()
    for before, after in zip(exits, tuned(validation.tune, exits, *rest), strict=True):
        assert isinstance(after.temperature, float)
        assert not after.posterior.prior_precision.requires_grad
        assert after.normals is before.normals
        expected = after.posterior.sample_offsets(after.normals)
        assert torch.equal(after.offsets.values, expected.values)


@pytest.mark.parametrize(("right", "edge"), [(True, "0.05; .* underconfident"), (False, "20; .* overconfident")])
def test_a_temperature_at_the_edge_of_its_range_is_a_warning_that_names_it(right, edge, monkeypatch):
    monkeypatch.setattr(validation, "SPREAD", 1e3)
    monkeypatch.setattr(classification.Likelihood, "temperatures", (0.05, 20.0))
    logits = builders.inputs(200, 4)
    labels = logits.argmax(dim=1) if right else logits.argmin(dim=1)
    with pytest.warns(UserWarning, match=f"temperature of exit 0 ended at the edge of its range, {edge}") as seen:
        calibrate(builders.identity_network(4), [], builders.batched(logits, labels), structure=None)
    assert seen[0].filename == __file__


@pytest.mark.parametrize("count", [2, 40])
def test_few_correct_examples_do_not_make_the_network_overconfident(count):
    """The likelihood alone would drive T to 0, whatever the cost of a later error."""
    logits = builders.inputs(count, 4) * 20
    loader = builders.batched(logits, logits.argmax(dim=1))
    calibrated = calibrate(builders.identity_network(4), [], loader, structure=None)
    assert 0.5 < calibrated.exits[0].temperature < 1


def test_a_posterior_that_only_harms_ends_at_the_edge_without_a_warning_as_more_would_gain_nothing():
    logits = builders.inputs(200, 4)
    loader = builders.batched(logits, logits.argmax(dim=1))
    exit_ = calibrate(builders.identity_network(4), loader, loader, link="sampled", temperature=False).exits[0]
    assert exit_.prior_precision == pytest.approx(PRIOR_PRECISION[1], rel=1e-3)


def test_a_posterior_that_would_harm_beyond_the_edge_of_its_range_is_a_warning_that_says_so(monkeypatch):
    monkeypatch.setattr("suffice.calibration.tuning.ranges.PRIOR_PRECISION", (1e-3, 10.0))
    logits = builders.inputs(200, 4)
    loader = builders.batched(logits, logits.argmax(dim=1))
    with pytest.warns(UserWarning, match=r"prior precision of exit 0 .* the posterior adds nothing"):
        calibrate(builders.identity_network(4), loader, loader, link="sampled", temperature=False)


@pytest.mark.parametrize("factor", [1e-3, 1e-2, 1e2, 1e3, 1e5])
@pytest.mark.parametrize("structure", [None, "kronecker"])
def test_logits_in_another_unit_get_the_temperature_of_that_unit(factor, structure):
    """Margins of a hinge loss, or cosines without their scale: T is far from 1, and the probabilities are right."""
    logits = 3 * builders.inputs(2000, 4)
    labels = builders.sampled_labels(logits, 1.0)
    loader = builders.batched(factor * logits, labels, 1000)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the prior precision", UserWarning)
        calibrated = calibrate(builders.identity_network(4), loader, loader, structure=structure)
    best = minimize_scalar(
        lambda log_t: float(cross_entropy(logits.double() / math.exp(log_t), labels)), bounds=(-1, 1), method="bounded"
    )
    nll = metrics.nll(calibrated(factor * logits)[-1].log_probs, labels)
    # The minimum of NLL and prior is no worse than the best T, whose distance from the prior's center is below log 15.
    assert float(nll) < best.fun + math.log(15) ** 2 / (2 * validation.SPREAD**2 * 2000)
    if structure is None:
        assert math.log(calibrated.exits[0].temperature / factor) == pytest.approx(best.x, abs=0.1)


@pytest.mark.parametrize("factor", [1e-2, 1e3])
def test_a_binary_logit_in_another_unit_gets_the_temperature_of_that_unit(factor):
    logit = 3 * builders.inputs(4000, 1)
    labels = (logit.sigmoid() > torch.rand(4000, 1, generator=torch.Generator().manual_seed(99))).long()
    network = builders.identity_network(1)
    calibrated = calibrate(network, None, [(factor * logit, labels)], likelihood="binary", structure=None)
    assert calibrated.exits[0].temperature / factor == pytest.approx(1.0, abs=0.1)  # three standard errors
