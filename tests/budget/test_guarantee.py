import itertools
import math
import warnings
from functools import cache

import pytest
import torch
from scipy.stats import binom

import suffice
from suffice import certified_policies, control_risk, run
from suffice.budget.certification import count_certified, examples_needed, losses_at_levels, p_values
from suffice.budget.policy import Promise
from suffice.budget.thresholds.families import STEEPEST, bracket, choose, geometric, rank
from tests import builders
from tests.robustness.surroundings import anywhere

LEVELS = torch.linspace(6, -3, 60, dtype=torch.float64)


def pool(size=20_000, exits=3, seed=0):
    """Return scores and losses of a population where early exits are correct less often, and overconfident."""
    generator = torch.Generator().manual_seed(seed)
    ease = 1.5 + 2 * torch.randn(size, generator=generator, dtype=torch.float64)
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    scores, rights, briers = [], [], []
    for k in range(exits):
        logit = ease + (exits - k) * 0.7 * torch.randn(size, generator=generator, dtype=torch.float64) + 0.4 * k
        scores.append(1.5 * logit)
        rights.append(uniform < logit.sigmoid())
        briers.append(2 * (rights[-1].double() - logit.sigmoid()).square())
    accuracy = [(rights[-1] & ~right).double() for right in rights]
    agreement = [(rights[-1] != right).double() for right in rights]
    return scores, {
        "accuracy": accuracy,
        "agreement": agreement,
        "brier": [(b - briers[-1]).clamp_min(0) for b in briers],
    }


SCORES, LOSSES = pool()
DRAWS = 1000


@cache
def population(loss):
    """Return the losses (examples, levels) of the whole pool, contiguous for each example as examples are sampled."""
    return losses_at_levels(SCORES, LOSSES[loss], LEVELS).T.contiguous()


