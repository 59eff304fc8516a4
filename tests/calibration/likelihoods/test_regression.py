import numpy as np
import pytest
import torch
from sklearn.linear_model import BayesianRidge
from torch import nn

import suffice
from suffice import calibrate, evaluation
from suffice.calibration.exits import with_bias
from suffice.calibration.likelihoods import regression
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")

X = builders.inputs(400)
NOISE = torch.tensor([0.3, 0.6])


def targets_of(x, outputs, seed=0):
    scatter = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(seed))
    return (torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1) + NOISE * scatter)[:, :outputs]


def problem(outputs):
    """A network of three exits trained on 150 examples, and loaders of the training and validation data."""
    y = targets_of(X, outputs)
    net = builders.network((8, 16, 16), classes=outputs)
    net = builders.trained(net, X[:150], lambda mean: (mean - y[:150]).square().mean())
    return net, builders.batched(X[:150], y[:150]), builders.batched(X[150:], y[150:])


@pytest.fixture(scope="module", params=[1, 2])
def setting(request):
    net, train, val = problem(request.param)
    return net, train, val, calibrate(net, train, val, likelihood="regression", ensemble_weights="cost")


def features_of(net, k, x):
    with torch.no_grad():
        state = x
        for stage in range(k + 1):
            state, phi = net.advance(stage, state)
    return with_bias(phi, 1.0)


def test_the_mean_is_the_networks_own_and_an_ensemble_has_the_moments_of_its_members(setting):
    net, *_, calibrated = setting
    with torch.no_grad():
        means = net(X)
    weights = torch.tensor(calibrated.costs.network).double()
    for k, answer in enumerate(calibrated(X)):
        share = (weights[: k + 1] / weights[: k + 1].sum())[:, None, None]
        member_means = torch.stack([member.mean for member in answer.members]).double()
        torch.testing.assert_close(member_means, torch.stack(means[: k + 1]).double())
        spread = torch.stack([member.epistemic_variance for member in answer.members]).double() + member_means.square()
        mean = (share * member_means).sum(dim=0)
        torch.testing.assert_close(answer.mean.double(), mean, rtol=1e-4, atol=1e-5)
        epistemic = (share * spread).sum(dim=0) - mean.square()
        torch.testing.assert_close(answer.epistemic_variance.double(), epistemic, rtol=1e-3, atol=1e-5)
        assert answer.mean.dtype == answer.std.dtype == torch.float32


def test_the_posterior_is_that_of_dense_bayesian_linear_regression():
    net, train, val = problem(2)
    exit_ = calibrate(net.double(), train, val, likelihood="regression", temperature=False).exits[1]
    phi, noise = features_of(net, 1, X[:150].double()), exit_.likelihood.noise_variance
    at = features_of(net, 1, X[150:160].double())
    for c in range(2):
        precision = phi.T @ phi / noise[c] + exit_.prior_precision * torch.eye(17, dtype=torch.float64)
        expected = (at @ torch.linalg.inv(precision) * at).sum(dim=1)
        got = exit_.predict(at[:, :-1], torch.zeros(10, 2, dtype=torch.float64))
        torch.testing.assert_close(got.epistemic_variance[:, c], expected)
        torch.testing.assert_close(got.noise_variance[:, c], noise[c].expand(10))


def test_by_evidence_it_is_scikit_learns_bayesian_ridge():
    net, train, _ = problem(1)
    calibrated = calibrate(net.double(), train, None, likelihood="regression", tuning="evidence", ensemble=False)
    for k, answer in enumerate(calibrated(X[150:].double())):
        ridge = BayesianRidge(
            fit_intercept=False, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-12, max_iter=10_000
        ).fit(features_of(net, k, X[:150].double()).numpy(), torch.cat([y for _, y in train])[:, 0].numpy())
        _, std = ridge.predict(features_of(net, k, X[150:].double()).numpy(), return_std=True)
        exit_ = calibrated.exits[k]
        assert exit_.prior_precision == pytest.approx(ridge.lambda_, rel=1e-4)
        assert float(exit_.likelihood.noise_variance) == pytest.approx(1 / ridge.alpha_, rel=1e-4)
        np.testing.assert_allclose(answer.std[:, 0], std, rtol=1e-4)


def test_a_temperature_is_the_scale_of_the_noise_of_a_linear_regression(setting):
    """Under noise T²σ² and prior δ/T² the posterior is T² times that under σ² and δ."""
    net, _, _, calibrated = setting
    exit_ = calibrated.exits[0]
    phi = features_of(net, 0, X)
    mean = torch.zeros(400, len(exit_.likelihood.noise_variance))
    stretched = exit_.with_temperature(3.0).predict(phi[:, :-1], mean)
    plain = exit_.with_temperature(1.0).predict(phi[:, :-1], mean)
    torch.testing.assert_close(stretched.variance, 9 * plain.variance)
    features = (phi[:150].T @ phi[:150]).double()
    noise = 9 * exit_.likelihood.noise_variance[0].double()
    precision = features / noise + exit_.prior_precision / 9 * torch.eye(len(features), dtype=torch.float64)
    expected = (phi.double() @ torch.linalg.inv(precision) * phi).sum(dim=1)
    torch.testing.assert_close(stretched.epistemic_variance[:, 0].double(), expected, rtol=1e-2, atol=1e-5)


