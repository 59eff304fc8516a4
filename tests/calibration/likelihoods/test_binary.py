import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

import suffice
from suffice import calibrate, evaluation
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.likelihoods import binary
from suffice.calibration.posterior import full
from suffice.calibration.serving.served import serving_placement
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")

X = builders.inputs(160)


def sample_labels(x=X, seed=0):
    """Random labels whose probability depends on x."""
    chance = (4 * x[:, 0] * x[:, 1] + 2 * x[:, 2]).sigmoid()
    return torch.bernoulli(chance, generator=torch.Generator().manual_seed(seed))


Y = sample_labels()


@pytest.fixture(scope="module")
def net():
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return builders.trained(builders.network(classes=1), X[:80], lambda logits: loss(logits[:, 0], Y[:80]))


@pytest.fixture(scope="module")
def loaders():
    return builders.batched(X[:80], Y[:80]), builders.batched(X[80:], Y[80:, None])


@pytest.fixture(scope="module")
def calibrated(net, loaders):
    generator = torch.Generator().manual_seed(0)
    return calibrate(net, *loaders, likelihood="binary", generator=generator, **builders.PAPER)


def exit_at(link, mean, variance, temperature=1.3, samples=32):
    """An exit whose logit has given moments: φ = (√variance) under the prior alone, with precision 1."""
    statistics = full.Statistics(torch.zeros(1, 1, 1, 1, dtype=torch.float64), 1)
    exit_ = CalibratedExit(temperature=temperature, bias=None, likelihood=binary.Likelihood())
    exit_ = exit_.with_posterior(full.Posterior.fit(statistics), link, samples, torch.Generator().manual_seed(0))
    return exit_.predict(variance.sqrt()[:, None], mean[:, None])


MEANS = torch.tensor([-30.0, -3.0, -0.2, 0.0, 1.0, 4.0, 12.0], dtype=torch.float64).repeat_interleave(4)
VARIANCES = torch.tensor([0.0, 0.3, 3.0, 30.0], dtype=torch.float64).repeat(7)


def quadrature(mean, variance, temperature):
    if variance == 0:
        return special.expit(mean / temperature)
    density = stats.norm(mean, variance**0.5).pdf
    reach = 12 * variance**0.5
    value, _ = integrate.quad(lambda f: special.expit(f / temperature) * density(f), mean - reach, mean + reach)
    return value


def test_the_sampled_link_agrees_with_quadrature():
    expected = [quadrature(m, v, 1.3) for m, v in zip(MEANS.tolist(), VARIANCES.tolist(), strict=True)]
    for samples, tolerance in [(32, 0.02), (512, 0.002)]:
        got = exit_at("sampled", MEANS, VARIANCES, samples=samples).probs[:, 1]
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_the_sampled_link_agrees_with_a_hundred_thousand_draws_in_probability_and_aleatoric():
    z = torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws = ((MEANS[:, None] + VARIANCES.sqrt()[:, None] * z) / 1.3).sigmoid()
    entropies = torch.special.entr(draws) + torch.special.entr(1 - draws)
    got = exit_at("sampled", MEANS, VARIANCES, samples=512)
    torch.testing.assert_close(got.probs[:, 1], draws.mean(dim=1), atol=0.006, rtol=0)
    torch.testing.assert_close(got.aleatoric, entropies.mean(dim=1), atol=0.006, rtol=0)


@pytest.mark.parametrize("link", ["probit", "meanfield"])
def test_both_closed_forms_are_mackays(link):
    got = exit_at(link, MEANS, VARIANCES)
    expected = (MEANS / (1.3**2 + math.pi / 8 * VARIANCES).sqrt()).sigmoid()
    torch.testing.assert_close(got.probs[:, 1], expected)
    torch.testing.assert_close(got.probs.sum(dim=1), torch.ones(28, dtype=torch.float64))
    assert (got.epistemic >= 0).all()


def test_the_plugin_is_the_sigmoid_at_the_temperature_with_both_tails():
    got = exit_at("plugin", MEANS * 10, VARIANCES)
    torch.testing.assert_close(got.log_probs[:, 1], torch.nn.functional.logsigmoid(MEANS * 10 / 1.3))
    torch.testing.assert_close(got.log_probs[:, 0], torch.nn.functional.logsigmoid(-MEANS * 10 / 1.3))


@pytest.mark.parametrize("bias", [True, False])
def test_the_variance_of_the_logit_is_that_of_the_dense_posterior(bias):
    net = builders.network(widths=(6,), classes=1, bias=bias).double()
    loader = builders.batched(X.double(), Y)
    exit_ = calibrate(net, loader, loader, likelihood="binary").exits[0]
    with torch.no_grad():
        phi = with_bias(net.stages[0](X.double()), 1.0 if bias else None)
        p = net(X.double())[0].sigmoid()
    precision = (phi * p * (1 - p)).T @ phi + exit_.prior_precision * torch.eye(phi.shape[1], dtype=torch.float64)
    expected = (phi @ torch.linalg.inv(precision) * phi).sum(dim=1, keepdim=True)
    assert isinstance(exit_.posterior, full.Posterior)
    torch.testing.assert_close(exit_.posterior.variance(exit_.posterior.spectrum(phi)), expected)


