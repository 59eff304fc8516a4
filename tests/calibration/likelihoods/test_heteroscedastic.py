import pytest
import torch
from torch import nn

import suffice
from suffice import calibrate, evaluation
from suffice.calibration.exits import with_bias
from suffice.calibration.posterior import full, kronecker
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")

X = builders.inputs(400)


def targets_of(x, means, seed=0):
    """Targets whose scatter depends on x."""
    scatter = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(seed)) * (x[:, :1] / 2).exp() * 0.4
    return (torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1) + scatter)[:, :means]


def gaussian_loss(outputs, y):
    mean, log_variance = outputs.chunk(2, dim=1)
    return ((y - mean).square() * (-log_variance).exp() + log_variance).mean()


def problem(means):
    y = targets_of(X, means)
    net = builders.network((8, 12, 12), classes=2 * means, scale=0.1)
    net = builders.trained(net, X[:200], lambda outputs: gaussian_loss(outputs, y[:200]))
    return net, builders.batched(X[:200], y[:200]), builders.batched(X[200:], y[200:])


@pytest.fixture(scope="module", params=[1, 2])
def setting(request):
    net, train, val = problem(request.param)
    return net, train, val, calibrate(net, train, val, likelihood="heteroscedastic")


def test_outputs_are_means_and_then_log_variances(setting):
    net, train, val, _ = setting
    vanilla = calibrate(
        net, train, val, likelihood="heteroscedastic", structure=None, temperature=False, ensemble=False
    )
    for answer, outputs in zip(vanilla(X), net(X), strict=True):
        mean, log_variance = outputs.detach().chunk(2, dim=1)
        assert torch.equal(answer.mean, mean)
        torch.testing.assert_close(answer.noise_variance, log_variance.exp())
        assert (answer.epistemic_variance == 0).all()


def test_one_mean_has_the_full_posterior_and_several_have_a_kronecker_one(setting):
    net, *_, calibrated = setting
    expected = full.Posterior if net.num_classes == 2 else kronecker.Posterior
    assert all(isinstance(exit_.posterior, expected) for exit_ in calibrated.exits)


@pytest.mark.parametrize("means", [1, 2])
def test_the_posterior_over_the_means_is_that_of_weighted_least_squares(means):
    net, train, val = problem(means)
    options = {"likelihood": "heteroscedastic", "structure": "full", "ensemble": False}
    calibrated = calibrate(net.double(), train, val, **options)
    exit_ = calibrated.exits[0]
    with torch.no_grad():
        phi = with_bias(net.stages[0](X.double()), 1.0)
        log_variance = net(X.double())[0][:, means:]
    answer = calibrated(X.double())[0]
    for m in range(means):
        weights = (-log_variance[:200, m : m + 1]).exp()
        precision = (phi[:200] * weights).T @ phi[:200] + exit_.prior_precision * torch.eye(9, dtype=torch.float64)
        expected = exit_.temperature**2 * (phi @ torch.linalg.inv(precision) * phi).sum(dim=1)
        torch.testing.assert_close(answer.epistemic_variance[:, m], expected)
        torch.testing.assert_close(answer.noise_variance[:, m], exit_.temperature**2 * log_variance[:, m].exp())


def test_tuning_improves_the_predicted_variances(setting):
    net, train, val, calibrated = setting
    options = {"structure": None, "temperature": False, "ensemble": False}
    plain = calibrate(net, train, val, likelihood="heteroscedastic", **options)
    rows = (evaluation.per_exit(evaluation.predict(each, val)) for each in (calibrated, plain))
    for tuned, naive in zip(*rows, strict=True):
        assert tuned["nll"] < naive["nll"]
        assert abs(tuned["coverage_95"] - 0.95) < 0.04


def test_noise_follows_the_input(setting):
    *_, calibrated = setting
    noise = calibrated(X)[-1].noise_variance[:, 0].log()
    assert float(torch.corrcoef(torch.stack([noise, X[:, 0]]))[0, 1]) > 0.5


@pytest.mark.parametrize(
    "structure", ["kronecker", "full", "diagonal", None, pytest.param("lowrank", marks=pytest.mark.slow)]
)
def test_every_structure_runs_and_survives_saving(setting, structure, tmp_path):
    net, train, val, _ = setting
    calibrated = calibrate(net, train, val, likelihood="heteroscedastic", structure=structure)
    policy = suffice.allocate(calibrated, val, 0.8, score="variance")
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    before, after = (suffice.run(each, policy, X) for each in (calibrated, again))
    assert torch.equal(before.exit, after.exit)
    assert torch.equal(before.variance, after.variance)


def test_a_plain_model_is_calibrated():
    y = targets_of(X, 1)[:, 0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    (answer,) = calibrate(model, [(X, y)], [(X, y)], likelihood="heteroscedastic")(X)
    assert answer.mean.shape == answer.variance.shape == (400, 1)


def test_an_odd_number_of_outputs_is_refused_with_the_remedy():
    expected = "even number of outputs, M means and then M log-variances, .* with 3; pass likelihood='regression'"
    with pytest.raises(ValueError, match=expected):
        calibrate(builders.network(classes=3), [(X, X)], [], likelihood="heteroscedastic")


def test_targets_for_the_log_variances_as_well_are_refused():
    net, train, val = problem(1)
    with pytest.raises(ValueError, match=r"numbers of shape \(16, 1\) or \(16,\) as targets, got .* \(16, 2\)"):
        calibrate(net, train, [(x, y.repeat(1, 2)) for x, y in val], likelihood="heteroscedastic")
