import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.budget.thresholds.families import (
    STEEPEST,
    bracket,
    choose,
    geometric,
    geometric_shares,
    rank,
    shares_of,
    thresholds_for,
)


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
    """Count how many stop at each exit if there are no ties: sort the remaining examples, take the highest scores."""
    remaining, counts, aim = list(range(len(values[0]))), [], 0.0
    for k in range(len(shares) - 1):
        aim += float(shares[k])
        target = max(0, round(aim * len(values[0])) - sum(counts))
        remaining = sorted(remaining, key=lambda n: -float(values[k][n]))
        counts.append(min(target, len(remaining)))
        remaining = remaining[target:]
    return [*counts, len(remaining)]


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
def test_every_exit_stops_its_share_of_the_highest_remaining_scores(n, exits, log_q, seed):
    values, shares = random_scores(n, exits, seed), geometric_shares(log_q, exits)
    taken = choose(values, thresholds_for(rank(values), shares))
    assert torch.bincount(taken, minlength=exits).tolist() == naive_shares_taken(values, shares)


@settings(deadline=None)
@given(rows=scores_strategy, log_q=st.floats(-3, 3))
def test_ties_stop_or_continue_together_and_no_threshold_lies_on_a_score(rows, log_q):
    values = columns(rows)
    thresholds = thresholds_for(rank(values), geometric_shares(log_q, len(values)))
    taken, remaining = choose(values, thresholds), torch.ones(len(rows), dtype=torch.bool)
    for k, threshold in enumerate(thresholds.tolist()):
        assert threshold not in values[k][remaining].tolist()
        remaining &= taken != k


@settings(deadline=None)
@given(rows=scores_strategy, log_q=st.floats(-3, 3))
def test_with_ties_the_first_share_is_as_near_as_the_ties_allow(rows, log_q):
    values = columns(rows)
    shares = geometric_shares(log_q, len(values))
    if len(values) == 1:
        return
    stopped = int((choose(values, thresholds_for(rank(values), shares)) == 0).sum())
    target = round(float(shares[0]) * len(rows))
    possible = {0} | {int((values[0] >= score).sum()) for score in values[0]}
    assert abs(stopped - target) == min(abs(count - target) for count in possible)


def test_heavy_ties_do_not_disable_an_exit():
    """Each share is a quarter; 60 % tie at the top of the first exit, so the next exit makes up for it."""
    n = 1000
    values = random_scores(n, 4)
    values[0][:600] = 50.0
    thresholds = thresholds_for(rank(values), torch.full((4,), 0.25, dtype=torch.float64))
    counts = torch.bincount(choose(values, thresholds), minlength=4)
    assert counts.tolist() == [0, 500, 250, 250]
    values[0][:400] = 60.0
    thresholds = thresholds_for(rank(values), torch.full((4,), 0.25, dtype=torch.float64))
    counts = torch.bincount(choose(values, thresholds), minlength=4)
    assert counts.tolist() == [400, 100, 250, 250]


def test_neighboring_numbers_are_separated():
    one = torch.tensor(1.0, dtype=torch.float64)
    above = torch.nextafter(one, 2 * one)
    for low, high in ((one, above), (above, torch.nextafter(above, 2 * one))):
        values = [torch.stack([low, high])]
        thresholds = thresholds_for(rank(values), torch.tensor([0.5, 0.5], dtype=torch.float64))
        assert choose(values, thresholds).tolist() == [1, 0]


def test_extreme_scores_do_not_overflow_a_threshold():
    extreme = torch.finfo(torch.float64).max
    values = [torch.tensor([extreme, extreme / 2, -extreme], dtype=torch.float64)]
    for share, expected in ((1 / 3, [0, 1, 1]), (2 / 3, [0, 0, 1])):
        thresholds = thresholds_for(rank(values), torch.tensor([share, 1 - share], dtype=torch.float64))
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
        return float(price[choose(values, thresholds_for(rank(values), geometric_shares(log_q, 4)))].mean())

    assert cost(min(a, b)) <= cost(max(a, b))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 400), exits=st.integers(1, 5), where=st.floats(0, 1), seed=st.integers(0, 100))
def test_the_two_thresholds_around_a_budget_are_one_example_apart(n, exits, where, seed):
    costs = torch.tensor([100, 230, 270, 600, 1000][:exits], dtype=torch.float64)
    budget = float(costs[0] + where * (costs[-1] - costs[0]))
    values = random_scores(n, exits, seed)

    def mean_cost(thresholds):
        return float(costs[choose(values, thresholds)].mean())

    pair = bracket(geometric(rank(values), exits), mean_cost, budget, (-STEEPEST, STEEPEST))
    under, over = map(mean_cost, pair)
    assert under <= budget * (1 + 1e-12)
    assert over >= budget * (1 - 1e-12)
    assert over - under <= max(2 * float(costs[-1] - costs[0]) / n, 1e-9)


def test_the_range_of_q_reaches_both_ends():
    for exits in (2, 10):
        first = geometric_shares(-STEEPEST, exits)
        assert float(first[0]) * 1e9 > 1e9 - 0.5
        assert torch.equal(first.flip(0), geometric_shares(STEEPEST, exits))


def test_shares_are_the_fractions_of_the_exits():
    assert shares_of(torch.tensor([2, 0, 2, 2]), 4).tolist() == [0.25, 0, 0.75, 0]
