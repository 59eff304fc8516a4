import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import nn

import suffice
from suffice import Multilabel, calibrate, evaluation
from suffice.calibration import likelihoods
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.likelihoods import binary, multilabel
from suffice.calibration.posterior import STRUCTURES, blocks, full, kronecker
from suffice.calibration.posterior.curvature import sigmoid
from tests import builders, tolerances

pytestmark = pytest.mark.filterwarnings("ignore:.* (ended|at) .* edge")

X = builders.inputs(160)
LABELS = 4


def sample_labels(x=X, labels=LABELS, seed=0):
    """Random labels whose probabilities depend on x; the last label is rare."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * x @ torch.randn(3, labels, generator=generator)
    logits[:, -1] -= 2
    return torch.bernoulli(logits.sigmoid(), generator=generator)


Y = sample_labels()


def network(labels=LABELS, **options):
    return builders.network(classes=labels, scale=0.5, **options)


def fit(net, y=Y, likelihood="multilabel", x=X, **options):
    loaders = builders.batched(x[:80], y[:80]), builders.batched(x[80:], y[80:])
    options = {**builders.PAPER, "generator": torch.Generator().manual_seed(0), **options}
    return calibrate(net, *loaders, likelihood=likelihood, **options)


@pytest.fixture(scope="module")
def calibrated():
    loss = nn.functional.binary_cross_entropy_with_logits
    return fit(builders.trained(network(), X[:80], lambda logits: loss(logits, Y[:80]), steps=60))


CLOSE = {"rtol": 1e-9, "atol": 1e-12}
"""Rounding of a few dozen operations in float64, amplified at most a thousand times by cancellation."""


class TestOneLabelIsBinary:
    """With K = 1 every number is that of `likelihood="binary"`, up to rounding in float64."""

    def both(self, **options):
        net, y = network(1).double(), Y[:, :1]
        return [fit(net, y, likelihood, X.double(), **options) for likelihood in ("multilabel", "binary")]

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"link": "probit", "ensemble": "product"},
            {"link": "meanfield", "structure": "kronecker"},
            {"link": "plugin", "structure": None, "ensemble": False},
            {"structure": "diagonal", "tuning": "grid"},
            {"structure": "lowrank", "tuning": "evidence"},
            {"structure": "blocks", "bias_precision": 2.0, "class_precision": torch.tensor([3.0])},
            {"ensemble_weights": "tuned"},
        ],
        ids=str,
    )
    def test_in_every_number_of_a_calibration(self, options):
        several, one = self.both(**options)
        for a, b in zip(several.exits, one.exits, strict=True):
            assert (a.macs, a.samples, a.class_precision, a.bias) == (b.macs, b.samples, b.class_precision, b.bias)
            for name in ("temperature", "prior_precision", "weight"):  # the search ends at a gradient of 1e-6
                found, expected = getattr(a, name), getattr(b, name)
                assert found is expected is None or found == pytest.approx(expected, rel=1e-4)
        assert several.costs == one.costs
        if options.get("ensemble_weights") == "tuned":
            exits = [a.with_weight(b.weight) for a, b in zip(several.exits, one.exits, strict=True)]
            several = suffice.Calibrated(several.network, exits, "average", several.costs, several.network_hash)
        again = [one.with_temperature([1.3, 0.8, 1.0]) for one in (several, one)]
        if one.exits[0].posterior is not None:
            again = [each.with_prior([0.3, 1.0, 2.0]) for each in again]
        for a, b in zip(*(each(X.double()) for each in again), strict=True):
            torch.testing.assert_close(a.log_probs[:, 0], b.log_probs, **CLOSE)
            torch.testing.assert_close(a.probs[:, 0], b.probs[:, 1], **CLOSE)
            assert torch.equal(a.label[:, 0], b.label)
            names = ["confidence", "log_odds", "margin", "entropy", "aleatoric", "epistemic", "chance_correct"]
            for name in [*names, "default_score", "epistemic_score"]:
                torch.testing.assert_close(getattr(a, name), getattr(b, name), **CLOSE)
            assert torch.equal(a.agreeing, b.agreeing)

    def test_in_policies_guarantees_and_measures(self):
        several, one = (each.with_temperature(1.2) for each in self.both(structure=None, temperature=False))
        x, y = X.double(), Y[:, :1]
        loader = builders.batched(x, y)
        for make in (
            lambda c, score: suffice.allocate(c, loader, 0.7, score=score),
            lambda c, score: suffice.allocate(c, loader, 0.7, score=score, method="optimal"),
            lambda c, score: suffice.control_risk(c, loader, 0.3, 0.9, score=score),
            lambda c, score: suffice.control_risk(c, loader, 0.3, None, loss="brier", score=score),
        ):
            for score in ("confidence", "margin", "entropy", "aleatoric", "epistemic"):
                a, b = make(several, score), make(one, score)
                torch.testing.assert_close(a.thresholds, b.thresholds, **CLOSE)
                assert torch.equal(suffice.run(several, a, x).exit, suffice.run(one, b, x).exit)
        a, b = (evaluation.per_exit(evaluation.predict(each, loader)) for each in (several, one))
        for ours, theirs in zip(a, b, strict=True):
            shared = set(ours) & set(theirs)
            assert shared == {"accuracy", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc"}
            assert ours["subset_accuracy"] == ours["accuracy"]
            for name in shared:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    mean=st.lists(st.floats(-40, 40), min_size=1, max_size=5),
    variance=st.floats(0, 50),
    temperature=st.floats(0.05, 20),
    link=st.sampled_from(["sampled", "probit", "meanfield", "plugin"]),
)
def test_every_label_is_a_binary_classification_by_itself(mean, variance, temperature, link):
    mean = torch.tensor([mean], dtype=torch.float64)
    got = exit_at(link, mean, variance, temperature)
    for c in range(mean.shape[1]):
        alone = exit_at(link, mean[:, c : c + 1], variance, temperature, binary)
        torch.testing.assert_close(got.log_probs[:, c], alone.log_probs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got.label_aleatoric[:, c], alone.aleatoric, rtol=1e-9, atol=1e-12)


def exit_at(link, mean, variance, temperature=1.3, module=multilabel, samples=32):
    """Prediction for logits (N, K) of given means and one variance: φ = (√variance) under the prior alone, δ = 1."""
    labels = mean.shape[1]
    statistics = blocks.Statistics(torch.zeros(labels, 1, 1, dtype=torch.float64), 1)
    exit_ = CalibratedExit(temperature=temperature, bias=None, likelihood=module.Likelihood())
    exit_ = exit_.with_posterior(blocks.Posterior.fit(statistics), link, samples, torch.Generator().manual_seed(0))
    return exit_.predict(torch.full((len(mean), 1), variance**0.5, dtype=torch.float64), mean)


@pytest.mark.parametrize("variance", [0.3, 30.0])
def test_the_sampled_link_agrees_with_quadrature_label_by_label(variance):
    means = torch.tensor([[-30.0, -3.0, 0.0], [1.0, 4.0, 12.0]], dtype=torch.float64)
    density, reach = stats.norm(0, variance**0.5).pdf, 12 * variance**0.5

    def expected(mean):
        return integrate.quad(lambda f: special.expit((mean + f) / 1.3) * density(f), -reach, reach)[0]

    for samples, tolerance in [(32, 0.02), (512, 0.002)]:  # stated accuracy of the points, as for binary
        got = exit_at("sampled", means, variance, samples=samples).probs
        np.testing.assert_allclose(got, np.vectorize(expected)(means.numpy()), atol=tolerance)


def dense_hessian(phi, logits):
    """Σ Λ ⊗ φφᵀ, (K·D, K·D), with Λ the second derivative of the loss by autograd, example by example."""
    width = logits.shape[1] * phi.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64)
    for row, f in zip(phi, logits, strict=True):
        total += torch.kron(torch.autograd.functional.hessian(loss_of_labels, f), torch.outer(row, row))
    return total


def loss_of_labels(logits):
    ones = torch.ones_like(logits)
    return nn.functional.binary_cross_entropy_with_logits(logits, ones, reduction="sum")


@pytest.mark.parametrize("structure", ["full", "blocks"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_exact_structures_are_the_dense_posterior(structure, bias):
    net = network(widths=(6,), bias=bias).double()
    exit_ = fit(net, x=X.double(), structure=structure).exits[0].with_prior(0.7)
    with torch.no_grad():
        phi = with_bias(net.stages[0](X.double()), 1.0 if bias else None)
        logits = net(X.double())[0]
    precision = dense_hessian(phi[:80], logits[:80]) + 0.7 * torch.eye(LABELS * phi.shape[1], dtype=torch.float64)
    inverse = torch.linalg.inv(precision).reshape(LABELS, phi.shape[1], LABELS, phi.shape[1])
    expected = torch.einsum("nd,cdCD,nD->ncC", phi, inverse, phi)
    torch.testing.assert_close(exit_.posterior.covariance(phi), expected)
    assert (expected - torch.diag_embed(expected.diagonal(dim1=1, dim2=2))).abs().max() < 1e-12


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_logits_of_labels_are_independent_under_every_structure(structure):
    phi, logits = builders.inputs(60, 5).double(), builders.inputs(60, 3, seed=1).double()
    module = STRUCTURES[structure]
    posterior = module.Posterior.fit(module.update(module.init(5, 3), phi, logits, sigmoid))
    covariance = posterior.covariance(phi)
    variance = posterior.variance(posterior.spectrum(phi))
    torch.testing.assert_close(covariance, torch.diag_embed(variance), rtol=1e-6, atol=1e-12)


def test_kronecker_and_lowrank_share_the_moment_of_the_features():
    phi, logits = builders.inputs(60, 5).double(), builders.inputs(60, 3, seed=1).double()
    curvature = (logits.sigmoid() * (1 - logits.sigmoid())).sum(dim=0)
    precision = torch.einsum("c,ij->cij", curvature, phi.T @ phi / 60) + torch.eye(5, dtype=torch.float64)
    expected = torch.einsum("ni,cij,nj->nc", phi, torch.linalg.inv(precision), phi)
    for structure, tolerance in (("kronecker", 1e-9), ("lowrank", 1e-6)):  # lowrank interpolates resolvents
        module = STRUCTURES[structure]
        posterior = module.Posterior.fit(module.update(module.init(5, 3), phi, logits, sigmoid))
        torch.testing.assert_close(posterior.variance(posterior.spectrum(phi)), expected, rtol=tolerance, atol=0)


def test_one_label_has_the_exact_posterior_by_default_and_several_a_cheap_one(calibrated):
    assert isinstance(fit(network(1), Y[:, :1]).exits[0].posterior, full.Posterior)
    assert isinstance(calibrated.exits[0].posterior, kronecker.Posterior)


@pytest.mark.parametrize("structure", [*(s for s in STRUCTURES if s != "lowrank"), None])
@pytest.mark.parametrize("link", ["sampled", "meanfield", "plugin"])
@pytest.mark.parametrize("ensemble", ["average", "product"])
def test_every_structure_link_and_ensemble_calibrates_and_survives_saving(structure, link, ensemble, tmp_path):
    net = network()
    calibrated = fit(net, structure=structure, link=link, ensemble=ensemble)
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    for before, after in zip(calibrated(X), again(X), strict=True):
        assert isinstance(after, Multilabel)
        assert before.log_probs.shape == (160, LABELS, 2)
        assert torch.equal(before.log_probs, after.log_probs)
        assert torch.equal(before.label_aleatoric, after.label_aleatoric)
    assert again.digest == calibrated.digest


def test_a_policy_runs_every_example_to_its_exit_and_gives_the_answers_there(calibrated):
    loader = builders.batched(X, Y)
    for score in ("confidence", "margin", "entropy", "epistemic", "patience"):
        policy = suffice.allocate(calibrated, loader, 0.7, score=score)
        answer, every = suffice.run(calibrated, policy, X), calibrated(X)
        assert len(answer.exit.unique()) > 1
        expected = torch.stack([prediction.probs for prediction in every])[answer.exit, torch.arange(160)]
        torch.testing.assert_close(answer.probs, expected, atol=1e-5, rtol=0)
        assert answer.label.shape == (160, LABELS)
    with pytest.raises(AttributeError, match="got a multilabel; use its probs"):
        answer.mean  # noqa: B018
    served = list(suffice.run_stream(calibrated, policy, X.split(50), size=32))
    streamed = torch.cat([each.answer.probs for each in served])
    torch.testing.assert_close(streamed, answer.probs, atol=1e-5, rtol=0)


def test_patience_counts_exits_with_all_labels_the_same(calibrated):
    predictions = calibrated(X)
    labels = [prediction.label for prediction in predictions]
    counts = [1] * 160
    for k in range(1, 3):
        counts = [count + 1 if torch.equal(labels[k][n], labels[k - 1][n]) else 1 for n, count in enumerate(counts)]
        assert predictions[k].agreeing.tolist() == counts


def test_the_fixed_samples_are_those_that_every_label_averages_and_labels_are_nearly_uncorrelated():
    calibrated = fit(network(), ensemble=False, samples=64)
    draws, prediction = calibrated.logit_samples(X), calibrated(X)[-1]
    moments = calibrated.moments(X)[-1]
    averaged = (draws / calibrated.exits[-1].temperature).sigmoid().mean(dim=0)
    torch.testing.assert_close(averaged, prediction.probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(draws.mean(dim=0), moments.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(draws.var(dim=0, correction=0), moments.variance, rtol=2e-2, atol=0)  # compressed
    standardized = (draws - moments.mean) / moments.variance.sqrt()
    correlation = torch.einsum("snc,snd->cd", standardized, standardized) / (64 * 160)
    assert (correlation - torch.eye(LABELS)).abs().max() < tolerances.mean(1, 64)


def test_the_fixed_samples_of_a_binary_logit_are_those_that_its_answers_average():
    for structure in ("full", "kronecker", "diagonal"):
        calibrated = fit(network(1), Y[:, 0], "binary", structure=structure, ensemble=False)
        draws = calibrated.logit_samples(X)
        assert draws.shape == (16, 160, 1)
        averaged = (draws[..., 0] / calibrated.exits[-1].temperature).sigmoid().mean(dim=0)
        torch.testing.assert_close(averaged, calibrated(X)[-1].probs[:, 1], atol=1e-5, rtol=0)


def test_a_likelihood_in_closed_form_has_no_fixed_samples_and_says_what_to_use():
    y = builders.inputs(160, 2, seed=1)
    calibrated = fit(network(2), y, "regression")
    with pytest.raises(ValueError, match="likelihood 'regression', with predictions in closed form; use joint_samples"):
        calibrated.logit_samples(X)


@pytest.mark.parametrize("structure", ["full", "kronecker", "blocks", "diagonal"])
def test_labels_can_be_added_and_leave_the_others_as_they_are(structure):
    net = network()
    calibrated = fit(net, structure=structure, tuning="evidence", temperature=False, ensemble=False)
    wider = builders.network(classes=LABELS + 2, scale=0.5)
    for stage, (old, new) in enumerate(zip(net.exits, wider.exits, strict=True)):
        wider.stages[stage].load_state_dict(net.stages[stage].state_dict())
        with torch.no_grad():
            new.classifier.weight[:LABELS], new.classifier.bias[:LABELS] = old.classifier.weight, old.classifier.bias
    grown = calibrated.with_classes(wider, generator=torch.Generator().manual_seed(1))
    for before, after in zip(calibrated(X), grown(X), strict=True):
        assert after.probs.shape == (160, LABELS + 2)
        torch.testing.assert_close(after.probs[:, :LABELS], before.probs, atol=1e-5, rtol=0)
    assert (grown.moments(X)[0].variance[:, LABELS:] > 0).all()


def test_the_cost_is_that_of_the_variances_and_a_product_for_each_sample_and_label():
    for structure, variances in (("blocks", [LABELS * d * d for d in (7, 6, 8)]), ("diagonal", [28, 24, 32])):
        closed = fit(network(), structure=structure, link="probit", tuning="evidence", temperature=False)
        sampled = fit(network(), structure=structure, samples=8, tuning="evidence", temperature=False)
        assert [exit_.macs for exit_ in closed.exits] == variances
        assert [exit_.macs for exit_ in sampled.exits] == [macs + 8 * LABELS for macs in variances]


def test_answers_do_not_depend_on_companions_or_order(calibrated):
    whole = calibrated(X)[-1]
    shuffled = calibrated(X.flip(0))[-1].take(torch.arange(160).flip(0))
    torch.testing.assert_close(whole.log_probs, shuffled.log_probs, atol=1e-5, rtol=0)
    for n in (0, 3, 77):
        torch.testing.assert_close(calibrated(X[n : n + 1])[-1].probs[0], whole.probs[n], atol=1e-5, rtol=0)


def test_a_plain_model_is_calibrated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, LABELS))
    (prediction,) = fit(model)(X)
    assert prediction.probs.shape == (160, LABELS)
    assert prediction.probs.dtype == torch.float32


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_label_that_never_changes_calibrates(constant):
    y = Y.clone()
    y[:, 1] = constant
    assert all(prediction.log_probs.isfinite().all() for prediction in fit(network(), y)(X))


@pytest.mark.parametrize(("likelihood", "outputs"), [("multilabel", 3), ("binary", 1), ("classification", 3)])
@pytest.mark.parametrize("structure", ["kronecker", "full", "lowrank"])
def test_examples_without_features_do_not_stop_the_search(likelihood, outputs, structure):
    """φ = 0 has the variance 0, whose square root has an infinite slope."""
    x = X.relu()
    x[::20] = 0
    net = builders.network(widths=(3,), classes=outputs, bias=False)
    net.stages[0] = nn.Identity()
    y = {"multilabel": Y[:, :3], "binary": Y[:, 0], "classification": Y[:, 0].long()}[likelihood]
    options = {"structure": structure, "ensemble": False}
    tuned = fit(net, y, likelihood, x, **options).exits[0]
    best, other = tuned, [tuned.with_temperature(tuned.temperature * s) for s in (0.8, 1.25)]
    family, phi = tuned.likelihood, x[80:]
    labels = family.read(y[80:], suffice.batches.Batch(None, None, 80, 0), outputs)
    logits = net.exit(0).classifier(phi).detach()

    def loss(exit_):
        nll = family.nll(exit_.predict(phi, logits), labels).mean()
        return float(nll) + math.log(exit_.temperature) ** 2 / (2 * 0.5**2 * 80)

    assert all(loss(best) <= loss(each) + 1e-6 for each in other)


ZEROS_AND_ONES = [[0, 1], [1, 1], [1, 0], [0, 0]]


class TestLabels:
    def read(self, labels, size=4, start=10, outputs=2):
        batch = suffice.batches.Batch(None, labels, size, start)
        return multilabel.Likelihood.read(labels, batch, outputs)

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
    )
    def test_zeros_and_ones_of_any_type_become_integers(self, dtype):
        labels = self.read(torch.tensor(ZEROS_AND_ONES).to(dtype))
        assert labels.dtype == torch.int64
        assert labels.tolist() == ZEROS_AND_ONES

    def test_one_label_may_be_a_column_or_a_vector(self):
        for labels in (torch.tensor([0, 1, 1, 0]), torch.tensor([[0], [1], [1], [0]])):
            assert self.read(labels, outputs=1).tolist() == [[0], [1], [1], [0]]

    @pytest.mark.parametrize(("bad", "named"), [(0.5, "0.5"), (2.0, "2"), (-1.0, "-1"), (-100.0, "-100")])
    def test_anything_else_is_named_by_its_label_and_position(self, bad, named):
        labels = torch.tensor(ZEROS_AND_ONES).double()
        labels[2, 1] = bad
        with pytest.raises(ValueError, match=rf"labels 0 or 1, got {named} for label 1 at position 12; leave out"):
            self.read(labels)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_label_that_is_not_a_number_is_named_by_its_position(self, bad):
        labels = torch.tensor(ZEROS_AND_ONES).double()
        labels[1, 0] = bad
        with pytest.raises(ValueError, match="expected finite labels, got NaN or infinity at position 11"):
            self.read(labels)

    @pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 4), (4, 2, 1), ()])
    def test_other_shapes_are_refused_with_both(self, shape):
        with pytest.raises(ValueError, match=r"labels of shape \(4, 2\), 0 or 1 for each label, got torch.int64 of sh"):
            self.read(torch.zeros(shape, dtype=torch.int64))

    def test_classes_as_integers_are_refused_with_the_remedy(self):
        with pytest.raises(ValueError, match="pass likelihood='classification' for one class out of several"):
            self.read(torch.tensor([0, 1, 1, 0]))

    def test_complex_labels_are_refused(self):
        with pytest.raises(ValueError, match=r"got torch\.complex64"):
            self.read(torch.zeros(4, 2, dtype=torch.complex64))

    def test_rows_of_labels_for_a_classification_are_refused_with_the_remedy(self):
        for labels in (Y, Y.bool()):
            with pytest.raises(ValueError, match=r"pass likelihood='multilabel' .* labels.argmax\(dim=1\)"):
                fit(network(), labels, "classification")

    def test_several_logits_for_binary_are_refused_with_the_remedy(self):
        with pytest.raises(ValueError, match="or 'multilabel' for one per label"):
            fit(network(), Y[:, 0], "binary")

    def test_a_batch_with_fewer_labels_is_named_by_its_position(self):
        loader = [(X[:50], Y[:50]), (X[50:], Y[50:, :3])]
        with pytest.raises(ValueError, match=r"of shape \(110, 4\), .* of shape \(110, 3\) from position 50"):
            calibrate(network(), None, loader, likelihood="multilabel", structure=None)


def test_the_likelihood_is_the_sum_over_the_labels(calibrated):
    prediction = calibrated(X)[-1]
    loss = nn.functional.binary_cross_entropy(prediction.probs, Y, reduction="none").sum(dim=1)
    got = likelihoods.LIKELIHOODS["multilabel"]().nll(prediction, Y.long())
    torch.testing.assert_close(got, loss, rtol=1e-5, atol=1e-5)
