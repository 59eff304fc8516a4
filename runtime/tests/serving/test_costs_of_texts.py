"""The cost of texts is a fraction of that of the same texts at the last exit, whatever their length."""

import pytest

import bundles
from suffice_runtime.serving.engine import Engine


@pytest.mark.parametrize("tokens", [2, 5, 40])
def test_the_cost_does_not_depend_on_the_length_alone(opened, tokens):
    runner, x = opened(tokens=True), bundles.texts(30, tokens)
    engine = Engine(runner)
    try:
        answer = engine.submit(x).result(20).answer
    finally:
        engine.close()
    costs = bundles.text_costs(tokens)
    wanted = sum(costs[k] / costs[-1] for k in answer.exit) / len(answer)
    assert engine.watch().cost == pytest.approx(wanted)
    assert engine.watch().cost <= 1