def test_tuning_on_validation_data_corrects_the_noise_of_training_residuals(setting):
    net, train, val, calibrated = setting
    measures = evaluation.per_exit(evaluation.predict(calibrated, val))
    plain = calibrate(net, train, val, likelihood="regression", structure=None, temperature=False, ensemble=False)
    for tuned, naive in zip(measures, evaluation.per_exit(evaluation.predict(plain, val)), strict=True):
        assert tuned["nll"] < naive["nll"]
        assert abs(tuned["coverage_95"] - 0.95) < 0.03
        assert tuned["crps"] <= naive["crps"] + 1e-3


def test_a_network_that_goes_through_its_training_targets_is_honest_on_others():
    x, y = X.double(), targets_of(X, 1).double()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 1)).double()
    with torch.no_grad():
        phi = torch.cat([net[:2](x[:20]), torch.ones(20, 1)], dim=1)
        solution = torch.linalg.lstsq(phi, y[:20]).solution
        net[2].weight.copy_(solution[:-1].T)
        net[2].bias.copy_(solution[-1])
    val = [(x[20:220], y[20:220])]
    calibrated = calibrate(net, [(x[:20], y[:20])], val, likelihood="regression")
    test = evaluation.predict(calibrated, [(x[220:], y[220:])])
    (measures,) = evaluation.per_exit(test)
    assert abs(measures["coverage_95"] - 0.95) < 0.05
    assert float(test.predictions[0].epistemic_variance.mean()) > float(test.predictions[0].noise_variance.mean())


def test_uncertainty_grows_away_from_the_training_data(setting):
    *_, calibrated = setting
    near, far = (calibrated(x)[0] for x in (X, 4 * X))
    assert float(far.epistemic_variance.mean()) > 1.2 * float(near.epistemic_variance.mean())
    torch.testing.assert_close(far.noise_variance, near.noise_variance)


def test_without_a_structure_there_is_noise_alone(setting):
    net, train, val, with_posterior = setting
    calibrated = calibrate(net, train, val, likelihood="regression", structure=None, ensemble=False)
    for exit_, other, answer in zip(calibrated.exits, with_posterior.exits, calibrated(X), strict=True):
        assert exit_.posterior is None
        assert (answer.epistemic_variance == 0).all()
        torch.testing.assert_close(exit_.likelihood.noise_variance, other.likelihood.noise_variance)
        torch.testing.assert_close(answer.variance[0], exit_.temperature**2 * exit_.likelihood.noise_variance)


def test_an_answer_does_not_depend_on_the_unit_of_its_targets():
    net, train, val = problem(2)
    scaled = builders.network((8, 16, 16), classes=2)
    scaled.load_state_dict(net.state_dict())
    with torch.no_grad():
        for k in range(3):
            scaled.exit(k).classifier.weight.mul_(1e4)
            scaled.exit(k).classifier.bias.mul_(1e4)
    loaders = ([(x, 1e4 * y) for x, y in loader] for loader in (train, val))
    calibrated, large = (
        calibrate(net.double(), train, val, likelihood="regression"),
        calibrate(scaled.double(), *loaders, likelihood="regression"),
    )
    for a, b in zip(calibrated(X.double()), large(X.double()), strict=True):
        torch.testing.assert_close(1e4 * a.std, b.std, rtol=1e-3, atol=0)


