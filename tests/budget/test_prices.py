import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suffice.budget.prices import Prices, price
from tests import builders
from tests.budget import ragged


@given(data=st.data(), exits=st.integers(1, 4))
def test_the_mean_is_that_of_the_costs_of_the_exits_where_the_examples_stop(data, exits):
    row = st.tuples(*[st.integers(1, 10**9)] * exits)
    batches = data.draw(st.lists(st.tuples(row, st.integers(1, 5)), min_size=1, max_size=6))
    prices = Prices.of_batches(*zip(*batches, strict=True))
    each = torch.tensor([costs for costs, size in batches for _ in range(size)])
    index = torch.tensor(data.draw(st.lists(st.integers(0, exits - 1), min_size=len(each), max_size=len(each))))
    assert torch.equal(prices.per_example(), each.T.double())
    assert prices.mean(index) == pytest.approx(float(each.gather(1, index[:, None]).double().mean()), rel=1e-12)
    assert len(prices.table) == len({costs for costs, _ in batches})


def test_the_mean_of_equal_costs_is_exact_however_large():
    prices = Prices.of_batches([(3, 2**53 - 1)] * 3, [7, 11, 13])
    assert prices.mean(torch.ones(31, dtype=torch.long)) == 2**53 - 1


def test_the_price_of_an_example_includes_a_score_with_a_cost_and_follows_its_length():
    calibrated = builders.untuned(ragged.network("text"), ragged.batch("text", 8, (3, 3)))

    class Costly:
        made_for, macs = calibrated.digest, (7, 11, 13)

        def at(self, k):
            return lambda prediction, state: prediction.confidence

    for length in (2, 9):
        x = ragged.batch("text", 4, (length, 1))
        costs = calibrated.costs_for(x).cumulative
        assert price(calibrated, x, "confidence") == costs
        assert price(calibrated, x, Costly()) == (costs[0] + 7, costs[1] + 18, costs[2] + 18)
