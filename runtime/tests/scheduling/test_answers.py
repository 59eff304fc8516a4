"""Answers of a scheduler on real graphs are those of `Runner.run` for each request alone."""

import numpy as np
import pytest

import bundles
from suffice_runtime import Runner
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.rules.lengths import pad, padded_length
from suffice_runtime.scheduling.scheduler import Scheduler

CLOSE = 1e-5
"""Tolerance of probabilities in float32 that the runtime states; kernels round differently in other batch sizes."""

X = bundles.inputs(60)


def serve(runner, requests, most=np.inf, **options):
    """Return the outcomes of requests in their order, and the (stage, shapes) of each batch."""
    network = runner._network
    one, ran, outcomes, now = Scheduler(network, Options(wait_ms=0, **options)), [], [], 0.0
    for x in requests:
        one.submit(x, now)
    while (batch := one.next(now)) is not None:
        arrays = batch.padded()
        ran.append((batch.stage, tuple(array.shape for array in arrays)))
        now += 0.001
        if batch.stage == 0 and arrays[0].shape[1] > most:
            one.failed(batch, ValueError("longer than the network takes"), now)
        else:
            one.done(batch, network.graphs[batch.stage](arrays), now)
        outcomes += one.collect(now)
    return sorted(outcomes, key=lambda outcome: outcome.ticket.number), ran


def assert_same(outcome, answer):
    assert outcome.errors == ()
    assert outcome.answer.exit.tolist() == answer.exit.tolist()
    assert outcome.answer.macs.tolist() == answer.macs.tolist()
    np.testing.assert_allclose(outcome.answer.probs, answer.probs, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(outcome.answer.scores, answer.scores, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("options", [{}, {"sizes": (3,)}, {"sizes": (4, 16), "pad_batches": True}])
def test_requests_that_run_together_have_the_answers_of_each_alone(opened, options):
    runner = opened(**{**bundles.MIXED, "sets": bundles.SETS})
    requests = [X[:1], X[1:9], X[9:9], X[9:30], X[30:31], X[31:]]
    for outcome, x in zip(serve(runner, requests, **options)[0], requests, strict=True):
        answer = runner.run(x)
        assert_same(outcome, answer)
        assert (outcome.answer.set.members == answer.set.members).all()


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_predictions_are_served(opened, kind):
    runner = opened(kind)
    (outcome,), _ = serve(runner, [X])
    answer = runner.run(X)
    assert outcome.answer.exit.tolist() == answer.exit.tolist()
    for name in type(answer.prediction).names():
        mine, theirs = getattr(outcome.answer.prediction, name), getattr(answer.prediction, name)
        np.testing.assert_allclose(mine, theirs, atol=CLOSE, rtol=CLOSE)


TEXTS = [bundles.texts(n, tokens, seed=n) for n, tokens in ((6, 5), (9, 3), (1, 9), (4, 5), (8, 20), (7, 8), (2, 7))]


@pytest.mark.parametrize("lengths", [(), (4, 8, 16), (64,)])
def test_texts_of_different_lengths_run_together_with_the_answers_and_costs_of_each_alone(opened, lengths):
    policy = {"thresholds": [-0.305, -0.345], "alternative": ["inf", -1.0], "portion": 0.3}
    runner = opened(tokens=True, **policy)
    outcomes, ran = serve(runner, TEXTS, lengths=lengths)
    for outcome, x in zip(outcomes, TEXTS, strict=True):
        assert_same(outcome, runner.run(x))
    widths = sorted({shapes[0][1] for stage, shapes in ran if stage == 0})
    assert widths == {(): [3, 5, 7, 8, 9, 20], (4, 8, 16): [4, 8, 16, 20], (64,): [64]}[lengths]


def test_a_text_that_is_too_long_only_with_padding_runs_without(opened):
    runner = opened(tokens=True)
    outcomes, _ = serve(runner, TEXTS, lengths=(16,), most=9)
    for outcome, x in zip(outcomes, TEXTS, strict=True):
        if x["input_ids"].shape[1] == 20:
            assert "longer than the network takes" in str(outcome.errors[0])
            assert len(outcome.errors) == 8
        else:
            assert_same(outcome, runner.run(x))


def test_padding_is_behind_the_tokens_and_within_the_range_of_ids(copied, tmp_path):
    folder = bundles.write(tmp_path / "texts", tokens=True)

    def limit(manifest):
        manifest["inputs"][0]["range"] = [3, 50]

    bundles.edit(folder, limit)
    network = Runner(folder)._network
    rows, _ = network.enter({"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1]])}, coin=False)
    ids, mask = pad(rows, network.manifest, 4).carried
    assert (ids.tolist(), mask.tolist()) == ([[5, 6, 3, 3]], [[1, 1, 0, 0]])
    assert [padded_length(tokens, (4, 8)) for tokens in (1, 4, 5, 8, 9)] == [4, 4, 8, 8, 9]
