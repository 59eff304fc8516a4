import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice import allocate
from suffice.budget import policy as policies
from suffice.budget.policy import choose, geometric_shares, solve, thresholds_for
from tests import builders


def random_scores(n, exits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(exits, n, generator=generator, dtype=torch.float64))


def naive_choice(values, thresholds):
    taken = []
    for n in range(len(values[0])):
        k = 0
        while k < len(thresholds) and not float(values[k][n]) >= float(thresholds[k]):
            k += 1
        taken.append(k)
    return taken


def naive_shares_taken(values, shares):
    """How many stop at each exit if there are no ties: sort those still there, take the surest."""
    here, counts, aim = list(range(len(values[0]))), [], 0.0
    for k in range(len(shares) - 1):
        aim += float(shares[k])
        wanted = max(0, round(aim * len(values[0])) - sum(counts))
        here = sorted(here, key=lambda n: -float(values[k][n]))
        counts.append(min(wanted, len(here)))
        here = here[wanted:]
    return [*counts, len(here)]


scores_strategy = st.integers(1, 4).flatmap(
    lambda exits: st.lists(
        st.tuples(*[st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])] * exits), min_size=1, max_size=40
    )
)


def columns(rows):
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]


@settings(deadline=None)
@given(data=st.data(), rows=scores_strategy)
def test_choosing_agrees_with_a_loop_over_examples(data, rows):
    values = columns(rows)
    edges = st.sampled_from([-math.inf, math.inf, -1.0, 0.0, 0.7, 1.0])
    thresholds = torch.tensor(
        data.draw(st.lists(edges, min_size=len(values) - 1, max_size=len(values) - 1)), dtype=torch.float64
    )
    assert choose(values, thresholds).tolist() == naive_choice(values, thresholds)
    assert choose(values[:-1] or values, thresholds).tolist() == naive_choice(values, thresholds)


@settings(deadline=None)
@given(n=st.integers(1, 60), exits=st.integers(1, 5), log_q=st.floats(-3, 3), seed=st.integers(0, 99))
def test_thresholds_give_every_exit_its_share_of_the_surest_still_there(n, exits, log_q, seed):
    values, shares = random_scores(n, exits, seed), geometric_shares(log_q, exits)
    taken = choose(values, thresholds_for(values, shares))
    assert torch.bincount(taken, minlength=exits).tolist() == naive_shares_taken(values, shares)


@settings(deadline=None)
@given(rows=scores_strategy, log_q=st.floats(-3, 3))
def test_ties_stop_or_go_on_together_and_no_threshold_lies_on_a_score(rows, log_q):
    values = columns(rows)
    thresholds = thresholds_for(values, geometric_shares(log_q, len(values)))
    taken, here = choose(values, thresholds), torch.ones(len(rows), dtype=torch.bool)
    for k, threshold in enumerate(thresholds.tolist()):
        assert threshold not in values[k][here].tolist()
        here &= taken != k


@settings(deadline=None)
@given(rows=scores_strategy, log_q=st.floats(-3, 3))
def test_with_ties_the_first_share_is_as_near_as_the_ties_allow(rows, log_q):
    values = columns(rows)
    shares = geometric_shares(log_q, len(values))
    if len(values) == 1:
        return
    stopped = int((choose(values, thresholds_for(values, shares)) == 0).sum())
    wanted = round(float(shares[0]) * len(rows))
    possible = {0} | {int((values[0] >= score).sum()) for score in values[0]}
    assert abs(stopped - wanted) == min(abs(count - wanted) for count in possible)


def test_heavy_ties_do_not_disable_an_exit():
    """Asked for a quarter each; 60 % tie at the top of the first exit. What it cannot take the next does."""
    n = 1000
    values = random_scores(n, 4)
    values[0][:600] = 50.0
    thresholds = thresholds_for(values, torch.full((4,), 0.25, dtype=torch.float64))
    counts = torch.bincount(choose(values, thresholds), minlength=4)
    assert counts.tolist() == [0, 500, 250, 250]
    values[0][:400] = 60.0
    thresholds = thresholds_for(values, torch.full((4,), 0.25, dtype=torch.float64))
    counts = torch.bincount(choose(values, thresholds), minlength=4)
    assert counts.tolist() == [400, 100, 250, 250]


def test_neighbouring_numbers_are_told_apart():
    one = torch.tensor(1.0, dtype=torch.float64)
    above = torch.nextafter(one, 2 * one)
    for low, high in ((one, above), (above, torch.nextafter(above, 2 * one))):
        values = [torch.stack([low, high])]
        thresholds = thresholds_for(values, torch.tensor([0.5, 0.5], dtype=torch.float64))
        assert choose(values, thresholds).tolist() == [1, 0]


