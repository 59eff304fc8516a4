from dataclasses import replace

import pytest
import torch

from suffice import calibrate
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.exit_parts import check_consistent
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.likelihoods import LIKELIHOODS, classification
from suffice.calibration.posterior import STRUCTURES
from suffice.storage.parts import Parts
from tests import builders

X = builders.inputs(80)


def fit(structure, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"tuning": "evidence", "samples": 8, **options}
    return calibrate(builders.network(), builders.batched(X), None, structure=structure, generator=generator, **options)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_another_prior_keeps_the_randomness_and_changes_the_samples(structure):
    exit_ = fit(structure).exits[0]
    other = exit_.with_prior(9 * exit_.prior_precision)
    assert other.prior_precision == pytest.approx(9 * exit_.prior_precision)
    assert torch.equal(other.normals, exit_.normals)
    expected = exit_.likelihood.offsets(other.posterior, exit_.normals).values
    assert torch.equal(other.offsets.values, expected.to(other.offsets.values))
    assert not torch.equal(other.offsets.values, exit_.offsets.values)
    phi = builders.network().advance(0, X)[1]
    means = phi.new_zeros(len(phi), 4)
    assert not torch.allclose(other.predict(phi, means).aleatoric, exit_.predict(phi, means).aleatoric)
    back = other.with_prior(exit_.prior_precision)
    torch.testing.assert_close(back.offsets.values, exit_.offsets.values)


def test_an_exit_that_does_not_sample_has_no_samples_under_another_prior():
    exit_ = fit("full", link="probit").exits[0].with_prior(3.0)
    assert exit_.prior_precision == 3
    assert exit_.normals is None
    assert exit_.offsets is None


def test_the_constant_of_the_bias_is_the_last_feature():
    phi = torch.ones(2, 3)
    assert with_bias(phi, None) is phi
    assert with_bias(phi, 0.5).tolist() == [[1, 1, 1, 0.5]] * 2


def exits(*changes, likelihood="classification"):
    family = LIKELIHOODS[likelihood]
    made = classification.Likelihood() if likelihood == "classification" else family()
    return [replace(CalibratedExit(1.0, None, likelihood=made), **change) for change in changes]


@pytest.mark.parametrize(
    ("likelihood", "ensemble"),
    [
        ("classification", True),
        ("classification", False),
        ("classification", "product"),
        ("binary", "product"),
        ("heteroscedastic", True),
        ("heteroscedastic", False),
    ],
)
def test_exits_of_one_calibration_are_consistent(likelihood, ensemble):
    check_consistent(Parts({}, {}, "the file"), exits({}, {}, likelihood=likelihood), ensemble)


def test_exits_may_predict_without_their_posterior_beside_those_that_use_it():
    using, other = fit("full").exits[:2]
    check_consistent(Parts({}, {}, "the file"), [using, other.without_posterior()], True)


@pytest.mark.parametrize(
    ("made", "ensemble", "message"),
    [
        (exits({}, {}, likelihood="heteroscedastic"), "product", "expected ensemble to be true or false with"),
        ([*exits({}), fit("diagonal").exits[0]], True, "expected exits to be of one likelihood and structure"),
        (fit("full").exits[:1] + fit("full", link="probit").exits[:1], True, "expected exits to be of one link"),
        (exits({}, {"weight": 1.0}), True, "all with a weight or none"),
        (exits({"weight": 1.0}, {"weight": 1.0}), False, "expected exits to be without weights"),
        (exits({}) + exits({}, likelihood="binary"), True, "of one likelihood"),
    ],
)
def test_exits_that_cannot_come_from_one_calibration_are_refused(made, ensemble, message):
    with pytest.raises(ValueError, match=message):
        check_consistent(Parts({}, {}, "the file"), made, ensemble)


def test_the_last_exit_sets_the_likelihood():
    calibrated = fit(None, temperature=False)
    assert isinstance(calibrated, Calibrated)
    assert calibrated.likelihood is calibrated.exits[-1].likelihood