@pytest.mark.parametrize(
    "structure", ["kronecker", "full", "diagonal", None, pytest.param("lowrank", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("link", ["sampled", "meanfield", "plugin"])
def test_every_structure_and_link_calibrates_and_survives_saving(net, loaders, structure, link, tmp_path):
    calibrated = calibrate(net, *loaders, likelihood="binary", structure=structure, link=link)
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    for before, after in zip(calibrated(X), again(X), strict=True):
        assert before.log_probs.shape == (160, 2)
        assert torch.equal(before.log_probs, after.log_probs)
    assert again.likelihood == calibrated.likelihood == binary.Likelihood()


def test_tuning_lowers_the_nll_of_the_data_it_sees(net, loaders, calibrated):
    vanilla = calibrate(net, *loaders, likelihood="binary", structure=None, temperature=False)
    outcomes = [evaluation.predict(each, loaders[1]) for each in (calibrated, vanilla)]
    tuned, before = (sum(row["nll"] for row in evaluation.per_exit(outcome)) for outcome in outcomes)
    assert tuned < before


def test_policies_run_and_the_measures_of_two_classes_apply(net, loaders, calibrated):
    policy = suffice.allocate(calibrated, loaders[1], 0.7)
    answer = suffice.run(calibrated, policy, X)
    assert answer.probs.shape == (160, 2)
    assert set(answer.label.tolist()) == {0, 1}
    assert len(answer.exit.unique()) > 1
    assert 0.6 < evaluation.per_exit(evaluation.predict(calibrated, loaders[1]))[-1]["accuracy"] <= 1


def test_the_cost_of_the_uncertainty_is_a_form_in_the_features_and_a_product_a_sample(net, loaders):
    sampled = calibrate(net, *loaders, likelihood="binary", link="sampled", samples=8)
    closed = calibrate(net, *loaders, likelihood="binary", link="probit")
    assert [exit_.macs for exit_ in closed.exits] == [7 * 7, 6 * 6, 8 * 8]
    assert [exit_.macs for exit_ in sampled.exits] == [7 * 7 + 8, 6 * 6 + 8, 8 * 8 + 8]


@pytest.mark.parametrize("answer", [nn.Identity(), nn.Flatten(0)], ids=["column", "squeezed"])
def test_a_plain_model_of_one_logit_is_accepted_as_a_column_or_squeezed(answer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), answer)
    y = (X[:, 0] > 0).float()
    calibrated = calibrate(model, [(X, y)], [(X, y)], likelihood="binary")
    (prediction,) = calibrated(X)
    assert prediction.probs.shape == (160, 2)
    assert calibrated.exits[0].posterior.values.shape == (9,)
    assert serving_placement(calibrated.network)[1] == torch.float32


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_training_data_of_one_class_calibrate(net, loaders, label):
    one = [(x, torch.full_like(y, label)) for x, y in loaders[0]]
    calibrated = calibrate(net, one, loaders[1], likelihood="binary")
    assert all(answer.log_probs.isfinite().all() for answer in calibrated(X))


def test_validation_data_of_one_class_do_not_make_it_endlessly_sure():
    x = torch.linspace(0.01, 3, 32)[:, None]
    loader = [(x, torch.ones(32))]
    calibrated = calibrate(builders.identity_network(1), None, loader, likelihood="binary", structure=None)
    assert 0.1 < calibrated.exits[0].temperature < 1


class TestLabels:
    def read(self, labels, size=4, start=10):
        batch = suffice.batches.Batch(None, labels, size, start)
        return binary.Likelihood.read(labels, batch, 1)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
    @pytest.mark.parametrize("shape", [(4,), (4, 1)])
    def test_zeros_and_ones_of_any_type_become_integers(self, dtype, shape):
        labels = self.read(torch.tensor([0, 1, 1, 0]).to(dtype).reshape(shape))
        assert labels.dtype == torch.int64
        assert labels.tolist() == [0, 1, 1, 0]

    @pytest.mark.parametrize(("bad", "named"), [(0.5, "0.5"), (2.0, "2"), (-1.0, "-1")])
    def test_anything_else_is_named_by_its_position(self, bad, named):
        with pytest.raises(ValueError, match=rf"expected labels 0 or 1, got {named} at position 12"):
            self.read(torch.tensor([0.0, 1.0, bad, 0.0]))

    def test_a_label_that_is_not_a_number_is_named_by_its_position(self):
        with pytest.raises(ValueError, match="expected finite labels, got NaN or infinity at position 11"):
            self.read(torch.tensor([0.0, torch.nan, 1.0, 0.0]))

    @pytest.mark.parametrize("shape", [(3,), (4, 2), (1, 4), ()])
    def test_other_shapes_are_refused_with_both(self, shape):
        with pytest.raises(ValueError, match=r"labels of shape \(4,\) or \(4, 1\), got torch.int64 of shape"):
            self.read(torch.zeros(shape, dtype=torch.int64))


def test_a_classifier_of_two_logits_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"1 output, the logit of class 1, .* with 2; pass likelihood='classification'"
    ):
        calibrate(builders.network(classes=2), [(X, X[:, 0] > 0)], [], likelihood="binary")
