import copy

import pytest
import torch

import suffice
from suffice import evaluation, metrics
from suffice.data.sources import digits


@pytest.fixture(scope="module")
def trained():
    data = digits.load(seed=0)
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=10, widths=(4, 8))
    from suffice.training.loop import train

    train(network, data.train.batches(64), epochs=5)
    calibrated = suffice.calibrate(network, None, data.validation.batches(), structure=None)
    return calibrated, evaluation.predict(calibrated, data.validation.batches()), data


@pytest.fixture(scope="module")
def test_outcome(trained):
    calibrated, _, data = trained
    return evaluation.predict(calibrated, data.test.batches(100))


def test_the_batch_size_does_not_change_the_outcome(trained, test_outcome):
    calibrated, _, data = trained
    whole = evaluation.predict(calibrated, data.test.batches(600))
    for a, b in zip(whole.predictions, test_outcome.predictions, strict=True):
        torch.testing.assert_close(a.log_probs, b.log_probs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_network_on_another_device_is_measured_as_one_here(trained):
    calibrated, _, data = trained
    network = copy.deepcopy(calibrated.network).cuda()
    moved = suffice.calibrate(network, data.train.batches(), data.validation.batches(), structure=None)
    validation, test = (evaluation.predict(moved, part.batches(100)) for part in (data.validation, data.test))
    row = evaluation.summary(moved, validation, test, generator=torch.Generator().manual_seed(0))
    assert row["averaged"]["accuracy"] > 0.5


def test_each_budget_costs_what_its_exits_cost_and_costs_rise_along_the_ladder(trained, test_outcome):
    calibrated, validation, _ = trained
    budgeted = list(evaluation.over_budgets(calibrated, validation, test_outcome))
    assert len(budgeted) == 39
    prices = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
    for answer in budgeted:
        assert answer.macs == pytest.approx(float(prices[answer.exits].mean()))
        expected = torch.stack([p.log_probs for p in test_outcome.predictions])[answer.exits, torch.arange(600)]
        assert torch.equal(answer.prediction.log_probs, expected)
    macs = [answer.macs for answer in budgeted]
    assert macs == sorted(macs)


def test_the_bootstrap_with_equal_weights_would_give_the_plain_measures(test_outcome):
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


def test_bootstrap_of_the_calibration_error_is_that_of_resamples_less_their_bias(test_outcome):
    answer, labels = test_outcome.predictions[0], test_outcome.labels
    intervals = evaluation.bootstrap([answer], labels, generator=torch.Generator().manual_seed(0), resamples=9)
    drawn = torch.randint(600, (9, 600), generator=torch.Generator().manual_seed(0))
    resampled = torch.stack([metrics.ece(answer.probs[rows], labels[rows]) for rows in drawn])
    bias = resampled.mean() - metrics.ece(answer.probs, labels)
    for limit, quantile in zip(intervals["ece"], (0.025, 0.975), strict=True):
        assert limit == pytest.approx(float(resampled.quantile(quantile) - bias), abs=1e-9)


def test_the_interval_of_the_calibration_error_holds_the_measured_one(test_outcome):
    answer, labels = test_outcome.predictions[-1], test_outcome.labels
    low, high = evaluation.bootstrap([answer], labels, generator=torch.Generator().manual_seed(0))["ece"]
    assert low < float(metrics.ece(answer.probs, labels)) < high


def test_the_ablation_has_every_row_that_a_table_must_have():
    assert list(evaluation.ABLATION) == [
        "vanilla",
        "temperature",
        "ensemble",
        "ensemble + temperature",
        "Laplace",
        "Laplace + temperature",
        "all",
    ]


def test_monotonicity_counts_what_a_loop_over_examples_counts(test_outcome):
    outcome = test_outcome
    found = evaluation.monotonicity(outcome)
    n, exits = len(outcome.labels), len(outcome.predictions)
    right = [[bool(p.label[i] == outcome.labels[i]) for p in outcome.predictions] for i in range(n)]
    chances = [[float(p.probs[i, outcome.labels[i]]) for p in outcome.predictions] for i in range(n)]
    for k in range(exits - 1):
        assert found["broken"][k] == pytest.approx(sum(row[k] and not row[k + 1] for row in right) / n)
        assert found["repaired"][k] == pytest.approx(sum(row[k + 1] and not row[k] for row in right) / n)
    assert found["overthought"] == pytest.approx(sum(any(row) and not row[-1] for row in right) / n)
    falls = [max(max(row[: k + 1]) - row[k] for k in range(exits)) for row in chances]
    assert found["fall"] == pytest.approx(sum(falls) / n)
    assert found["fell"] == {by: pytest.approx(sum(fall > by for fall in falls) / n) for by in (0.01, 0.1, 0.5)}
    assert 0 < found["broken"][0] < found["repaired"][0]
