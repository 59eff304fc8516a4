import pytest
import torch

from suffice import evaluation


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