def test_extreme_scores_do_not_overflow_a_threshold():
    extreme = torch.finfo(torch.float64).max
    values = [torch.tensor([extreme, extreme / 2, -extreme], dtype=torch.float64)]
    for share, expected in ((1 / 3, [0, 1, 1]), (2 / 3, [0, 0, 1])):
        thresholds = thresholds_for(values, torch.tensor([share, 1 - share], dtype=torch.float64))
        assert choose(values, thresholds).tolist() == expected


@pytest.mark.parametrize("exits", [1, 2, 5])
@pytest.mark.parametrize("q", [0.05, 1.0, 1.95])
def test_geometric_shares_are_proportional_to_powers_of_q(exits, q):
    shares = geometric_shares(math.log(q), exits)
    powers = torch.tensor([q**k for k in range(1, exits + 1)], dtype=torch.float64)
    torch.testing.assert_close(shares, powers / powers.sum())


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), a=st.floats(-5, 5), b=st.floats(-5, 5))
def test_the_mean_cost_grows_with_q(seed, a, b):
    values, price = random_scores(80, 4, seed), torch.tensor([10.0, 25, 30, 100])

    def cost(log_q):
        return float(price[choose(values, thresholds_for(values, geometric_shares(log_q, 4)))].mean())

    assert cost(min(a, b)) <= cost(max(a, b))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 400), exits=st.integers(1, 5), where=st.floats(0, 1), seed=st.integers(0, 100))
def test_the_mean_cost_meets_any_budget_to_one_examples_worth(n, exits, where, seed):
    costs = [100, 230, 270, 600, 1000][:exits]
    budget = costs[0] + where * (costs[-1] - costs[0])
    values = random_scores(n, exits, seed)
    taken = choose(values, solve(values, costs, budget))
    mean = float(torch.tensor(costs).double()[taken].mean())
    assert abs(mean - budget) <= max((costs[-1] - costs[0]) / n, 0.005 * budget)