def test_policies_run_by_the_variance_and_give_the_exits_own_answers(setting):
    *_, val, calibrated = setting
    policy = suffice.allocate(calibrated, val, 0.8, score="variance")
    answer, every = suffice.run(calibrated, policy, X), calibrated(X)
    assert len(answer.exit.unique()) > 1
    for i, k in enumerate(answer.exit.tolist()):
        torch.testing.assert_close(answer.mean[i], every[k].mean[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answer.variance[i], every[k].variance[i], atol=1e-6, rtol=1e-4)
    with pytest.raises(AttributeError, match="an answer with 'probs', got a regression"):
        answer.probs  # noqa: B018


def test_measures_are_taken_at_every_exit_and_over_budgets(setting):
    *_, val, calibrated = setting
    outcome = evaluation.predict(calibrated, val)
    assert list(evaluation.per_exit(outcome)[0]) == list(evaluation.REGRESSION_MEASURES)
    budgeted = list(evaluation.over_budgets(calibrated, outcome, outcome))
    rows = torch.arange(250)
    for answer in (budgeted[0], budgeted[20]):
        expected = torch.stack([prediction.mean for prediction in outcome.predictions])[answer.exit_index, rows]
        assert torch.equal(answer.prediction.mean, expected)
    measured = [evaluation.measure(answer.prediction, outcome.labels) for answer in budgeted]
    means = evaluation.averaged(measured, outcome)
    assert means["crps"] == pytest.approx(np.mean([row["crps"] for row in measured]))
    assert "eefp" not in means


def test_a_row_of_a_table_is_of_classes(setting):
    *_, val, calibrated = setting
    outcome = evaluation.predict(calibrated, val)
    with pytest.raises(TypeError, match="expected an outcome of classes, got one of a regression"):
        evaluation.summary(calibrated, outcome, outcome, generator=torch.Generator())


def test_a_policy_by_a_score_of_classes_is_refused_with_those_of_a_regression(setting):
    *_, val, calibrated = setting
    expected = r"score of a Regression, one of \['epistemic', 'variance'\], .* got 'confidence'"
    with pytest.raises(ValueError, match=expected):
        suffice.allocate(calibrated, val, 0.8)


def test_a_reloaded_network_gives_the_same_bytes(setting, tmp_path):
    net, *_, calibrated = setting
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    for before, after in zip(calibrated(X), again(X), strict=True):
        for field in ("mean", "epistemic_variance", "noise_variance"):
            assert torch.equal(getattr(before, field), getattr(after, field))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_of_networks_are_served(dtype):
    net, train, val = problem(1)
    reference = calibrate(net, train, val, likelihood="regression")(X)[-1]
    answer = calibrate(net.to(dtype), train, val, likelihood="regression")(X.to(dtype))[-1]
    assert answer.mean.dtype == answer.variance.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(answer.std.float(), reference.std, rtol=0.1, atol=0)


@pytest.mark.parametrize("answer", [nn.Identity(), nn.Flatten(0)], ids=["column", "squeezed"])
def test_a_plain_model_of_one_number_is_calibrated_on_columns_and_vectors(answer):
    y = targets_of(X, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), answer)
    column = calibrate(model, [(X, y)], [(X, y)], likelihood="regression")
    vector = calibrate(model, [(X, y[:, 0])], [(X, y[:, 0])], likelihood="regression")
    assert torch.equal(column(X)[0].variance, vector(X)[0].variance)
    assert column(X)[0].mean.shape == (400, 1)


class TestBadInput:
    def fit(self, y, which="train", **options):
        net, loaders = builders.network(classes=2), {"train": targets_of(X, 2), "val": targets_of(X, 2)}
        loaders[which] = y
        batched = [builders.batched(X, targets, 32) for targets in loaders.values()]
        return calibrate(net, *batched, likelihood="regression", **options)

    @pytest.mark.parametrize("which", ["train", "val"])
    def test_a_target_that_is_not_finite_is_named_by_its_position(self, which):
        y = targets_of(X, 2).clone()
        y[70, 1] = float("nan")
        with pytest.raises(ValueError, match="expected finite targets, got NaN or infinity at position 70 "):
            self.fit(y, which)

    @pytest.mark.parametrize("which", ["train", "val"])
    @pytest.mark.parametrize("change", [lambda y: y[:, 0], lambda y: y[:, :1], lambda y: y > 0, lambda y: y + 1j])
    def test_targets_of_a_wrong_shape_or_kind_are_refused_with_both(self, change, which):
        with pytest.raises(ValueError, match=r"numbers of shape \(32, 2\) as targets, got torch.* from position 0"):
            self.fit(change(targets_of(X, 2)), which)

    def test_integers_are_numbers(self):
        y = (10 * targets_of(X, 2)).round()
        floats, integers = self.fit(y), self.fit(y.long())
        assert torch.equal(floats(X)[0].variance, integers(X)[0].variance)

    def test_an_output_whose_targets_never_vary_is_refused(self):
        y = targets_of(X, 2).clone()
        y[:, 1] = 7
        with pytest.raises(ValueError, match="targets that vary, got 7 for output 1 in all 400 examples"):
            self.fit(y)

    @pytest.mark.parametrize("structure", ["full", "diagonal", "lowrank"])
    def test_other_structures_are_refused_with_the_reason(self, structure):
        with pytest.raises(ValueError, match=rf"'kronecker' and prior 'exact' .* exactly this form, got {structure!r}"):
            self.fit(targets_of(X, 2), structure=structure)

    def test_the_factored_prior_is_refused(self):
        with pytest.raises(ValueError, match=r"prior 'exact' .* got 'auto' and 'factored'"):
            self.fit(targets_of(X, 2), prior="factored")


def test_updates_at_a_known_noise_take_its_precision_for_curvature():
    noise = torch.tensor([0.5, 2.0])
    curvature = regression.Likelihood(noise).curvature(torch.zeros(7, 2))
    torch.testing.assert_close(curvature.summed(), torch.diag(7 / noise.double()))


def test_the_prior_to_begin_with_is_that_of_weights_as_large_as_the_heads():
    weights = torch.tensor([[3.0, -1.0], [1.0, 1.0]])
    assert regression.Likelihood.prior_precision(weights) == pytest.approx(1 / 3)
    assert regression.Likelihood.prior_precision(1e-8 * weights) == pytest.approx(1e16 / 3)
    assert regression.Likelihood.prior_precision(0 * weights) == pytest.approx(1e30)
