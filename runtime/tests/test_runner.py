"""Run, predict and anytime, compared with the same arithmetic in NumPy."""

from dataclasses import replace

import numpy as np
import pytest

import bundles
from suffice_runtime import Multilabel, Policy, Prediction, Regression, Runner
from watching import poison, watch

CLOSE = 1e-5
"""Tolerance of probabilities in float32 that the runtime states."""

X = bundles.inputs(50)


def clear(x, thresholds):
    """Return the exits that arithmetic in float64 gives, after a check that rounding to float32 cannot change them."""
    for (_, _, scores), threshold in zip(bundles.expected(x), thresholds, strict=False):
        assert abs(scores - threshold).min() > CLOSE
    return bundles.exits(x, thresholds)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_each_example_gets_the_prediction_of_the_exit_where_it_stops(runner, n):
    answer, found, exits = runner.run(X[:n]), bundles.expected(X[:n]), clear(X[:n], (-0.15, -0.3))
    assert answer.exit.tolist() == exits.tolist()
    assert answer.exit.dtype == np.int64
    for i, k in enumerate(exits):
        log_probs, aleatoric, _ = found[k]
        np.testing.assert_allclose(answer.probs[i], np.exp(log_probs[i]), atol=CLOSE, rtol=0)
        np.testing.assert_allclose(answer.aleatoric[i], aleatoric[i], atol=CLOSE, rtol=CLOSE)
        assert answer.label[i] == log_probs[i].argmax()
        for j in range(2):
            if j > k:
                assert np.isnan(answer.scores[i, j])
            else:
                np.testing.assert_allclose(answer.scores[i, j], found[j][2][i], atol=CLOSE, rtol=CLOSE)
    assert answer.macs.tolist() == [bundles.COSTS[k] for k in exits]
    assert len(set(exits)) == 3 or n < 50  # the order was put together from three exits


def test_examples_really_leave_the_batch(written):
    runner = Runner(written())
    sizes = watch(runner)
    exits = runner.run(X).exit
    assert sizes == [(k, int((exits >= k).sum())) for k in range(3)]
    assert 0 < sizes[2][1] < sizes[1][1] < 50


@pytest.mark.parametrize(("thresholds", "called"), [((-np.inf, 0.0), [0]), ((np.inf, -np.inf), [0, 1])])
def test_graphs_behind_the_last_example_do_not_run(written, thresholds, called):
    runner = Runner(written())
    sizes = watch(runner)
    runner.run(X, replace(runner.policy, thresholds=np.array(thresholds)))
    assert sizes == [(k, 50) for k in called]


def test_scores_equal_to_the_threshold_stop(runner):
    scores = runner.run(X).scores[:, 0]
    assert runner.run(X, replace(runner.policy, thresholds=np.array([scores[3], 0.0]))).exit[3] == 0
    above = np.nextafter(scores[3], np.inf)
    assert runner.run(X, replace(runner.policy, thresholds=np.array([above, 0.0]))).exit[3] > 0


KINDS = [("classification", False), ("classification", True), ("multilabel", False), ("regression", False)]


@pytest.mark.parametrize(("kind", "tokens"), KINDS)
def test_no_examples_have_an_empty_answer(opened, kind, tokens):
    runner = opened(kind, tokens)
    x = bundles.texts(0, 5) if tokens else X[:0]
    answer = runner.run(x)
    assert (len(answer), answer.exit.shape, answer.macs.shape, answer.scores.shape) == (0, (0,), (0,), (0, 2))
    first = answer.mean if kind == "regression" else answer.probs
    assert first.shape == (0, 3)
    assert first.dtype == np.float32
    assert [len(prediction) for prediction in runner.predict(x)] == [0, 0, 0]
    assert "0 examples" in repr(answer)


def test_prediction_sets_of_no_examples_are_empty(opened):
    answer = opened(sets=bundles.SETS).run(X[:0])
    assert answer.set.members.shape == (0, 3)


def test_predict_returns_every_exit_for_every_example(runner):
    predictions = runner.predict(X)
    assert len(predictions) == 3
    for prediction, (log_probs, aleatoric, _) in zip(predictions, bundles.expected(X), strict=True):
        np.testing.assert_allclose(prediction.probs, np.exp(log_probs), atol=CLOSE, rtol=0)
        np.testing.assert_allclose(prediction.aleatoric, aleatoric, atol=CLOSE, rtol=CLOSE)


def test_later_graphs_run_only_if_their_prediction_is_requested(written):
    runner = Runner(written())
    sizes = watch(runner)
    exits = runner.anytime(X)
    assert sizes == []
    first = next(exits)
    assert sizes == [(0, 50)]
    assert first.log_probs.tobytes() == runner.predict(X)[0].log_probs.tobytes()


def test_several_labels_have_their_probabilities(opened):
    answer = opened("multilabel", thresholds=[-0.3, -0.3]).run(X)
    assert isinstance(answer.prediction, Multilabel)
    logits = own_logits(X)
    for i, k in enumerate(answer.exit):
        np.testing.assert_allclose(answer.probs[i], 1 / (1 + np.exp(-logits[k][i])), atol=CLOSE, rtol=0)
    assert len(set(answer.exit)) == 3


