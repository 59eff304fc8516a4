import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice import Answer, Policy, Prediction, Regression, allocate, run
from suffice.budget import scores
from tests import builders


def policy_for(calibrated, thresholds, score="confidence"):
    exits = len(calibrated.exits)
    shares = torch.full((exits,), 1 / exits, dtype=torch.float64)
    thresholds = torch.tensor(thresholds, dtype=torch.float64)
    return Policy(thresholds, score, 0.0, 0.0, shares, calibrated.digest)


def every_exit_and_pick(calibrated, policy, x):
    """Return the exits by computing all of them, and which examples lie within 1e-5 of a threshold."""
    answers = calibrated(x)
    score = scores.resolve(policy.score)
    taken = torch.full((len(answers[0]),), len(answers) - 1)
    near = torch.zeros(len(answers[0]), dtype=torch.bool)
    for k in reversed(range(len(answers) - 1)):
        values, threshold = score(answers[k], None).double(), float(policy.thresholds[k])
        taken = torch.where(values >= threshold, k, taken)
        near |= (values - threshold).abs() <= 1e-5
    return answers, taken, near


threshold = st.one_of(st.sampled_from([-math.inf, math.inf]), st.floats(-3, 5, allow_nan=False))


@settings(deadline=None, max_examples=80)
@given(data=st.data(), n=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_running_gives_what_computing_every_exit_and_picking_gives(data, n, seed):
    widths = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4), label="widths")
    net = builders.network(
        widths,
        classes=data.draw(st.integers(2, 5), label="classes"),
        nested=data.draw(st.booleans(), label="nested state"),
        bias=data.draw(st.booleans(), label="bias"),
        seed=seed,
        scale=data.draw(st.sampled_from([0.5, 3.0, 30.0]), label="scale"),
    )
    x = builders.inputs(n, seed=seed)
    structure = data.draw(st.sampled_from(["kronecker", None]), label="structure")
    ensemble = data.draw(st.sampled_from(["average", "product", False]), label="ensemble")
    calibrated = builders.untuned(net, x, structure, ensemble, samples=4)
    thresholds = data.draw(st.lists(threshold, min_size=len(widths) - 1, max_size=len(widths) - 1), label="thresholds")
    score = data.draw(st.sampled_from(["confidence", "margin", "entropy"]), label="score")
    policy = policy_for(calibrated, thresholds, score)

    answer = run(calibrated, policy, x)
    every, taken, near = every_exit_and_pick(calibrated, policy, x)
    assert torch.equal(answer.exit[~near], taken[~near])
    for i, k in enumerate(answer.exit.tolist()):
        torch.testing.assert_close(answer.probs[i], every[k].probs[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(answer.aleatoric[i], every[k].aleatoric[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answer.entropy[i], every[k].entropy[i], atol=1e-4, rtol=1e-4)
    costs = torch.tensor(calibrated.costs.cumulative)
    assert torch.equal(answer.macs, costs[answer.exit])


NET = builders.network()
X = builders.inputs(50)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("ensemble", [False, "average"])
def test_finished_examples_leave_the_batch(ensemble, nested):
    net = builders.network(nested=nested)
    calibrated = builders.untuned(net, X, ensemble=ensemble)
    policy = allocate(calibrated, [X], 0.6)
    batch_sizes = builders.watch_batch_sizes(net)
    exits = run(calibrated, policy, X).exit
    reached = [int((exits >= k).sum()) for k in range(3)]
    assert reached[0] > reached[1] > reached[2] > 0
    assert batch_sizes == list(enumerate(reached))


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_no_stage_runs_behind_the_exit_where_all_have_stopped(stop):
    net = builders.network()
    calibrated = builders.untuned(net, X)
    thresholds = [math.inf, math.inf]
    if stop < 2:
        thresholds[stop] = -math.inf
    calibrated.costs_for(X)  # else the run would count them by a pass of one example
    batch_sizes = builders.watch_batch_sizes(net)
    answer = run(calibrated, policy_for(calibrated, thresholds), X)
    assert batch_sizes == [(k, 50) for k in range(stop + 1)]
    assert (answer.exit == stop).all()
    torch.testing.assert_close(answer.probs, calibrated(X)[stop].probs)


def test_the_budget_is_spent_on_the_data_that_it_was_made_for():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, builders.batched(X, size=7), 0.6)
    answer = run(calibrated, policy, X)
    assert float(answer.macs.double().mean()) == pytest.approx(policy.expected)
    assert torch.bincount(answer.exit, minlength=3).tolist() == (policy.shares * 50).round().tolist()


def test_answers_do_not_depend_on_the_batch():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    whole = run(calibrated, policy, X)
    for i in range(10):
        alone = run(calibrated, policy, X[i : i + 1])
        assert alone.exit.tolist() == whole.exit[i : i + 1].tolist()
        assert alone.macs.tolist() == whole.macs[i : i + 1].tolist()
        torch.testing.assert_close(alone.probs, whole.probs[i : i + 1])


def test_the_answer_shows_the_fields_of_its_prediction():
    calibrated = builders.untuned(NET, X)
    answer = run(calibrated, allocate(calibrated, [X], 0.6), X)
    for field in ("probs", "label", "confidence", "entropy", "aleatoric", "epistemic"):
        assert torch.equal(getattr(answer, field), getattr(answer.prediction, field))
        assert len(getattr(answer, field)) == 50
    assert answer.exit.dtype == answer.macs.dtype == torch.int64
    assert not answer.probs.requires_grad


@pytest.mark.parametrize(
    ("kind", "field", "message"),
    [
        ("classification", "mean", "expected an answer with 'mean', got a classification; use its probs"),
        ("regression", "probs", "expected an answer with 'probs', got a regression; use its mean and variance"),
    ],
)
def test_a_field_of_the_other_kind_is_refused_with_those_that_there_are(kind, field, message):
    one = torch.ones(2, 1)
    prediction = Prediction(one.log(), one[:, 0]) if kind == "classification" else Regression(one, one, one)
    answer = Answer(prediction, one[:, 0].long(), one[:, 0].long(), one)
    with pytest.raises(AttributeError, match=message):
        getattr(answer, field)


def test_a_custom_score_receives_the_state_of_the_examples_in_flight():
    net = builders.network(nested=True)
    calibrated = builders.untuned(net, X)
    received = []

    def score(prediction, state):
        received.append((len(prediction), len(state["h"]), len(state["past"]), state["age"].unique().tolist()))
        return state["h"][:, 0]

    policy = policy_for(calibrated, [0.0, 0.0], score)
    answer = run(calibrated, policy, X)
    states, state = [], X
    with torch.no_grad():
        for stage in net.stages:
            state = stage(state)
            states.append(state["h"][:, 0])
    expected = torch.where(states[0] >= 0, 0, torch.where(states[1] >= 0, 1, 2))
    assert answer.exit.tolist() == expected.tolist()
    reached = [50, int((expected > 0).sum())]
    assert received[:2] == [(reached[0], reached[0], 1, [1]), (reached[1], reached[1], 2, [2])]


@pytest.mark.parametrize(("value", "stops_at"), [(math.inf, 2), (-math.inf, 0)])
def test_an_infinite_threshold_keeps_its_meaning_under_infinite_scores(value, stops_at):
    """+inf stops nothing and −inf everything, whatever the score."""
    calibrated = builders.untuned(NET, X)
    policy = policy_for(calibrated, [value, value], lambda p, s: torch.full((len(p),), value))
    assert (run(calibrated, policy, X).exit == stops_at).all()


def test_a_score_that_equals_its_threshold_stops():
    calibrated = builders.untuned(NET, X)
    policy = policy_for(calibrated, [2.0, 1.0], lambda p, s: torch.ones(len(p)))
    assert (run(calibrated, policy, X).exit == 1).all()


def test_a_network_of_one_exit_runs():
    calibrated = builders.untuned(builders.network(widths=(6,)), X)
    answer = run(calibrated, allocate(calibrated, [X], 1.0), X)
    assert (answer.exit == 0).all()
    torch.testing.assert_close(answer.probs, calibrated(X)[0].probs)


def test_an_answer_is_shown_in_one_line():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    answer = run(calibrated, policy, X)
    stopped = ", ".join(f"{int((answer.exit == k).sum())} at exit {k}" for k in range(3))
    mean = f"{float(answer.macs.double().mean()):,.0f}"
    assert repr(answer) == f"Answer({len(X)} examples: {stopped}, {mean} multiply-adds each)"
    assert repr(run(calibrated, policy, X[:0])) == "Answer(0 examples)"


def test_an_empty_batch_has_an_empty_answer():
    calibrated = builders.untuned(NET, X)
    answer = run(calibrated, allocate(calibrated, [X], 0.6), X[:0])
    assert answer.probs.shape == (0, 4)
    assert len(answer.exit) == len(answer.macs) == 0


def test_a_policy_of_another_network_is_refused():
    calibrated, other = builders.untuned(NET, X), builders.untuned(builders.network(seed=1), X)
    policy = allocate(other, [X], 0.6)
    with pytest.raises(ValueError, match=f"{calibrated.digest[:12]}.*{other.digest[:12]}"):
        run(calibrated, policy, X)


def test_arguments_in_another_order_and_a_network_that_is_not_calibrated_are_refused():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    for arguments, types in [
        ((policy, calibrated, X), "Policy and Calibrated"),
        ((calibrated, X, policy), "Calibrated and Tensor"),
        ((NET, policy, X), "ExitNetwork and Policy"),
    ]:
        with pytest.raises(TypeError, match=f"expected a Calibrated and then a Policy, got {types}"):
            run(*arguments)


def test_a_policy_with_another_number_of_thresholds_is_refused():
    calibrated = builders.untuned(NET, X)
    policy = replace(allocate(calibrated, [X], 0.6), thresholds=torch.zeros(5))
    with pytest.raises(ValueError, match=r"expected 2 thresholds, .* got 5"):
        run(calibrated, policy, X)


def test_an_input_that_is_not_finite_is_refused():
    calibrated, x = builders.untuned(NET, X), X.clone()
    x[3, 0] = math.nan
    with pytest.raises(ValueError, match=r"finite logits at exit 0, .* position 3 "):
        run(calibrated, allocate(calibrated, [X], 0.6), x)


def test_bfloat16_networks_run():
    net, x = builders.network().bfloat16(), X.bfloat16()
    calibrated = builders.untuned(net, x)
    answer = run(calibrated, allocate(calibrated, [X], 0.6), x)
    assert answer.probs.dtype == torch.float32
    torch.testing.assert_close(answer.probs.sum(dim=1), torch.ones(50))


def test_a_score_that_is_not_a_number_is_named_by_its_position_in_the_original_batch():
    calibrated = builders.untuned(NET, X)
    first = calibrated(X)[0].confidence
    bad = int(first.argmin())

    def score(prediction, state):
        if len(prediction) == len(X):
            return prediction.confidence
        return torch.full((len(prediction),), torch.nan)

    policy = policy_for(calibrated, [float(first.sort().values[1]), 0.0], score)
    continuing = (first < policy.thresholds[0]).nonzero()[:, 0].tolist()
    assert continuing == [bad]
    with pytest.raises(ValueError, match=f"at exit 1, got NaN at position {bad}$"):
        run(calibrated, policy, X)


def test_scores_are_kept_for_the_exits_that_an_example_reached():
    calibrated = builders.untuned(NET, X)
    answer = run(calibrated, allocate(calibrated, [X], 0.6), X)
    assert answer.scores.shape == (50, 2)
    for k in range(2):
        reached = answer.exit >= k
        expected = scores.confidence(calibrated(X)[k]).double()
        torch.testing.assert_close(answer.scores[reached, k], expected[reached], atol=1e-4, rtol=1e-4)
        assert answer.scores[~reached, k].isnan().all()
