import math

import pytest
import torch
from scipy.stats import beta

import suffice
from suffice.evaluation import set_coverage
from tests import builders

NET = builders.network(scale=3.0)
X = builders.inputs(900)
Y = builders.sampled_labels(NET(X)[-1], temperature=2.0)


@pytest.fixture(scope="module")
def calibrated():
    return builders.untuned(NET, X[:200])


@pytest.fixture(scope="module")
def policy(calibrated):
    return suffice.allocate(calibrated, [X[:300]], 0.7)


def test_rows_hold_the_coverage_and_size_of_all_answers_and_of_each_exit(calibrated, policy):
    made = suffice.conformalize(calibrated, policy, [(X[300:600], Y[300:600])], 0.8, "lac")
    rows = set_coverage(calibrated, made, builders.batched(X[600:], Y[600:], 70))
    answer = suffice.run(calibrated, made, X[600:])
    covered, size = answer.set.contains(Y[600:]), answer.set.size
    assert [row["exit"] for row in rows] == [None, 0, 1, 2]
    for row in rows:
        mine = torch.ones(300, dtype=torch.bool) if row["exit"] is None else answer.exit == row["exit"]
        hits, n = int(covered[mine].sum()), int(mine.sum())
        assert row["examples"] == n
        assert row["coverage"] == hits / n
        assert row["size"] == pytest.approx(int(size[mine].sum()) / n)
        assert row["empty"] == pytest.approx(int((size[mine] == 0).sum()) / n)
        assert row["low"] == pytest.approx(beta.ppf(0.025, hits, n - hits + 1))
        assert row["high"] == pytest.approx(beta.ppf(0.975, hits + 1, n - hits))


def test_an_exit_where_nothing_stops_has_no_coverage(calibrated, policy):
    never = suffice.Policy(
        torch.full((2,), math.inf, dtype=torch.float64), "confidence", policy.budget, policy.expected, policy.shares,
        policy.made_for,
    )  # fmt: skip
    made = suffice.conformalize(calibrated, never, [(X, Y)])
    first = set_coverage(calibrated, made, [(X[:50], Y[:50])])[1]
    assert first["examples"] == 0
    assert all(math.isnan(first[name]) for name in ("coverage", "low", "high", "size"))


def test_a_policy_without_sets_is_refused(calibrated, policy):
    with pytest.raises(ValueError, match=r"got one without; make one with suffice\.conformalize"):
        set_coverage(calibrated, policy, [(X, Y)])
