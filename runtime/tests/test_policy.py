from dataclasses import replace

import numpy as np

import bundles
from suffice_runtime.coin import hash_to_unit

X = bundles.inputs(400)


def test_a_mixed_policy_uses_the_thresholds_that_the_coin_assigns(opened):
    runner = opened(**bundles.MIXED)
    answer, coin = runner.run(X), hash_to_unit([X])
    first, second = bundles.exits(X), bundles.exits(X, (np.inf, -1.0))
    assert answer.exit.tolist() == np.where(coin < 0.4, second, first).tolist()
    # The coin is uniform: 400 examples, five standard errors of √(0.4 · 0.6 / 400).
    assert abs((coin < 0.4).mean() - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 400)
    assert (first != second).sum() > 100


def test_the_coin_of_an_example_depends_on_nothing_else(opened):
    runner = opened(**bundles.MIXED)
    together = runner.run(X[:40]).exit
    assert [int(runner.run(x[None]).exit[0]) for x in X[:40]] == together.tolist()
    assert runner.run(X[:40][::-1]).exit.tolist() == together[::-1].tolist()


def test_the_coin_of_a_text_does_not_depend_on_padding_at_either_end(opened):
    runner = opened(tokens=True, **{**bundles.MIXED, "thresholds": [-9.0, -9.0], "alternative": ["inf", "inf"]})
    x = bundles.texts(60, 5)
    behind = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in x.items()}
    before = {name: np.pad(array, ((0, 0), (3, 0))) for name, array in x.items()}
    marked = {**behind, "input_ids": np.where(behind["attention_mask"] == 0, 7, behind["input_ids"])}
    exits = runner.run(x).exit
    assert set(exits) == {0, 2}
    for padded in (behind, before, marked):
        assert runner.run(padded).exit.tolist() == exits.tolist()


def test_infinite_thresholds_stop_everything_or_nothing(runner):
    for thresholds, exit_index in (((-np.inf, 0), 0), ((np.inf, -np.inf), 1), ((np.inf, np.inf), 2)):
        policy = replace(runner.policy, thresholds=np.array(thresholds, dtype=np.float64))
        assert (runner.run(X, policy).exit == exit_index).all()


def test_a_policy_describes_itself_with_its_budget_or_its_promise(opened):
    assert repr(opened().policy) == "Policy(confidence, budget 2,500 macs, expected 2,490.5 macs)"
    promised = opened(budget=None, promise={"loss": "agreement", "max_loss": 0.02, "confidence": None}).policy
    assert "Promise(loss='agreement', max_loss=0.02, confidence=None), expected 2,490.5 macs" in repr(promised)
    assert "sets 'aps' with coverage 0.9" in repr(opened(sets=bundles.SETS).policy)