class TestAllocate:
    NET = builders.network()
    X = builders.inputs(400)

    def calibrated(self, **options):
        return builders.untuned(self.NET, self.X, **options)

    @pytest.mark.parametrize("budget", [0.4, 0.5, 0.75, 0.9])
    @pytest.mark.parametrize("score", ["confidence", "margin", "entropy", "aleatoric", "epistemic"])
    def test_the_budget_is_met_on_validation_data_and_reported(self, score, budget):
        calibrated = self.calibrated()
        policy = allocate(calibrated, builders.batched(self.X), budget, score=score)
        costs = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
        assert policy.budget == pytest.approx(budget * float(costs[-1]))
        assert policy.expected == pytest.approx(policy.budget, rel=0.005)
        assert float(policy.shares @ costs) == pytest.approx(policy.expected)
        assert float(policy.shares.sum()) == pytest.approx(1)
        assert policy.made_for == calibrated.digest
        assert policy.score == score

    def test_the_expected_cost_is_what_the_thresholds_cost_on_the_same_data(self):
        calibrated = self.calibrated()
        policy = allocate(calibrated, builders.batched(self.X), 0.6)
        from suffice.budget import scores

        values = [scores.confidence(answer).double() for answer in calibrated(self.X)]
        taken = naive_choice(values, policy.thresholds)
        costs = calibrated.costs.cumulative
        mean = sum(costs[k] for k in taken) / len(taken)
        assert mean == pytest.approx(policy.expected, rel=0.003)

    def test_a_fraction_is_relative_to_the_last_exit_with_its_uncertainty(self):
        calibrated = self.calibrated()
        total = calibrated.costs.cumulative[-1]
        assert total > calibrated.costs.network[-1]
        by_fraction = allocate(calibrated, builders.batched(self.X), 0.5)
        by_macs = allocate(calibrated, builders.batched(self.X), total / 2, unit="macs")
        assert by_fraction.budget == by_macs.budget == total / 2
        assert torch.equal(by_fraction.thresholds, by_macs.thresholds)

    def test_a_budget_of_exactly_the_first_or_the_last_exit_is_met_exactly(self):
        calibrated = self.calibrated()
        costs = calibrated.costs.cumulative
        first = allocate(calibrated, builders.batched(self.X), costs[0], unit="macs")
        assert (first.expected, first.shares.tolist()) == (costs[0], [1, 0, 0])
        assert first.thresholds[0] == -math.inf
        last = allocate(calibrated, builders.batched(self.X), costs[-1], unit="macs")
        assert (last.expected, last.shares.tolist()) == (costs[-1], [0, 0, 1])
        assert (last.thresholds == math.inf).all()
        assert allocate(calibrated, builders.batched(self.X), 1.0).expected == costs[-1]
        by_fraction = allocate(calibrated, builders.batched(self.X), costs[0] / costs[-1])
        assert by_fraction.expected == costs[0]

    @pytest.mark.parametrize("factor", [0.999, 0.0, -1.0, math.nan])
    def test_a_budget_below_the_first_exit_is_refused_with_the_range(self, factor):
        calibrated = self.calibrated()
        first, *_, last = calibrated.costs.cumulative
        message = rf"between {first:.4g} \(all stop at the first exit\) and {last:.4g} .* in multiply-adds, got"
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            allocate(calibrated, builders.batched(self.X), first * factor, unit="macs")

    @pytest.mark.parametrize("budget", [1.001, 50, math.inf])
    def test_a_budget_above_the_last_exit_is_refused_with_the_range(self, budget):
        with pytest.raises(ValueError, match=r"and 1 \(none stops early\), in fractions of the last exit, got"):
            allocate(self.calibrated(), builders.batched(self.X), budget)

    def test_an_unknown_unit_or_score_is_refused_before_data_are_read(self):
        with pytest.raises(ValueError, match="expected unit to be 'fraction' or 'macs', got 'euro'"):
            allocate(self.calibrated(), [], 0.5, unit="euro")
        with pytest.raises(ValueError, match="got 'luck'"):
            allocate(self.calibrated(), [], 0.5, score="luck")

    def test_an_empty_loader_is_refused(self):
        with pytest.raises(ValueError, match="empty loader"):
            allocate(self.calibrated(), [], 0.5)

    def test_labels_are_not_needed_and_batches_do_not_matter(self):
        calibrated = self.calibrated()
        labels = torch.zeros(400, dtype=torch.long)
        one = allocate(calibrated, builders.batched(self.X, labels, 400), 0.5)
        many = allocate(calibrated, builders.batched(self.X, size=7), 0.5)
        torch.testing.assert_close(one.thresholds, many.thresholds, atol=1e-4, rtol=1e-4)

    def test_scores_that_all_tie_are_a_warning_and_the_nearest_exit(self):
        def constant(prediction, state):
            return torch.zeros(len(prediction))

        calibrated = self.calibrated()
        with pytest.warns(UserWarning, match="asked for .* the nearest on the validation data is") as seen:
            policy = allocate(calibrated, builders.batched(self.X), 0.6, score=constant)
        assert seen[0].filename == __file__
        assert policy.shares.max() == 1
        costs = calibrated.costs.cumulative
        nearest = min(costs, key=lambda cost: abs(cost - 0.6 * costs[-1]))
        assert policy.expected == nearest

    def test_a_score_that_is_not_a_number_is_an_error(self):
        with pytest.raises(ValueError, match="got NaN"):
            allocate(self.calibrated(), [self.X], 0.5, score=lambda p, s: torch.full((len(p),), torch.nan))

    def test_infinite_scores_of_a_function_are_allowed(self):
        def sure_or_not(prediction, state):
            return torch.where(prediction.confidence > 0.6, torch.inf, -torch.inf)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            policy = allocate(self.calibrated(), [self.X], 0.6, score=sure_or_not)
        assert not policy.thresholds.isnan().any()

    def test_a_network_of_one_exit_has_a_policy_without_thresholds(self):
        calibrated = builders.untuned(builders.network(widths=(6,)), self.X)
        policy = allocate(calibrated, [self.X], 1.0)
        assert policy.thresholds.shape == (0,)
        assert policy.shares.tolist() == [1.0]
        assert policy.expected == calibrated.costs.cumulative[0]

    def test_one_validation_example_is_enough(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            policy = allocate(self.calibrated(), [self.X[:1]], 0.5)
        assert policy.shares.sum() == 1

    def test_gradients_are_not_recorded(self):
        assert not allocate(self.calibrated(), [self.X], 0.5).thresholds.requires_grad

    def test_the_range_of_q_reaches_both_ends(self):
        for exits in (2, 10):
            first = geometric_shares(-policies._STEEPEST, exits)
            assert float(first[0]) * 1e9 > 1e9 - 0.5
            assert torch.equal(first.flip(0), geometric_shares(policies._STEEPEST, exits))
