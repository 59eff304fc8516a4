import math
from dataclasses import replace

import pytest
import torch

import suffice
from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.tuning import support, validation
from suffice.calibration.tuning.objective import Objective
from tests import builders
from tests.calibration.tuning.cached import setting


def true_chances(seed):
    return torch.randn(60, 3, generator=torch.Generator().manual_seed(100 + seed)).mul(2).softmax(1)


def categories(seed, rare):
    """A classifier of categories, of which many are rare in the training data or not, and data like those.

    The weights of a category that was not seen are as they were drawn, so the classifier is sure of what it does not
    know, and only the posterior tells which categories those are.
    """
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.arange(1, 61, dtype=torch.float64) ** (-1.0 if rare else 0.0)
    chosen = frequencies.multinomial(4_200, replacement=True, generator=generator)
    labels = true_chances(seed)[chosen].multinomial(1, generator=generator)[:, 0]
    x, count = torch.eye(60)[chosen], 200 if rare else 1_200
    parts = (0, count), (count, count + 1_500), (count + 1_500, count + 3_000)
    train, validation_, test = ((x[i:j], labels[i:j]) for i, j in parts)
    model = torch.nn.Linear(60, 3, bias=False)
    torch.nn.init.normal_(model.weight, std=4, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(train[0]), train[1]).backward()
        optimizer.step()
    return torch.nn.Sequential(torch.nn.Identity(), model), train, validation_, test


def nll(calibrated, test):
    return float(suffice.metrics.nll(calibrated(test[0])[-1].log_probs, test[1]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rare", [True, False])
def test_a_posterior_is_used_where_it_lowers_the_nll(rare, seed):
    net, train, val, test = categories(seed, rare)
    default, without, having = (
        suffice.calibrate(net, [train], [val], link=link, generator=torch.Generator().manual_seed(0))
        for link in ("auto", "plugin", "sampled")
    )
    gain = nll(without, test) - nll(having, test)
    assert default.exits[0].uses_posterior == rare
    assert gain > 0 if rare else gain < 0.02
    assert nll(default, test) == nll(having if rare else without, test)


@pytest.mark.filterwarnings("ignore:the prior precision of exit 0 ended at")
def test_an_exit_whose_posterior_only_adds_error_predicts_without_it_beside_one_that_needs_it():
    net, train, val, _ = categories(0, rare=True)
    truth = torch.nn.Linear(60, 3, bias=False)
    truth.weight.data = true_chances(seed=0).log().T.contiguous()
    exits = [suffice.Exit(torch.nn.Identity(), classifier) for classifier in (net[-1], truth)]
    network = suffice.ExitNetwork([torch.nn.Identity(), torch.nn.Identity()], exits)
    calibrated = suffice.calibrate(network, [train], [val], ensemble=False)
    assert [exit_.uses_posterior for exit_ in calibrated.exits] == [True, False]
    assert calibrated.exits[1].macs == 0


def test_without_overconfidence_beyond_a_temperature_the_posterior_is_left_out_and_costs_nothing():
    net, x = builders.network(), builders.inputs(3_000)
    with torch.no_grad():
        labels = builders.sampled_labels(net(x)[-1], 1.0)
    calibrated = suffice.calibrate(net, [(x, labels)], [(x, labels)])
    plugin = suffice.calibrate(net, [(x, labels)], [(x, labels)], link="plugin")
    assert not any(exit_.uses_posterior for exit_ in calibrated.exits)
    assert calibrated.costs == plugin.costs
    assert calibrated.digest == plugin.digest
    assert "no posterior" in repr(calibrated)
    assert len(calibrated.moments(x[:2])) == len(calibrated.exits)  # the posterior is still there
    alone = [member.epistemic for member in calibrated(x[:5])[-1].members]
    assert all(torch.equal(epistemic, torch.zeros(5)) for epistemic in alone)


@pytest.mark.parametrize("ensemble", [False, "average", "product"])
def test_the_gain_is_that_of_the_predictions_at_all_exits_against_its_error_and_the_fit(ensemble):
    exits, caches, labels, weights = setting()
    objective = Objective(caches, labels, weights if ensemble else None, ensemble == "product")
    choices = Choices(ensemble=ensemble)
    tuned, _ = validation.tune(exits, objective, choices)
    plain, _ = validation.tune([exit_.without_posterior() for exit_ in exits], objective, choices)
    nlls = [objective.nll(each, torch.arange(len(labels))) for each in (plain, tuned)]
    gains = nlls[0] - nlls[1]
    supported = gains.sum() > 2 * gains.std() * math.sqrt(len(gains)) + len(exits)
    chosen, values = support.tune(exits, objective, choices)
    assert [exit_.uses_posterior for exit_ in chosen] == [bool(supported)] * len(exits)
    assert any(value.name == "prior precision" for value in values) == bool(supported)


def test_of_two_posteriors_that_gain_the_same_one_is_kept(monkeypatch):
    class EitherSuffices(Objective):
        def nll(self, exits, rows):
            return torch.full((len(rows),), 0.0 if any(exit_.uses_posterior for exit_ in exits) else 1.0)

    monkeypatch.setattr(validation, "tune", lambda exits, *_: (list(exits), []))
    exits, caches, labels, weights = setting()
    chosen, _ = support.tune(exits, EitherSuffices(caches, labels, weights), Choices())
    assert [exit_.uses_posterior for exit_ in chosen] == [False] * (len(exits) - 1) + [True]


def test_one_validation_example_supports_no_posterior():
    exits, caches, labels, _ = setting(n=1)
    objective = Objective(caches, labels)
    chosen, _ = support.tune(exits, objective, Choices(ensemble=False))
    assert not any(exit_.uses_posterior for exit_ in chosen)


def test_exits_without_posteriors_are_tuned_as_they_are():
    exits, caches, labels, weights = setting()
    exits = [replace(exit_, posterior=None, link="plugin", normals=None, offsets=None) for exit_ in exits]
    objective = Objective(caches, labels, weights)
    assert support.tune(exits, objective, Choices()) == validation.tune(exits, objective, Choices())


@pytest.mark.filterwarnings("ignore:the (prior variance|temperature) of exit")
@pytest.mark.parametrize("tuning", ["evidence", "grid"])
def test_other_tunings_use_the_posterior(tuning):
    net, x = builders.network(), builders.inputs(60)
    with torch.no_grad():
        labels = builders.sampled_labels(net(x)[-1], 1.0)
    calibrated = suffice.calibrate(net, [(x, labels)], [(x, labels)], tuning=tuning)
    assert all(exit_.link == "sampled" for exit_ in calibrated.exits)


@pytest.mark.filterwarnings("ignore:the (prior variance|temperature) of exit")
def test_shares_of_cost_are_the_weights_where_they_are_not_tuned():
    net, x = builders.network(), builders.inputs(60)
    with torch.no_grad():
        labels = builders.sampled_labels(net(x)[-1], 1.0)
    grid = suffice.calibrate(net, [(x, labels)], [(x, labels)], tuning="grid")
    assert grid.weights == shares_of_cost(grid.costs)
    assert suffice.calibrate(net, [(x, labels)], [(x, labels)]).weights != grid.weights
