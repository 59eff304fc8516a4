import pytest
import torch
from torch import nn

from suffice import calibrate
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.exits import with_bias
from suffice.calibration.posterior import STRUCTURES
from tests import builders, tolerances

X = builders.inputs(80)


def fit(net=None, **options):
    options = {"tuning": "evidence", "temperature": False, "ensemble": "average"} | options
    generator = torch.Generator().manual_seed(0)
    return calibrate(net or builders.network(), builders.batched(X), None, samples=8, generator=generator, **options)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_moments_are_those_of_each_exits_posterior_at_its_features_and_bias(structure):
    net = builders.network()
    calibrated = fit(net, structure=structure, bias_precision=0.3)
    state = X
    for k, (exit_, moments) in enumerate(zip(calibrated.exits, calibrated.moments(X), strict=True)):
        state, phi = net.advance(k, state)
        assert torch.equal(moments.mean, net(X)[k])
        covariance = exit_.posterior.covariance(with_bias(phi, 0.3**-0.5))
        # Two sums, over at most 8 features, 4 classes and 100 nodes of resolvents, whose weights sum to 3 at most.
        rounding = 2 * 3 * tolerances.gamma(8 + 4 + 100, torch.float32)
        torch.testing.assert_close(moments.variance, covariance.diagonal(dim1=1, dim2=2), rtol=rounding, atol=0)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_joint_samples_have_the_moments_and_are_the_same_weights_for_every_batch(structure):
    calibrated = fit(structure=structure)
    draws = calibrated.joint_samples(X[:6], 4000, generator=torch.Generator().manual_seed(0))
    for samples, moments in zip(draws, calibrated.moments(X[:6]), strict=True):
        assert samples.shape == (6, 4000, 4)
        deviation = moments.variance.sqrt()
        assert ((samples.mean(dim=1) - moments.mean).abs() < 4.5 * deviation / 4000**0.5).all()
        torch.testing.assert_close(samples.std(dim=1), deviation, rtol=4.5 / 8000**0.5, atol=0)
    alone = calibrated.joint_samples(X[2:3], 4000, generator=torch.Generator().manual_seed(0))
    for whole, one in zip(draws, alone, strict=True):
        torch.testing.assert_close(one[0], whole[2])


def test_two_copies_of_an_example_get_the_same_joint_samples():
    first, second = fit().joint_samples(X[[5, 5]], 3)[0]
    torch.testing.assert_close(first, second)


def test_networks_without_a_posterior_have_neither_moments_nor_joint_samples():
    calibrated = fit(structure=None)
    for method in (calibrated.moments, lambda x: calibrated.joint_samples(x, 3)):
        with pytest.raises(ValueError, match="expected an exit with a posterior"):
            method(X)


def test_the_fixed_samples_of_the_last_exit_are_those_that_its_answers_average():
    calibrated = fit(ensemble=False)
    draws = calibrated.logit_samples(X[:6])
    assert draws.shape == (8, 6, 4)
    averaged = (draws / calibrated.exits[-1].temperature).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(averaged, calibrated(X[:6])[-1].probs)
    for other in (fit(link="probit"), fit(structure=None)):
        with pytest.raises(ValueError, match="expected a sampled posterior at the last exit"):
            other.logit_samples(X)


def test_its_repr_has_the_choices_and_what_was_tuned_of_each_exit():
    calibrated = fit().with_prior([0.25, 4.0, 4.0]).with_temperature([1.5, 2.0, 2.0])
    first, *exits = repr(calibrated).splitlines()
    assert first == "Calibrated(classification, 4 outputs, ensemble='average')"
    assert exits[0] == f"  exit 0: {calibrated.costs.cumulative[0]:,} multiply-adds, T 1.5, δ 0.25 (sampled)"
    assert exits[1] == f"  exit 1: {calibrated.costs.cumulative[1]:,} multiply-adds, T 2, δ 4 (sampled)"
    bare = repr(fit(structure=None, ensemble="product"))
    assert bare.startswith("Calibrated(classification, 4 outputs, ensemble='product')")
    assert "δ" not in bare


def test_no_joint_sample_is_refused():
    with pytest.raises(ValueError, match="samples of at least 1, got 0"):
        fit().joint_samples(X, 0)


def test_another_prior_and_temperature_are_those_of_the_exits():
    calibrated = fit()
    moved = calibrated.with_prior([0.5, 2.0, 8.0]).with_temperature(1.5)
    assert [exit_.prior_precision for exit_ in moved.exits] == [0.5, 2.0, 8.0]
    assert [exit_.temperature for exit_ in moved.exits] == [1.5] * 3
    for k, exit_ in enumerate(moved.exits):
        expected = calibrated.exits[k].with_prior([0.5, 2.0, 8.0][k]).with_temperature(1.5)
        assert torch.equal(exit_.offsets.values, expected.offsets.values)
    assert [exit_.prior_precision for exit_ in calibrated.with_prior(3.0).exits] == [3.0] * 3


def test_whatever_is_changed_changes_the_digest_that_policies_keep():
    net, calibrated = builders.network(), fit()
    others = [
        calibrated.with_prior(3.0),
        calibrated.with_temperature(2.0),
        calibrated.update(builders.batched(X)),
        fit(bias_precision=0.5).with_prior(3.0),
        fit(class_precision=torch.tensor([1.0, 2, 1, 1])).with_prior(3.0),
    ]
    assert len({calibrated.digest, *(other.digest for other in others)}) == 6
    assert calibrated.digest == fit(net).digest


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), [1.0, 2.0], [1.0, 2.0, float("inf")]])
def test_priors_and_temperatures_are_above_zero_and_one_for_each_exit(bad):
    calibrated = fit()
    with pytest.raises(ValueError, match="expected a prior_precision above 0, or 3 of them"):
        calibrated.with_prior(bad)
    with pytest.raises(ValueError, match="expected a temperature above 0, or 3 of them"):
        calibrated.with_temperature(bad)


def test_an_overflow_is_refused_with_its_position():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    calibrated, bad = fit(net), builders.inputs(4)
    bad[2] = 1e25
    assert net(bad).isfinite().all()
    with pytest.raises(ValueError, match=r"finite variances at exit 0, .* position 2 "):
        calibrated.moments(bad)
    with pytest.raises(ValueError, match=r"finite samples, .* position 2 "):
        calibrated.logit_samples(bad)


def test_answers_have_no_gradients_which_are_on_again_between_them():
    calibrated = fit()
    for answer in calibrated.anytime(X):
        assert torch.is_grad_enabled()
        assert not answer.log_probs.requires_grad
    assert not any(answer.log_probs.requires_grad for answer in calibrated(X))
    assert not calibrated.step(0, X, None)[1].log_probs.requires_grad


@pytest.mark.parametrize("x", [None, torch.tensor(1.0)], ids=["none", "number"])
def test_inputs_without_a_batch_of_tensors_are_refused(x):
    with pytest.raises(TypeError, match="expected a tensor or a nest of tensors, batch first, got"):
        fit()(x)


def test_made_directly_it_takes_every_choice_of_an_ensemble_and_refuses_others():
    x = builders.inputs(20)
    made = builders.untuned(builders.network(), x)

    def again(ensemble):
        return Calibrated(made.network, made.exits, ensemble, made.costs, made.network_hash)

    assert again(True).ensemble == "product"
    assert torch.equal(again(True)(x)[-1].probs, again("product")(x)[-1].probs)
    assert again(False).ensemble is False
    for other in ("mean", None, 1.5):
        with pytest.raises(ValueError, match=f"ensemble to be True, False, 'average' or 'product', got {other!r}"):
            again(other)
