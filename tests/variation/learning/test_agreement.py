import math

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import r2_score, roc_auc_score

from suffice.variation.learning import agreement


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
    a, b = (agreement.unbiased(measured(sigma, 10, seed), 10) for seed in (1, 2))
    assert agreement.r_squared(estimate, a, b) == pytest.approx(exact, abs=0.02)
    assert float(1 - (estimate - a).square().mean() / a.var()) < exact - 0.05
    correlation = float(torch.corrcoef(torch.stack([estimate, sigma]))[0, 1] ** 2)
    assert agreement.squared_correlation(estimate, a, b) == pytest.approx(correlation, abs=0.02)
    assert agreement.log_error(estimate, a, b) == pytest.approx(0.04, abs=0.004)


def test_r_squared_is_sensitive_to_bias_and_the_correlation_is_not(spreads):
    sigma, estimate = spreads
    a, b = (measured(sigma, 100, seed) for seed in (1, 2))
    assert agreement.r_squared(2 * estimate, a, b) < 0
    assert agreement.squared_correlation(2 * estimate, a, b) == pytest.approx(
        agreement.squared_correlation(estimate, a, b)
    )


def test_the_bias_of_a_deviation_over_few_passes_is_removed():
    sigma = torch.ones(40_000).double()
    for passes in (5, 10):
        deviation = measured(sigma, passes, 0)
        assert deviation.mean() < 0.98
        assert agreement.unbiased(deviation, passes).mean() == pytest.approx(1, abs=0.006)


def test_merging_by_precision_is_better_than_either_and_without_bias(spreads):
    sigma, estimate = spreads
    few = measured(sigma, 8, 1)
    merged = agreement.combined(estimate, 0.04, few, 8)
    errors = [float((values / sigma).log().square().mean()) for values in (merged, estimate, few)]
    assert errors[0] < 0.75 * min(errors[1:])
    assert abs(float((merged / sigma).log().mean())) < 0.01
    assert errors[0] == pytest.approx(1 / (1 / 0.04 + 14), rel=0.15)


def test_all_measures_are_those_against_the_truth_itself(spreads):
    sigma, estimate = spreads
    a, b = (agreement.unbiased(measured(sigma, 500, seed), 500) for seed in (1, 2))
    measures = agreement.measures(estimate, a, b)
    assert list(measures) == ["r2", "r2_log", "spearman", "auc_low", "auc_high"]
    exact = r2_score(sigma, estimate), r2_score(sigma.log(), estimate.log()), spearmanr(sigma, estimate).statistic
    low, high = sigma <= sigma.quantile(0.1), sigma >= sigma.quantile(0.9)
    areas = roc_auc_score(low, -estimate), roc_auc_score(high, estimate)
    assert list(measures.values()) == pytest.approx([*exact, *areas], abs=0.01)


def test_an_estimate_of_zero_counts_as_the_least_measured_in_logarithms():
    truth = torch.tensor([0.0, 1.0, 2.0, 4.0])
    estimate = torch.tensor([9.0, 0.0, 2.0, 4.0])
    assert agreement.log_r_squared(estimate, truth, truth) == 1
    assert math.isnan(agreement.log_r_squared(estimate, 0 * truth, truth))


def test_ties_have_their_mean_rank():
    estimate, truth = torch.tensor([1.0, 1, 2, 3, 3]), torch.tensor([0.0, 2, 1, 5, 4])
    assert agreement.spearman(estimate, truth) == pytest.approx(spearmanr(estimate, truth).statistic)
    assert math.isnan(agreement.spearman(torch.ones(5), truth))


def test_undefined_measures_are_nan_or_infinite():
    same = torch.ones(5)
    assert math.isnan(agreement.r_squared(same, same, same))
    assert math.isnan(agreement.squared_correlation(same, same, same))
    assert math.isinf(agreement.log_error(same, 0 * same, same))


def test_measures_are_nan_if_the_measurements_contradict_each_other():
    estimate = torch.arange(5.0)
    assert math.isnan(agreement.r_squared(estimate, estimate, -estimate))
    assert math.isnan(agreement.squared_correlation(estimate, estimate, -estimate))
