import pytest
import torch

from suffice import evaluation


def test_each_budget_costs_what_its_exits_cost_and_costs_rise_along_the_ladder(trained, test_outcome):
    calibrated, validation, _ = trained
    budgeted = list(evaluation.over_budgets(calibrated, validation, test_outcome))
    assert len(budgeted) == 39
    prices = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
    for answer in budgeted:
        assert answer.macs == pytest.approx(float(prices[answer.exit_index].mean()))
        expected = torch.stack([p.log_probs for p in test_outcome.predictions])[answer.exit_index, torch.arange(600)]
        assert torch.equal(answer.prediction.log_probs, expected)
    macs = [answer.macs for answer in budgeted]
    assert macs == sorted(macs)
