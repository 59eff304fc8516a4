import numpy as np
import pytest
import torch

from suffice import calibrate
from suffice.calibration.choices import Choices
from suffice.calibration.exits import weights_with_bias
from suffice.calibration.tuning import evidence, ranges
from suffice.calibration.tuning.objective import Objective
from tests import builders

X = builders.inputs(200)


def network():
    return builders.network(scale=1.0)


def loader(size=32):
    return builders.batched(X, builders.sampled_labels(network()(X)[-1]), size)


def fit(net, val=None, **options):
    generator = torch.Generator().manual_seed(0)
    return calibrate(net, loader(), val, tuning="evidence", samples=8, generator=generator, **options)


@pytest.mark.parametrize("options", [{}, {"prior": "factored"}, {"structure": "full"}, {"structure": "diagonal"}])
@pytest.mark.parametrize("bias_precision", [1.0, 0.1])
def test_no_prior_precision_has_more_evidence(options, bias_precision):
    net = network().double()
    for k, exit_ in enumerate(fit(net, bias_precision=bias_precision, **options).exits):
        weights = weights_with_bias(net.exit(k).classifier, exit_.bias)

        def value(delta, posterior=exit_.posterior, weights=weights):
            return float(posterior.with_prior(delta).log_marginal_likelihood(weights))

        best = value(exit_.prior_precision)
        assert all(best >= value(delta) - 1e-6 for delta in np.geomspace(*ranges.PRIOR_PRECISION, 300))
        assert 1e-2 < exit_.prior_precision < 1e3


def test_the_bias_enters_with_its_own_precision():
    """The evidence of a bias b depends on δ‖W‖² + δβ b²."""
    classifier = network().exit(0).classifier
    constant = 0.25**-0.5
    weights = weights_with_bias(classifier, constant)
    expected = classifier.weight.square().sum() + 0.25 * classifier.bias.square().sum()
    torch.testing.assert_close(weights.square().sum(), expected)
    phi = torch.ones(1, classifier.in_features)
    with_constant = torch.cat([phi, torch.full((1, 1), constant)], dim=1)
    torch.testing.assert_close(with_constant @ weights.T, classifier(phi))


@pytest.mark.filterwarnings("ignore:the temperature of exits 0, 1 ended at the edge")
def test_it_needs_no_validation_set_and_then_leaves_the_temperature_alone():
    net = network()
    without, with_ = fit(net), fit(net, loader(20))
    assert [exit_.temperature for exit_ in without.exits] == [1.0] * 3
    assert all(exit_.temperature != 1 for exit_ in with_.exits)
    for a, b in zip(without.exits, with_.exits, strict=True):
        assert a.prior_precision == b.prior_precision
    assert without.costs == with_.costs
    assert [answer.probs.shape for answer in without(X)] == [(200, 4)] * 3


def test_a_validation_set_with_nothing_to_tune_is_not_read():
    class Untouchable:
        def __iter__(self):
            raise AssertionError("read")

    assert fit(network(), Untouchable(), temperature=False, ensemble=False).exits[0].temperature == 1
    bare = fit(network(), None, structure=None)
    assert bare.exits[0].prior_precision is None


def test_evidence_also_tunes_the_prior_of_the_plugin_link():
    assert fit(network(), link="plugin").exits[0].prior_precision == fit(network()).exits[0].prior_precision != 1


def test_a_plain_model_is_taken_as_it_is():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
    assert fit(model).exits[0].posterior.count == 200


def test_weights_of_nothing_end_at_the_edge_with_a_warning():
    net = builders.network(widths=(6,))
    for parameter in net.exit(0).classifier.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.warns(UserWarning, match=r"prior precision of exit 0 .* 100000; the posterior adds nothing") as seen:
        calibrate(net, loader(), None, tuning="evidence")
    assert seen[0].filename == __file__


@pytest.mark.parametrize("tuning", ["validation", "grid"])
def test_every_other_way_needs_a_validation_set(tuning):
    with pytest.raises(ValueError, match=f"expected a val_loader for tuning='{tuning}', got None"):
        calibrate(network(), loader(), None, tuning=tuning)


def test_exits_without_a_posterior_stay_as_they_are():
    exits = [type(fit(network()).exits[0])(temperature=1.3, bias=1.0)]
    objective = Objective(classifiers=[torch.ones(4, 7)])
    assert evidence.tune(exits, objective, Choices(tuning="evidence")) == (exits, [])