def samples(losses, draws, n=1000):
    """Yield the losses (levels, n) of `draws` samples of n examples."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(draws):
        yield losses.index_select(0, torch.randint(len(losses), (n,), generator=generator)).T


def simulate(loss, max_loss, confidence, draws=DRAWS):
    """Return the population loss of the level chosen from each sample; 0 where none was chosen."""
    losses = population(loss)
    truth = torch.cat([torch.zeros(1, dtype=torch.float64), losses.mean(dim=0)])
    return truth[[count_certified(sample, max_loss, confidence, loss) for sample in samples(losses, draws)]]


@pytest.mark.parametrize("max_loss", [0.01, 0.03, 0.08])
@pytest.mark.parametrize("loss", ["accuracy", "agreement"])
def test_learn_then_test_fails_no_more_often_than_its_confidence_allows(loss, max_loss):
    broken = int((simulate(loss, max_loss, 0.9) > max_loss).sum())
    assert broken <= binom.ppf(0.999, DRAWS, 0.1)


@pytest.mark.parametrize("max_loss", [0.05, 0.1, 0.15])
def test_learn_then_test_on_the_brier_score_fails_no_more_often_than_its_confidence_allows(max_loss):
    true_losses = simulate("brier", max_loss, 0.9)
    assert int((true_losses > max_loss).sum()) <= binom.ppf(0.999, DRAWS, 0.1)
    assert float(true_losses.mean()) > max_loss / 4


@pytest.mark.parametrize("max_loss", [0.01, 0.03, 0.08])
@pytest.mark.parametrize("loss", ["accuracy", "brier", "agreement"])
def test_conformal_risk_control_holds_in_the_mean_over_draws(loss, max_loss):
    true_losses = simulate(loss, max_loss, None)
    error = float(true_losses.std()) / DRAWS**0.5
    assert float(true_losses.mean()) <= max_loss + 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("max_loss", [0.01, 0.03, 0.08])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_over_many_draws_learn_then_test_neither_fails_too_often_nor_is_too_conservative(max_loss, confidence):
    """Its mean loss is about the largest that the test of a single level accepts from 1,000 examples."""
    true_losses = simulate("accuracy", max_loss, confidence, draws=10_000)
    share = 1 - confidence
    assert int((true_losses > max_loss).sum()) <= binom.ppf(0.9999, 10_000, share)
    errors = max(e for e in range(1000) if binom.cdf(e, 1000, max_loss) <= share)
    assert float(true_losses.mean()) > 0.9 * errors / 1000


def test_choosing_the_most_permissive_level_that_looks_good_would_fail():
    """Without the hypothesis tests the simulation fails, so it is able to."""
    losses, broken = population("accuracy"), 0
    truth = losses.mean(dim=0)
    for sample in samples(losses, DRAWS):
        broken += float(truth[(sample.mean(dim=1) <= 0.03).nonzero().max()]) > 0.03
    assert broken > binom.ppf(0.999, DRAWS, 0.1)


def test_the_mean_budget_is_met_on_fresh_data():
    """Thresholds from 1,000 examples spend the budget on the whole population on average, to two standard errors."""
    costs, budget = torch.tensor([1.0, 2.5, 4.0], dtype=torch.float64), 2.0
    generator, spent = torch.Generator().manual_seed(2), []
    for _ in range(30):
        rows = torch.randint(len(SCORES[0]), (1000,), generator=generator)
        sample = [scores[rows] for scores in SCORES]
        family = geometric(rank(sample), 3)
        cheaper = bracket(family, lambda t, v=sample: float(costs[choose(v, t)].mean()), budget, (-STEEPEST, STEEPEST))[
            0
        ]
        spent.append(float(costs[choose(SCORES, cheaper)].mean()))
    mean, error = torch.tensor(spent).mean(), torch.tensor(spent).std() / 30**0.5
    assert abs(mean - budget) <= 2 * error
    assert error * 30**0.5 == pytest.approx(float(costs[choose(SCORES, cheaper)].std()) / 1000**0.5, rel=0.5)


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize("max_mean", [0.02, 0.3])
@pytest.mark.parametrize("binary", [True, False])
def test_p_values_are_super_uniform_for_the_worst_distribution_of_that_mean(n, max_mean, binary):
    """Enumerated: P(p ≤ u) ≤ u for all u when the n losses are Bernoulli(ε)."""
    counts = torch.arange(n + 1, dtype=torch.float64)
    values = p_values(counts / n, n, max_mean, binary)
    weights = torch.from_numpy(binom.pmf(counts.numpy(), n, max_mean))
    for u in values.tolist():
        assert float(weights[values <= u].sum()) <= u * (1 + 1e-9)


def test_p_values_of_other_losses_hold_too():
    """Uniform losses on [0, 2ε] of mean ε, by simulation."""
    generator = torch.Generator().manual_seed(0)
    means = (0.4 * torch.rand(4000, 50, generator=generator, dtype=torch.float64)).mean(dim=1)
    values = p_values(means, 50, 0.2, binary=False)
    for u in (0.01, 0.1, 0.5):
        assert float((values <= u).double().mean()) <= u + 3 * math.sqrt(u * (1 - u) / 4000)


def test_the_sequence_stops_at_the_first_failure():
    """A later level that would pass is not used: only then is no correction for multiple tests needed."""
    losses = torch.zeros(4, 1000)
    losses[2, :100] = 1
    assert count_certified(losses, 0.05, 0.95, "accuracy") == 2
    assert count_certified(losses, 0.05, None, "accuracy") == 2
    losses[2, :100] = 0
    assert count_certified(losses, 0.05, 0.95, "accuracy") == count_certified(losses, 0.05, None, "accuracy") == 4


def test_conformal_losses_are_made_monotone_example_by_example():
    """Two levels with 3 % each but on different examples lose 6 % once monotone."""
    losses = torch.zeros(2, 1000)
    losses[0, :30] = 1
    losses[1, 30:60] = 1
    assert count_certified(losses, 0.05, None, "accuracy") == 1
    assert count_certified(losses, 0.07, None, "accuracy") == 2
    assert count_certified(losses, 0.05, 0.9, "accuracy") == 2


@pytest.mark.parametrize("greatest", [("accuracy", 1.0), ("brier", 2.0), ("agreement", 1.0)])
@pytest.mark.parametrize("max_loss", [0.01, 0.2])
@pytest.mark.parametrize("confidence", [None, 0.5, 0.95])
def test_the_number_of_examples_needed_is_the_least_that_lets_a_loss_of_nothing_pass(greatest, max_loss, confidence):
    loss, bound = greatest
    enough = examples_needed(max_loss, confidence, bound)
    assert count_certified(torch.zeros(1, enough), max_loss, confidence, loss) == 1
    assert enough == 1 or count_certified(torch.zeros(1, enough - 1), max_loss, confidence, loss) == 0


class TestControlRisk:
    NET = builders.network(scale=3.0)
    X = builders.inputs(1500)

    def calibrated(self):
        return builders.untuned(self.NET, self.X[:200])

    def labels(self):
        return builders.sampled_labels(self.NET(self.X)[-1])

    @pytest.mark.parametrize("confidence", [None, 0.9])
    @pytest.mark.parametrize("loss", ["accuracy", "brier"])
    @pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "epistemic", "patience"])
    def test_the_policy_loses_no_more_than_its_bound_on_the_validation_data_and_stops_some(
        self, score, loss, confidence
    ):
        calibrated, y = self.calibrated(), self.labels()
        policy = control_risk(calibrated, builders.batched(self.X, y, 200), 0.2, confidence, loss, score)
        answer, last = run(calibrated, policy, self.X), calibrated(self.X)[-1]
        if loss == "accuracy":
            lost = ((last.label == y) & (answer.label != y)).double()
        else:
            target = torch.nn.functional.one_hot(y, 4)
            worse = (answer.probs - target).square().sum(dim=1) - (last.probs - target).square().sum(dim=1)
            lost = worse.clamp_min(0)
        assert float(lost.mean()) <= 0.2
        assert (policy.promise.loss, policy.promise.max_loss, policy.promise.confidence) == (loss, 0.2, confidence)
        assert policy.expected == pytest.approx(float(answer.macs.double().mean()), rel=1e-3)
        if score in ("confidence", "margin"):
            assert policy.shares[0] > 0.05

    @pytest.mark.parametrize("confidence", [None, 0.9])
    @pytest.mark.parametrize("score", ["confidence", "entropy", "patience"])
    def test_agreement_with_the_last_exit_is_bounded_without_labels(self, score, confidence):
        calibrated = self.calibrated()
        policy = control_risk(calibrated, builders.batched(self.X, size=200), 0.2, confidence, "agreement", score)
        answer, last = run(calibrated, policy, self.X), calibrated(self.X)[-1]
        differs = (answer.label != last.label).double()
        assert 0 < float(differs.mean()) <= 0.2
        assert policy.promise == Promise("agreement", 0.2, confidence)

    def test_agreement_ignores_labels_and_is_stricter_than_accuracy(self):
        calibrated, y = self.calibrated(), self.labels()
        unlabeled, right, wrong = (
            control_risk(calibrated, loader, 0.1, loss="agreement")
            for loader in ([self.X], [(self.X, y)], [(self.X, torch.full_like(y, -100))])
        )
        assert torch.equal(unlabeled.thresholds, right.thresholds)
        assert torch.equal(unlabeled.thresholds, wrong.thresholds)
        assert control_risk(calibrated, [(self.X, y)], 0.1).expected <= unlabeled.expected

    def test_agreement_warns_as_accuracy_does_if_there_are_too_few_examples(self):
        with pytest.warns(UserWarning, match=r"a loss of at most 0.01 in agreement from 100 examples, .* 299 examples"):
            control_risk(self.calibrated(), [self.X[:100]], 0.01, loss="agreement")

    def test_a_larger_loss_allowed_stops_no_fewer(self):
        calibrated, loader = self.calibrated(), builders.batched(self.X, self.labels(), 200)
        costs = [control_risk(calibrated, loader, max_loss).expected for max_loss in (0.02, 0.1, 0.3)]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > costs[-1]

    def test_too_few_examples_are_a_warning_and_none_stops_early(self):
        calibrated = self.calibrated()
        loader = builders.batched(self.X[:100], self.labels()[:100])
        with pytest.warns(
            UserWarning,
            match="a loss of at most 0.01 in accuracy from 100 examples, .* at least 299 examples are needed",
        ) as caught:
            policy = control_risk(calibrated, loader, 0.01)
        assert caught[0].filename == __file__
        assert (policy.thresholds == math.inf).all()
        assert policy.shares.tolist() == [0, 0, 1]

    def test_certified_policies_begin_with_that_of_control_risk_and_end_with_the_last_exit(self):
        calibrated, loader = self.calibrated(), builders.batched(self.X, self.labels(), 200)
        policies = certified_policies(calibrated, loader, 0.2, loss="agreement", count=4)
        first = control_risk(calibrated, loader, 0.2, loss="agreement")
        assert torch.equal(policies[0].thresholds, first.thresholds)
        assert policies[0].expected == first.expected
        costs = [policy.expected for policy in policies]
        assert len(costs) == 4
        assert costs == sorted(set(costs))
        assert policies[-1].shares.tolist() == [0, 0, 1]
        last = calibrated(self.X)[-1]
        for policy in policies:
            answer = run(calibrated, policy, self.X)
            assert policy.promise == first.promise
            assert float((answer.label != last.label).double().mean()) <= 0.2
            assert policy.expected == pytest.approx(float(answer.macs.double().mean()), rel=1e-3)

    def test_a_single_certified_policy_is_left_where_no_level_is_certified(self):
        loader = builders.batched(self.X[:100], self.labels()[:100])
        with pytest.warns(UserWarning, match="no example stops early") as caught:
            policies = certified_policies(self.calibrated(), loader, 0.01)
        assert caught[0].filename == __file__
        assert [policy.shares.tolist() for policy in policies] == [[0, 0, 1]]

    @pytest.mark.parametrize(("count", "error"), [(1, ValueError), (2.5, TypeError)])
    def test_a_count_of_policies_out_of_range_is_refused(self, count, error):
        with pytest.raises(error, match=r"expected (a )?count"):
            certified_policies(self.calibrated(), [self.X], loss="agreement", count=count)

    def test_a_network_that_is_not_calibrated_is_refused(self):
        with pytest.raises(TypeError, match="expected a calibrated network, got ExitNetwork"):
            control_risk(builders.network(), [])

    def test_a_function_needs_levels(self):
        calibrated, loader = self.calibrated(), builders.batched(self.X, self.labels(), 200)

        def score(prediction, state):
            return prediction.confidence

        with pytest.raises(ValueError, match="pass levels, chosen without val_loader"):
            control_risk(calibrated, loader, score=score)
        policy = control_risk(calibrated, loader, 0.2, score=score, levels=[0.99, 0.9, 0.8])
        assert policy.thresholds.unique().tolist()[0] in (0.99, 0.9, 0.8)

    @pytest.mark.parametrize("levels", [[1.0, 2.0], [1.0, 1.0], [], [[2.0, 1.0]]])
    def test_levels_that_do_not_fall_are_refused(self, levels):
        with pytest.raises(ValueError, match="levels that fall"):
            control_risk(self.calibrated(), [], levels=levels)

    @pytest.mark.parametrize(
        "choices", [{"max_loss": 0.0}, {"max_loss": 1.0}, {"confidence": 1.0}, {"confidence": 0.0}, {"loss": "nll"}]
    )
    def test_choices_out_of_range_are_refused_before_data_are_read(self, choices):
        (value,) = choices.values()
        with pytest.raises(ValueError, match=f"got {value!r}"):
            control_risk(self.calibrated(), [], **choices)


def test_losses_along_the_levels_are_those_of_one_threshold_for_all_exits():
    losses = losses_at_levels(SCORES, LOSSES["accuracy"], LEVELS[::20])
    for row, level in itertools.islice(zip(losses, LEVELS[::20], strict=True), 3):
        exits = [next((k for k in range(2) if float(SCORES[k][n]) >= float(level)), 2) for n in range(200)]
        assert row[:200].tolist() == [float(LOSSES["accuracy"][k][n]) for n, k in enumerate(exits)]


@pytest.fixture(scope="module")
def regression():
    net, x = builders.network(classes=2), builders.inputs(60)
    loader = builders.batched(x, torch.randn(60, 2, generator=torch.Generator().manual_seed(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return suffice.calibrate(net, loader, loader, likelihood="regression"), loader


@pytest.mark.parametrize("loss", ["accuracy", "brier", "agreement"])
def test_a_regression_has_no_loss_to_bound(regression, loss):
    with pytest.raises(ValueError, match="expected classes, where a prediction is right or wrong, got a regression"):
        suffice.control_risk(*regression, loss=loss)


def test_the_optimal_method_is_refused_for_a_regression(regression):
    with pytest.raises(ValueError, match="pass method='geometric'"):
        suffice.allocate(*regression, 0.7, score="variance", method="optimal")
    policy = suffice.allocate(*regression, 0.7, score="variance")
    assert suffice.run(regression[0], policy, builders.inputs(60)).mean.shape == (60, 2)


def test_a_product_of_gaussians_is_refused():
    with pytest.raises(ValueError, match="expected ensemble 'average' or False with likelihood 'regression'"):
        suffice.calibrate(builders.network(), [], [], likelihood="regression", ensemble="product")


def test_the_loss_of_a_binary_network_can_be_bounded():
    net, x = builders.network(classes=1), builders.inputs(400)
    with torch.no_grad():
        labels = (net(x)[-1][:, 0] > 0).long()
    loader = builders.batched(x, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated = suffice.calibrate(net, loader, loader, likelihood="binary")
    policy = suffice.control_risk(calibrated, loader, max_loss=0.2)
    answer = suffice.run(calibrated, policy, x)
    right = [(prediction.label == labels).double().mean() for prediction in (answer, calibrated(x)[-1])]
    assert right[0] >= right[1] - 0.2
    assert (answer.exit == 0).any()
    alike = suffice.run(calibrated, suffice.control_risk(calibrated, [x], max_loss=0.2, loss="agreement"), x)
    assert float((alike.label != calibrated(x)[-1].label).double().mean()) <= 0.2
    assert (alike.exit == 0).any()


@anywhere
def test_the_ambient_modes_change_nothing(surrounding):
    x = builders.inputs(300)
    calibrated, loader = builders.untuned(builders.network(), x), builders.batched(x, torch.arange(300) % 4)
    expected = control_risk(calibrated, loader, 0.4)
    with surrounding():
        policy = control_risk(calibrated, loader, 0.4)
    assert torch.equal(policy.thresholds, expected.thresholds)
    assert policy.expected == expected.expected
    assert not policy.thresholds.is_inference()


def label_losses(size=20_000, exits=3, labels=8, seed=0):
    """Scores and relative losses of a population with several labels, whose later exits are wrong less often."""
    generator = torch.Generator().manual_seed(seed)
    ease = 1 + torch.randn(size, 1, generator=generator, dtype=torch.float64)
    uniform = torch.rand(size, labels, generator=generator, dtype=torch.float64)
    scores, wrong = [], []
    for k in range(exits):
        logit = ease + 0.4 * k + (exits - k) * 0.5 * torch.randn(size, 1, generator=generator, dtype=torch.float64)
        scores.append(2 * logit[:, 0])
        wrong.append((uniform > logit.sigmoid()).double().mean(dim=1))
    return scores, [(each - wrong[-1]).clamp_min(0) for each in wrong]


@pytest.mark.parametrize("confidence", [0.9, None])
def test_a_share_of_wrong_labels_is_bounded_as_often_as_promised(confidence):
    """The share lies between 0 and 1, where the exact test of errors that are 0 or 1 would not apply."""
    scores, losses = label_losses()
    table, max_loss = losses_at_levels(scores, losses, LEVELS).T.contiguous(), 0.03
    truth = torch.cat([torch.zeros(1, dtype=torch.float64), table.mean(dim=0)])
    chosen = [count_certified(s, max_loss, confidence, "accuracy", num_labels=8) for s in samples(table, DRAWS)]
    true_losses = truth[chosen]
    if confidence is None:
        assert float(true_losses.mean()) <= max_loss + 3 * float(true_losses.std()) / DRAWS**0.5
    else:
        assert int((true_losses > max_loss).sum()) <= binom.ppf(0.999, DRAWS, 1 - confidence)
    assert float(true_losses.mean()) > max_loss / 4


def test_the_p_values_of_shares_are_those_of_bounded_losses():
    losses = torch.full((1, 200), 0.02, dtype=torch.float64)
    certified = {n: count_certified(losses, 0.03, 0.6, "accuracy", num_labels=n) for n in (1, 50)}
    means = losses.mean(dim=1)
    assert certified[1] == int(p_values(means, 200, 0.03, binary=True) <= 0.4)
    assert certified[50] == int(p_values(means, 200, 0.03, binary=False) <= 0.4)


@pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "patience"])
@pytest.mark.parametrize("loss", ["accuracy", "brier"])
def test_the_loss_of_several_labels_can_be_bounded(score, loss):
    net, x = builders.network(classes=5), builders.inputs(400)
    with torch.no_grad():
        y = torch.bernoulli(net(x)[-1].sigmoid(), generator=torch.Generator().manual_seed(0))
    loader = builders.batched(x, y)
    calibrated = suffice.calibrate(net, loader, loader, likelihood="multilabel", structure=None, temperature=False)
    policy = suffice.control_risk(calibrated, loader, 0.3, 0.9, loss=loss, score=score)
    answer, last = suffice.run(calibrated, policy, x), calibrated(x)[-1]
    worse = answer.prediction.losses(y.long(), loss) - last.losses(y.long(), loss)
    assert float(worse.clamp_min(0).mean()) <= 0.3
    assert (answer.exit < 2).any()