def test_numbers_have_a_mean_and_variances(opened):
    answer = opened("regression").run(X)
    assert isinstance(answer.prediction, Regression)
    logits = own_logits(X)
    for i, k in enumerate(answer.exit):
        np.testing.assert_allclose(answer.mean[i], logits[k][i], atol=CLOSE, rtol=CLOSE)
        np.testing.assert_allclose(answer.variance[i], 1.5 * np.exp(logits[k][i]), rtol=1e-4)
    assert len(set(answer.exit)) == 3
    with pytest.raises(AttributeError, match="expected an answer with 'probs', got a regression; use its mean and var"):
        answer.probs  # noqa: B018


def own_logits(x):
    """Return the outputs of each exit by itself."""
    h, found = x.astype(np.float64), []
    for k in range(3):
        w, c = bundles.weights(k)
        h = np.tanh(h @ w)
        found.append(h @ c)
    return found


def test_texts_do_not_depend_on_padding_behind_them(opened):
    runner, x = opened(tokens=True, thresholds=[-0.6, -0.5]), bundles.texts(60, 5)
    longer = {name: np.pad(array, ((0, 0), (0, 4)), constant_values=0) for name, array in x.items()}
    a, b = runner.run(x), runner.run(longer)
    assert a.exit.tolist() == b.exit.tolist() == bundles.exits(x, (-0.6, -0.5)).tolist()
    np.testing.assert_allclose(a.probs, b.probs, atol=CLOSE, rtol=0)
    assert a.macs.tolist() == [bundles.text_costs(5)[k] for k in a.exit]
    assert b.macs.tolist() == [bundles.text_costs(9)[k] for k in b.exit]
    assert len(set(a.exit)) > 1


def test_unknown_costs_of_a_length_are_refused_and_nothing_else_is(tmp_path):
    runner = Runner(bundles.write(tmp_path, tokens=True, costs={"macs": [1, 2, 3], "by_length": None, "length": 5}))
    assert set(runner.run(bundles.texts(9, 5)).macs) <= {1, 2, 3}
    answer = runner.run(bundles.texts(9, 6))
    assert answer.probs.shape == (9, 3)
    assert "multiply-adds" not in repr(answer)
    with pytest.raises(ValueError, match="expected costs for inputs with this number of tokens"):
        answer.macs  # noqa: B018


def test_a_bundle_without_a_policy_only_predicts(tmp_path):
    runner = Runner(bundles.write(tmp_path, policy=None))
    np.testing.assert_allclose(runner.predict(X)[2].probs, np.exp(bundles.expected(X)[2][0]), atol=CLOSE, rtol=0)
    for call in (lambda: runner.run(X), lambda: runner.policy, lambda: runner.run_stream([X])):
        with pytest.raises(ValueError, match="expected a bundle with a policy, got one without; use predict"):
            call()


@pytest.mark.parametrize("method", ["run", "predict"])
def test_predictions_that_are_not_finite_are_refused_with_their_position(written, method):
    runner = Runner(written())
    late = int((runner.run(X).exit == 1).nonzero()[0][4])
    poison(runner, np.tanh(X @ bundles.weights(0)[0])[late], k=1)
    with pytest.raises(
        ValueError, match=f"finite numbers in the predictions of exit 1, got NaN .* at position {late} "
    ):
        getattr(runner, method)(X)


def test_scores_that_are_not_finite_are_refused_with_their_position(written):
    runner = Runner(written())
    poison(runner, X[7], k=0, what="scores")
    with pytest.raises(ValueError, match=r"expected finite numbers in the scores of exit 0, got NaN .* at position 7 "):
        runner.run(X)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"score": "margin"}, "a policy of the score 'confidence' of the graphs, got 'margin'"),
     ({"thresholds": np.zeros(3)}, "expected 2 thresholds, got 3")],
)  # fmt: skip
def test_a_policy_of_another_bundle_is_refused(runner, change, message):
    with pytest.raises(ValueError, match=message):
        runner.run(X, replace(runner.policy, **change))
    with pytest.raises(TypeError, match="expected a policy of suffice_runtime, got dict"):
        runner.run(X, {})


def test_an_answer_and_a_runner_describe_themselves(runner):
    assert repr(runner) == "Runner(classification, 3 exits, input float32 (N, 4))"
    answer = runner.run(X)
    counts = np.bincount(answer.exit)
    assert repr(answer).startswith(f"Answer(50 examples: {counts[0]} at exit 0, {counts[1]} at exit 1")
    assert isinstance(runner.policy, Policy)
    assert isinstance(answer.prediction, Prediction)


def test_a_policy_that_was_made_for_another_network_is_refused(written, tmp_path):
    other = bundles.write(tmp_path / "bundle")
    bundles.edit(other, lambda manifest: manifest["hashes"].update(calibrated="9" * 64))
    runner, x = Runner(written()), bundles.inputs(5)
    with pytest.raises(ValueError, match=r"made for this network, 111111111111…, got one for 999999999999…"):
        runner.run(x, Runner(other).policy)
