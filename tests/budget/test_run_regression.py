"""Budgets of regression networks."""

import pytest
import torch

import suffice
from suffice import allocate, run, run_stream
from tests import builders

X = builders.inputs(300)
NET = builders.network(classes=2)


@pytest.fixture(scope="module")
def calibrated():
    with torch.no_grad():
        targets = NET(X)[-1]
    noise = 0.3 * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    loader = builders.batched(X, targets + noise, 100)
    return suffice.calibrate(NET, loader, loader, likelihood="regression")


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")
@pytest.mark.parametrize("score", ["variance", "epistemic"])
@pytest.mark.parametrize("buckets", [None, (16, 64)])
def test_a_batch_and_a_stream_give_what_computing_every_exit_and_picking_gives(calibrated, score, buckets):
    policy = allocate(calibrated, [X], 0.6, score=score)
    predictions, answer = calibrated(X), run(calibrated, policy, X, buckets=buckets)
    assert float(answer.macs.double().mean()) == pytest.approx(policy.expected, rel=1e-3)
    rows = torch.arange(300)
    for name in ("mean", "variance"):
        expected = torch.stack([getattr(prediction, name) for prediction in predictions])[answer.exit, rows]
        torch.testing.assert_close(getattr(answer, name), expected, atol=1e-4, rtol=1e-4)
    parts = list(run_stream(calibrated, policy, X.split(17), size=40, delay=3))
    torch.testing.assert_close(torch.cat([part.answer.mean for part in parts]), answer.mean, atol=1e-4, rtol=1e-4)


def test_predictions_come_one_exit_at_a_time(calibrated):
    for prediction, expected in zip(calibrated.anytime(X, 1e6), calibrated(X), strict=True):
        assert torch.equal(prediction.mean, expected.mean)
