import math

import numpy as np
import pytest

import bundles
from suffice_runtime.coin import hash_to_unit, redraw
from suffice_runtime.prediction import Prediction, Regression
from suffice_runtime.sets import SetRule

X = bundles.inputs(200)
PROBS = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
PREDICTION = Prediction(np.log(PROBS), np.zeros(2))


def rule(method, thresholds=(0.85,), **choices):
    return SetRule(np.array(thresholds, dtype=np.float64), method, 0.9, True, (10,) * len(thresholds), **choices)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (rule("lac", [0.65]), [[0], [2]]),
        (rule("lac", [0.75]), [[0, 1], [2]]),
        (rule("aps", [0.69]), [[0, 1], [2]]),  # mass before each label: 0, 0.5, 0.8 and 0, 0.7, 0.9
        (rule("aps", [0.85]), [[0, 1, 2], [1, 2]]),
        (rule("raps", [0.69], penalty=0.2, unpenalized=1), [[0], [2]]),  # 0, 0.7, 1.2 and 0, 0.9, 1.3
        (rule("raps", [1.2 + 1e-9], penalty=0.2, unpenalized=1), [[0, 1, 2], [1, 2]]),
        (rule("aps", [math.inf]), [[0, 1, 2], [0, 1, 2]]),
    ],
)
def test_a_set_holds_the_labels_whose_score_is_not_above_the_threshold(made, expected):
    sets = made.sets(PREDICTION, np.zeros(2, dtype=np.int64), None)
    assert sets.labels() == expected
    assert sets.size.tolist() == [len(labels) for labels in expected]
    assert sets.coverage == 0.9


def test_each_exit_has_its_threshold():
    sets = rule("lac", [0.55, 0.85]).sets(PREDICTION, np.array([0, 1]), None)
    assert sets.labels() == [[0], [1, 2]]


def test_intervals_are_as_wide_as_the_standard_deviation_says():
    one = np.ones((2, 3), dtype=np.float32)
    prediction = Regression(one, 3 * one, np.array([[1, 6, 13]] * 2, dtype=np.float32))
    sets = rule("interval", [2.0, 0.5]).sets(prediction, np.array([0, 1]), None)
    assert sets.low.tolist() == [[-3, -5, -7], [0, -0.5, -1]]
    assert sets.high.tolist() == [[5, 7, 9], [2, 2.5, 3]]
    assert sets.size.tolist() == [12, 3]
    assert repr(sets) == "Intervals(2 examples, 3 outputs, coverage 0.9)"


def test_an_answer_has_the_sets_of_the_exits_where_its_examples_stopped(opened):
    answer, exits = opened(sets=bundles.SETS).run(X), bundles.exits(X)
    coin = redraw(hash_to_unit([X]))
    for i, k in enumerate(exits):
        probs = answer.probs[i].astype(np.float64)
        order = np.argsort(-probs, kind="stable")
        before = np.concatenate([[0], np.cumsum(probs[order])[:-1]]) + coin[i] * probs[order]
        scores = np.empty(3)
        scores[order] = before
        sure = abs(scores - bundles.SETS["thresholds"][k]) > 1e-5
        assert (answer.set.members[i] == (scores <= bundles.SETS["thresholds"][k]))[sure].all()
    assert {0, 1, 2, 3} >= set(answer.set.size) > {1}
    assert repr(answer.set).startswith("LabelSets(200 examples, coverage 0.9, ")


def test_sets_do_not_depend_on_the_batch(opened):
    runner = opened(sets=bundles.SETS)
    together = runner.run(X[:30]).set.members
    assert [runner.run(x[None]).set.members[0].tolist() for x in X[:30]] == together.tolist()


def test_a_regression_has_intervals(opened):
    rule = {**bundles.SETS, "method": "interval", "randomized": False, "thresholds": [1.0, 2.0, "inf"]}
    answer = opened("regression", sets=rule).run(X)
    factor = np.array([1.0, 2.0, np.inf])[answer.exit][:, None]
    half = factor * np.sqrt(answer.variance.astype(np.float64))
    np.testing.assert_allclose(answer.set.high - answer.mean, half, rtol=1e-6, atol=1e-6)
    assert np.isinf(answer.set.low[answer.exit == 2]).all()


def test_an_answer_without_a_rule_has_no_set(runner):
    assert runner.run(X).set is None
