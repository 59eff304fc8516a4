import pytest
import torch

import suffice
from suffice import evaluation
from tests import builders


def test_the_batch_size_does_not_change_the_outcome(trained, test_outcome):
    calibrated, _, data = trained
    whole = evaluation.predict(calibrated, data.test.batches(600))
    for a, b in zip(whole.predictions, test_outcome.predictions, strict=True):
        torch.testing.assert_close(a.log_probs, b.log_probs)


def test_monotonicity_counts_what_a_loop_over_examples_counts(test_outcome):
    outcome = test_outcome
    shares = evaluation.monotonicity(outcome)
    n, exits = len(outcome.labels), len(outcome.predictions)
    hits = [[bool(p.label[i] == outcome.labels[i]) for p in outcome.predictions] for i in range(n)]
    label_probs = [[float(p.probs[i, outcome.labels[i]]) for p in outcome.predictions] for i in range(n)]
    for k in range(exits - 1):
        assert shares["broken"][k] == pytest.approx(sum(row[k] and not row[k + 1] for row in hits) / n)
        assert shares["repaired"][k] == pytest.approx(sum(row[k + 1] and not row[k] for row in hits) / n)
    assert shares["overthought"] == pytest.approx(sum(any(row) and not row[-1] for row in hits) / n)
    falls = [max(max(row[: k + 1]) - row[k] for k in range(exits)) for row in label_probs]
    assert shares["fall"] == pytest.approx(sum(falls) / n)
    assert shares["fell"] == {by: pytest.approx(sum(fall > by for fall in falls) / n) for by in (0.01, 0.1, 0.5)}
    assert 0 < shares["broken"][0] < shares["repaired"][0]


def test_several_labels_have_their_own_measures_and_no_hits():
    net, x = builders.network(classes=3), builders.inputs(200)
    loader = builders.batched(x, x > 0)
    calibrated = suffice.calibrate(net, None, loader, likelihood="multilabel", structure=None)
    outcome = evaluation.predict(calibrated, loader)
    assert outcome.labels.shape == (200, 3)
    rows = evaluation.per_exit(outcome)
    assert all(tuple(row) == evaluation.MULTILABEL_MEASURES for row in rows)
    share = (outcome.predictions[0].label == (x > 0)).double().mean()
    assert rows[0]["accuracy"] == pytest.approx(float(share))
    budgeted = list(evaluation.over_budgets(calibrated, outcome, outcome))
    averaged = evaluation.averaged([evaluation.measure(each.prediction, outcome.labels) for each in budgeted], outcome)
    assert set(averaged) == set(evaluation.MULTILABEL_MEASURES)
    assert len(budgeted[0].prediction) == 200
    for refused in (lambda: outcome.hits, lambda: evaluation.monotonicity(outcome)):
        with pytest.raises(TypeError, match="expected an outcome of classes, got one of a multilabel; use per_exit"):
            refused()
