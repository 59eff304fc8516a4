import math

import pytest
import torch

from suffice.variation import judgement


def measured(sigma, passes, seed):
    generator = torch.Generator().manual_seed(seed)
    return (sigma * torch.randn(passes, len(sigma), generator=generator).double()).std(dim=0)


@pytest.fixture
def spreads():
    generator = torch.Generator().manual_seed(0)
    sigma = torch.randn(20_000, generator=generator).double().mul(0.4).exp()
    estimate = sigma * torch.randn(20_000, generator=generator).double().mul(0.2).exp()
    return sigma, estimate


def test_noise_of_few_passes_is_corrected(spreads):
    sigma, estimate = spreads
    exact = float(1 - (estimate - sigma).square().mean() / sigma.var(correction=0))
    a, b = (judgement.unbiased(measured(sigma, 10, seed), 10) for seed in (1, 2))
    assert judgement.r_squared(estimate, a, b) == pytest.approx(exact, abs=0.02)
    assert float(1 - (estimate - a).square().mean() / a.var()) < exact - 0.05
    correlation = float(torch.corrcoef(torch.stack([estimate, sigma]))[0, 1] ** 2)
    assert judgement.squared_correlation(estimate, a, b) == pytest.approx(correlation, abs=0.02)
    assert judgement.log_error(estimate, a, b) == pytest.approx(0.04, abs=0.004)


def test_r_squared_sees_bias_and_the_correlation_does_not(spreads):
    sigma, estimate = spreads
    a, b = (measured(sigma, 100, seed) for seed in (1, 2))
    assert judgement.r_squared(2 * estimate, a, b) < 0
    assert judgement.squared_correlation(2 * estimate, a, b) == pytest.approx(
        judgement.squared_correlation(estimate, a, b)
    )


def test_the_bias_of_a_deviation_over_few_passes_is_taken_out():
    sigma = torch.ones(40_000).double()
    for passes in (5, 10):
        found = measured(sigma, passes, 0)
        assert found.mean() < 0.98
        assert judgement.unbiased(found, passes).mean() == pytest.approx(1, abs=0.006)


def test_merging_by_precision_is_better_than_either_and_without_bias(spreads):
    sigma, estimate = spreads
    found = measured(sigma, 8, 1)
    merged = judgement.combined(estimate, 0.04, found, 8)
    errors = [float((values / sigma).log().square().mean()) for values in (merged, estimate, found)]
    assert errors[0] < 0.75 * min(errors[1:])
    assert abs(float((merged / sigma).log().mean())) < 0.01
    assert errors[0] == pytest.approx(1 / (1 / 0.04 + 14), rel=0.15)


def test_what_is_not_defined_is_nan_or_infinite():
    same = torch.ones(5)
    assert math.isnan(judgement.r_squared(same, same, same))
    assert math.isnan(judgement.squared_correlation(same, same, same))
    assert math.isinf(judgement.log_error(same, 0 * same, same))
