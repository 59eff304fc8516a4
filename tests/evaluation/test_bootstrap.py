import pytest
import torch

from suffice import evaluation, metrics


def test_intervals_contain_the_plain_measures_and_that_of_the_accuracy_has_the_binomial_width(test_outcome):
    answer, labels = test_outcome.predictions[0], test_outcome.labels
    intervals = evaluation.bootstrap([answer], labels, generator=torch.Generator().manual_seed(0))
    plain = {
        "accuracy": metrics.accuracy(answer.probs, labels),
        "nll": metrics.nll(answer.log_probs, labels),
    }
    for name, value in plain.items():
        low, high = intervals[name]
        assert low < value < high
    accuracy = float(plain["accuracy"])
    low, high = intervals["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (accuracy * (1 - accuracy) / 600) ** 0.5, rel=0.15)


def test_the_bootstrap_of_the_calibration_error_subtracts_the_bias_of_the_resamples(test_outcome):
    answer, labels = test_outcome.predictions[0], test_outcome.labels
    intervals = evaluation.bootstrap([answer], labels, generator=torch.Generator().manual_seed(0), resamples=9)
    rows = torch.randint(600, (9, 600), generator=torch.Generator().manual_seed(0))
    resampled = torch.stack([metrics.ece(answer.probs[sample], labels[sample]) for sample in rows])
    bias = resampled.mean() - metrics.ece(answer.probs, labels)
    for limit, quantile in zip(intervals["ece"], (0.025, 0.975), strict=True):
        assert limit == pytest.approx(float(resampled.quantile(quantile) - bias), abs=1e-9)


def test_the_interval_of_the_calibration_error_contains_the_measured_one(test_outcome):
    answer, labels = test_outcome.predictions[-1], test_outcome.labels
    low, high = evaluation.bootstrap([answer], labels, generator=torch.Generator().manual_seed(0))["ece"]
    assert low < float(metrics.ece(answer.probs, labels)) < high
