"""Tests that every likelihood passes, each with its own outputs and targets."""

from dataclasses import replace

import pytest
import torch

import suffice
from suffice import calibrate, evaluation
from suffice.calibration.likelihoods import LIKELIHOODS
from tests import builders, tolerances

pytestmark = pytest.mark.filterwarnings("ignore:.* (ended|at) .* edge")

X = builders.inputs(160)
OUTPUTS = {"classification": 3, "binary": 1, "multilabel": 3, "regression": 2, "heteroscedastic": 4}
FIELDS = {
    suffice.Prediction: ("log_probs", "aleatoric"),
    suffice.Multilabel: ("log_probs", "label_aleatoric"),
    suffice.Regression: ("mean", "epistemic_variance", "std"),
}


def network(likelihood, **options):
    return builders.network(classes=OUTPUTS[likelihood], scale=0.5, **options)


def targets(likelihood):
    if likelihood in ("classification", "binary"):
        return (X[:, 0] > 0).long()
    if likelihood == "multilabel":
        return X + 0.5 * builders.inputs(160, seed=1) > 0
    return X[:, :2] * X[:, 1:3] + 0.1 * builders.inputs(160, 2, seed=1)


def fit(likelihood, train=X, net=None, **options):
    y = targets(likelihood)
    loaders = builders.batched(train, y[: len(train)]), builders.batched(X, y)
    generator = torch.Generator().manual_seed(0)
    net = network(likelihood) if net is None else net
    return calibrate(net, *loaders, likelihood=likelihood, generator=generator, **{**builders.PAPER, **options})


def assert_same(a, b, x=X, **tolerance):
    for one, other in zip(a(x), b(x), strict=True):
        for field in FIELDS[type(one)]:
            torch.testing.assert_close(getattr(one, field), getattr(other, field), **tolerance)


@pytest.fixture(scope="module", params=LIKELIHOODS)
def calibrated(request):
    return fit(request.param)


def test_the_same_seed_gives_the_same_bytes(calibrated):
    again = fit(calibrated.likelihood.name)
    assert_same(calibrated, again, rtol=0, atol=0)
    assert again.digest == calibrated.digest


@pytest.mark.parametrize("tuning", ["validation", "evidence", "grid"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_way_of_tuning_is_better_than_none(likelihood, tuning):
    y = [(X, targets(likelihood))]
    tuned = fit(likelihood, tuning=tuning, ensemble=False)
    vanilla = fit(likelihood, structure=None, temperature=False, ensemble=False)
    rows = (evaluation.per_exit(evaluation.predict(each, y)) for each in (tuned, vanilla))
    better, before = (sum(row["nll"] for row in row_of_exits) for row_of_exits in rows)
    assert better <= before


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_gradient_reaches_a_minimum_that_the_grid_does_not_beat(likelihood):
    y = [(X, targets(likelihood))]
    answers = [evaluation.predict(fit(likelihood, tuning=tuning), y) for tuning in ("validation", "grid")]
    gradient, grid = (sum(row["nll"] for row in evaluation.per_exit(outcome)) for outcome in answers)
    assert gradient <= grid + 2e-2 * abs(grid)  # predictions use compressed posteriors, tuning does not


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_evidence_needs_no_validation_data(likelihood):
    y = targets(likelihood)
    generator = torch.Generator().manual_seed(0)
    options = {"likelihood": likelihood, "tuning": "evidence", "generator": generator}
    alone = calibrate(network(likelihood), [(X, y)], None, **options)
    assert all(exit_.temperature == 1 and exit_.prior_precision > 0 for exit_ in alone.exits)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_data_that_come_later_give_what_fitting_at_once_gives_at_the_same_prior_and_noise(likelihood):
    net = network(likelihood).double()
    early, once = fit(likelihood, X[:96], net), fit(likelihood, X, net)
    later = early.update(builders.batched(X[96:], targets(likelihood)[96:]))
    for k, (one, other) in enumerate(zip(later.exits, once.exits, strict=True)):
        other = other.with_prior(one.prior_precision)
        if likelihood == "regression":  # its noise was learned from other data, so only its features can agree
            torch.testing.assert_close(one.posterior.feature_values, other.posterior.feature_values)
            noise = early.exits[k].likelihood.noise_variance
            torch.testing.assert_close(one.posterior.class_values.sort().values, (160 / noise).sort().values)
        else:
            phi = one.posterior.spectrum(torch.ones(1, (7, 6, 8)[k], dtype=torch.float64))
            torch.testing.assert_close(one.posterior.variance(phi), other.posterior.variance(phi))


def test_moments_and_joint_samples_are_of_the_outputs_that_have_a_posterior(calibrated):
    latents = calibrated.likelihood.latents(calibrated.num_classes)
    draws = calibrated.joint_samples(X, 4000, generator=torch.Generator().manual_seed(0))
    for moments, samples in zip(calibrated.moments(X), draws, strict=True):
        assert moments.mean.shape == moments.variance.shape == (160, latents)
        assert samples.shape == (160, 4000, latents)
        torch.testing.assert_close(samples.var(dim=1), moments.variance, rtol=2 * tolerances.deviation(4000), atol=0)


def test_only_classes_and_labels_can_be_added(calibrated):
    wider = builders.network(classes=calibrated.num_classes + 2)
    if calibrated.likelihood.name in ("classification", "multilabel"):
        assert calibrated.likelihood.widens
        return
    name = calibrated.likelihood.name
    with pytest.raises(ValueError, match=f"or 'multilabel', which can add outputs, got {name!r}"):
        calibrated.with_classes(wider)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_precisions_of_bias_and_outputs_are_taken(likelihood):
    latents = LIKELIHOODS[likelihood].latents(OUTPUTS[likelihood])
    gamma = torch.arange(1.0, latents + 1)
    exit_ = fit(likelihood, bias_precision=4.0, class_precision=gamma).exits[0]
    assert exit_.class_precision == gamma.tolist()
    assert exit_.bias == 0.5
    with pytest.raises(ValueError, match=rf"class_precision of shape \({latents},\)"):
        fit(likelihood, class_precision=torch.ones(latents + 1))


def test_another_noise_is_another_digest():
    calibrated = fit("regression", temperature=False)
    exits = [exit_.with_temperature(1.0) for exit_ in calibrated.exits]
    noisier = type(exits[0].likelihood)(2 * exits[0].likelihood.noise_variance)
    changed = suffice.Calibrated(
        calibrated.network,
        [replace(exits[0], likelihood=noisier), *exits[1:]],
        calibrated.ensemble,
        calibrated.costs,
        calibrated.network_hash,
    )
    assert changed.digest != calibrated.digest
