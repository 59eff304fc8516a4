import pytest
import torch

from suffice import evaluation, metrics
from suffice.evaluation import ranking
from tests import builders


def test_every_score_is_measured_at_the_same_cost_as_by_a_loop_over_budgets():
    net, x = builders.network().requires_grad_(False).double(), builders.inputs(600).double()
    loaders = [builders.batched(part, builders.sampled_labels(net(part)[-1]), 64) for part in x.split(300)]
    calibrated = builders.untuned(net, x, structure=None)
    validation, outcome = (evaluation.predict(calibrated, loader) for loader in loaders)

    class Costly:
        made_for, macs = calibrated.digest, (7, 11, 13)

        def at(self, k):
            return lambda prediction, state: state.flatten(1).mean(dim=1) + k

    named = {"certain": "confidence", "margin": "margin", "patience": "patience", "state": Costly()}
    ranked = ranking.rankings(calibrated, *loaders, named)
    rows = {row["score"]: row for row in ranking.by_score(outcome, ranked)}
    assert list(rows) == list(named)
    assert torch.equal(ranked["certain"].test[1], outcome.scores[1])
    budgeted = list(evaluation.over_budgets(calibrated, validation, outcome))
    accuracies = [metrics.accuracy(answer.prediction.log_probs, outcome.labels) for answer in budgeted]
    assert [point["macs"] for point in rows["certain"]["curve"]] == pytest.approx([answer.macs for answer in budgeted])
    assert [point["accuracy"] for point in rows["certain"]["curve"]] == pytest.approx(list(map(float, accuracies)))
    assert rows["certain"]["accuracy"] == pytest.approx(float(sum(accuracies) / 39))
    assert rows["certain"]["eefp"] == pytest.approx(float(metrics.eefp(outcome.scores, outcome.hits)))
    areas = [metrics.aurc(*pair) for pair in zip(outcome.scores, outcome.hits, strict=True)]
    assert rows["certain"]["aurc"] == pytest.approx(float(sum(areas) / 3))
    state = net.stages[1](net.stages[0](x[300:]))
    torch.testing.assert_close(ranked["state"].test[1], state.mean(dim=1).double() + 1)
    dearer = map(sum, zip(calibrated.costs.cumulative, (7, 18, 18), strict=True))
    assert torch.equal(ranked["state"].prices.per_example(), torch.tensor([*dearer]).double()[:, None].expand(3, 300))
    assert set(ranked["patience"].test[1].tolist()) == {1.0, 2.0}
