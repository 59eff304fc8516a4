import math
from itertools import permutations

import pytest
import torch
from scipy.stats import norm

from suffice.variation import uses
from tests import tolerances


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_upper_bound_is_the_normal_quantile_of_its_weight():
    mean, variation = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.5, 0.1], [2.0, 0.0]])
    expected = norm.ppf(0.975, loc=mean, scale=variation.clamp_min(1e-12))
    bounds = uses.ucb(mean, variation, weight=float(norm.ppf(0.975)))
    torch.testing.assert_close(bounds, torch.from_numpy(expected).float())
    assert torch.equal(uses.ucb(mean, variation, weight=0), mean)


def test_an_item_is_taken_with_the_probability_that_it_is_the_best():
    mean, variation = torch.tensor([0.3, 0.0]), torch.tensor([0.1, 0.5])
    draws = uses.thompson(mean.expand(20_000, 2), variation.expand(20_000, 2), generator=seeded())
    share = float((draws.argmax(dim=1) == 1).double().mean())
    chance = norm.sf(0.3 / math.hypot(0.1, 0.5))
    assert share == pytest.approx(chance, abs=tolerances.share(chance, 20_000))
    torch.testing.assert_close(draws.mean(dim=0), mean, rtol=0, atol=tolerances.mean(0.5, 20_000))
    torch.testing.assert_close(draws.std(dim=0), variation, rtol=tolerances.deviation(20_000), atol=0)


def test_samples_are_independent_of_one_another_and_depend_on_the_seed_alone():
    mean, variation = torch.zeros(30_000), torch.ones(30_000)
    first, again = (uses.thompson(mean, variation, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(float((first[1:] * first[:-1]).mean())) < tolerances.mean(1.0, 30_000)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_a_new_input_is_accepted_with_the_stated_probability(coverage):
    accepted, n = [], 39
    for seed in range(800):
        variation = torch.rand(n + 20, generator=seeded(seed))
        accepted.append(~uses.abstain(variation[n:], variation[:n], coverage))
    share = float(torch.stack(accepted).double().mean())
    # Given n known rows the probability is beta distributed; the share of 20 new ones adds binomial noise.
    off = tolerances.mean(math.sqrt(coverage * (1 - coverage) * (1 / (n + 2) + 1 / 20)), 800)
    assert coverage - off < share < coverage + 1 / (n + 1) + off


def test_the_highest_variations_are_abstained_on_and_none_if_too_few_are_known():
    known = torch.arange(9.0)
    assert uses.abstain(torch.tensor([7.0, 8.0, 9.0, 7.5]), known, 0.8).tolist() == [False, True, True, True]
    assert not uses.abstain(torch.tensor([1e9]), known, 0.95).any()
    assert not uses.abstain(torch.tensor([1e9]), known, 1.0).any()


def test_the_greatest_are_acquired_without_randomness():
    variation = torch.tensor([0.1, 3.0, 0.0, 2.0, 0.5])
    assert uses.acquire(variation, 3).tolist() == [1, 3, 4]
    assert uses.acquire(variation, 0).tolist() == []


def test_inputs_are_sampled_as_one_after_another_without_replacement():
    variation, draws, generator = torch.tensor([1.0, 2.0, 3.0]), 6_000, seeded()
    counts = dict.fromkeys(permutations(range(3), 2), 0)
    for _ in range(draws):
        counts[tuple(uses.acquire(variation, 2, power=2.0, generator=generator).tolist())] += 1
    weights = [1.0, 4.0, 9.0]
    for (i, j), count in counts.items():
        expected = weights[i] / 14 * weights[j] / (14 - weights[i])
        assert count / draws == pytest.approx(expected, abs=tolerances.share(expected, draws))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        uses.ucb(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        uses.thompson(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="a weight of at least 0, got -1"):
        uses.ucb(torch.zeros(2), torch.zeros(2), weight=-1)
    for coverage in (0, -0.5, 1.001, math.nan):
        with pytest.raises(ValueError, match=rf"a coverage in \(0, 1\], got {coverage}"):
            uses.abstain(torch.zeros(2), torch.zeros(2), coverage)
    with pytest.raises(ValueError, match="a count up to 2 and a power above 0, got count=3"):
        uses.acquire(torch.zeros(2), 3)
    with pytest.raises(ValueError, match=r"a power above 0, got count=1, power=0"):
        uses.acquire(torch.zeros(2), 1, power=0)
