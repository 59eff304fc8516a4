"""Inputs that differ in length or size from batch to batch: their costs, budgets and streams."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suffice
from suffice import allocate, control_risk, cost, evaluation, run, run_stream
from suffice.budget import scores
from suffice.budget.thresholds.families import shares_of
from suffice.network import batch_size, join, select
from tests import builders
from tests.budget import ragged

pytestmark = pytest.mark.filterwarnings("ignore:expected a mean cost of")  # data are few

KINDS = pytest.mark.parametrize("kind", ragged.KINDS)


@cache
def calibrated_for(kind, ensemble="average"):
    """Return a network of a kind, calibrated with inputs of a single shape."""
    return builders.untuned(ragged.network(kind), ragged.batch(kind, 60, (3, 3), seed=9), ensemble=ensemble)


@cache
def policy_for(kind, ensemble="average", score="confidence"):
    return allocate(calibrated_for(kind, ensemble), ragged.batches(kind), 0.7, score=score)


def counted(calibrated, one):
    """Return the costs (K) of a single example, counted directly."""
    network = cost.count(calibrated.network, one)
    return network.with_uncertainty(calibrated.costs.uncertainty).cumulative


def one_of(x, i):
    return select(x, torch.tensor([i]))


@settings(deadline=None, max_examples=30)
@given(
    kind=st.sampled_from(ragged.KINDS),
    shapes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8),
    size=st.integers(1, 30),
    delay=st.integers(0, 5),
    ensemble=st.sampled_from(["average", "product", False]),
    score=st.sampled_from(["confidence", "patience"]),
    seed=st.integers(0, 1000),
)
def test_a_stream_of_any_lengths_gives_what_each_batch_and_each_example_gives_alone(
    kind, shapes, size, delay, ensemble, score, seed
):
    calibrated, policy = calibrated_for(kind, ensemble), policy_for(kind, ensemble, score)
    batches = [ragged.batch(kind, count, lengths, seed + i) for i, (count, *lengths) in enumerate(shapes)]
    served = list(run_stream(calibrated, policy, batches, size=size, delay=delay))
    assert len(served) == len(batches)
    function = scores.resolve(score)
    for x, got in zip(batches, served, strict=True):
        assert got.errors == ()
        assert got.positions.tolist() == list(range(batch_size(x)))
        if not batch_size(x):
            assert got.answer is None
            continue
        alone, every = run(calibrated, policy, x), calibrated(x)
        values = torch.stack([function(prediction, None).double() for prediction in every[:-1]])
        near = ((values - policy.thresholds[:, None]).abs() <= 1e-4).any(dim=0)
        clear, macs = (~near).nonzero()[:, 0], torch.tensor(counted(calibrated, one_of(x, -1 % batch_size(x))))
        assert torch.equal(got.answer.exit[clear], alone.exit[clear])
        assert torch.equal(got.answer.macs, macs[got.answer.exit])
        assert torch.equal(alone.macs, macs[alone.exit])
        probs = torch.stack([prediction.probs for prediction in every])[got.answer.exit, torch.arange(batch_size(x))]
        torch.testing.assert_close(got.answer.probs, probs, atol=1e-5, rtol=0)
        for i in clear[:1].tolist():
            single = run(calibrated, policy, one_of(x, i))
            assert (single.exit[0], single.macs[0]) == (alone.exit[i], alone.macs[i])


@KINDS
def test_no_batch_waits_for_more_than_the_delay_whatever_the_lengths(kind):
    calibrated, policy, read = calibrated_for(kind), policy_for(kind), []

    def source():
        for number, x in enumerate(ragged.batches(kind, 12, 10)):
            read.append(number)
            yield x

    for delay in (0, 1, 4):
        read.clear()
        behind = [
            len(read) - 1 - number
            for number, _ in enumerate(run_stream(calibrated, policy, source(), size=1000, delay=delay))
        ]
        assert len(behind) == 12
        assert max(behind) == delay


def test_examples_of_one_shape_share_a_batch_however_many_shapes_there_are():
    net = ragged.network("text")
    calibrated = builders.untuned(net, ragged.batch("text", 60, (3, 3)))
    policy = allocate(calibrated, ragged.batches("text"), 1.0)
    lengths = [4, 7, 4, 7, 4, 7, 4, 7]
    for length in set(lengths):
        calibrated.costs_for(ragged.batch("text", 1, (length, 1)))
    calls = builders.watch_batch_sizes(net)
    batches = [ragged.batch("text", 10, (length, 1), seed) for seed, length in enumerate(lengths)]
    list(run_stream(calibrated, policy, batches, size=20, delay=8))
    assert [size for stage, size in calls if stage == 0] == [20] * 4


def test_images_share_a_batch_again_where_a_stage_has_made_them_alike():
    net = ragged.network("images")
    calibrated = builders.untuned(net, ragged.batch("images", 60, (3, 3)))
    policy = allocate(calibrated, ragged.batches("images"), 1.0)
    batches = ragged.batches("images", 4, 10)
    for x in batches:
        calibrated.costs_for(x)
    calls = builders.watch_batch_sizes(net)
    list(run_stream(calibrated, policy, batches, size=40, delay=8))
    assert calls == [(0, 10)] * 4 + [(1, 10)] * 4 + [(2, 40)]


@KINDS
@pytest.mark.parametrize("method", ["geometric", "optimal"])
def test_a_budget_is_the_mean_of_what_the_examples_cost_themselves(kind, method):
    calibrated, batches = calibrated_for(kind), ragged.batches(kind, 24, 25)
    costs = torch.tensor([counted(calibrated, one_of(x, 0)) for x in batches]).double()
    policy = allocate(calibrated, batches, 0.6, method=method)
    assert policy.budget == pytest.approx(0.6 * float(costs[:, -1].mean()))
    answers = [run(calibrated, policy, x) for x in batches]
    spent = float(torch.cat([answer.macs for answer in answers]).double().mean())
    shares = shares_of(torch.cat([answer.exit for answer in answers]), len(calibrated.exits))
    assert spent == pytest.approx(policy.expected)
    torch.testing.assert_close(shares, policy.shares)
    assert spent <= 1.005 * policy.budget
    if method == "geometric":
        assert spent >= 0.995 * policy.budget


def test_an_optimal_policy_is_the_best_for_what_the_examples_cost_themselves():
    """More cost buys no more chance from there on than up to there, by trying all thresholds; the last exit is sure."""
    net = ragged.network("recurrent")
    with torch.no_grad():
        net.exits[0].classifier.weight *= 0.1
    calibrated = builders.untuned(net, ragged.batch("recurrent", 60, (3, 3)), structure=None, ensemble=False)

    def chances_of(x):
        return [prediction.chance_correct for prediction in calibrated(x)]

    def unrelated(prediction, state):
        return (20 * state.sum(dim=(1, 2))).sin()

    batches = [ragged.batch("recurrent", 15, (length, 1), seed) for seed, length in enumerate((1, 2, 40, 3, 30))]
    chances = torch.stack([torch.cat(each) for each in zip(*map(chances_of, batches), strict=True)])
    values = torch.cat([unrelated(None, calibrated.step(0, x, None)[0]) for x in batches])
    costs = torch.tensor([counted(calibrated, one_of(x, 0)) for x in batches]).double().repeat_interleave(15, dim=0).T

    def outcome(threshold):
        index = torch.where(values.double() >= threshold, 0, 1)[None]
        return float(costs.gather(0, index).mean()), float(chances.gather(0, index).mean())

    others = [outcome(float(threshold)) for threshold in [math.inf, -math.inf, *values]]
    for budget in (0.72, 0.8, 0.9):
        policy = allocate(calibrated, batches, budget, score=unrelated, method="optimal")
        for member in (policy.thresholds, policy.alternative):
            if member is not None:
                at, chance = outcome(float(member[0]))
                onward = [(other - chance) / (cost_of - at) for cost_of, other in others if cost_of > at]
                so_far = [(chance - other) / (at - cost_of) for cost_of, other in others if cost_of < at]
                assert max(onward, default=0.0) <= min(so_far, default=math.inf) + 1e-9


@pytest.mark.parametrize("score", ["patience", lambda prediction, state: torch.zeros(len(prediction))])
def test_tied_scores_of_texts_of_any_length_meet_the_budget_by_a_mixture(score):
    calibrated, batches = calibrated_for("text"), ragged.batches("text", 60, 25)
    policy = allocate(calibrated, batches, 0.7, score=score)
    assert 0 < policy.portion < 1
    spent = torch.cat([run(calibrated, policy, x).macs for x in batches]).double()
    assert float(spent.mean()) == pytest.approx(policy.expected)
    assert policy.expected == pytest.approx(policy.budget, rel=0.005)


def test_batches_of_one_shape_and_the_order_of_shapes_do_not_change_a_policy():
    calibrated, batches = calibrated_for("text"), ragged.batches("text", 12, 20)
    policy = allocate(calibrated, batches, 0.7)
    singles = [one_of(x, i) for x in batches for i in range(20)]
    again = allocate(calibrated, singles[::-1], 0.7)
    torch.testing.assert_close(again.thresholds, policy.thresholds, atol=1e-4, rtol=1e-4)
    assert again.expected == pytest.approx(policy.expected)
    same = [x for x in batches if x.shape[1] == batches[0].shape[1]]
    assert allocate(calibrated, same, 0.7).thresholds.equal(allocate(calibrated, [join(same)], 0.7).thresholds)


def test_long_texts_that_stop_late_cost_what_they_cost():
    """Stopping at the first exit all short texts and no long one costs more than the shares of the exits suggest."""
    calibrated = calibrated_for("text")
    short, long = ragged.batch("text", 30, (2, 1)), ragged.batch("text", 10, (40, 1))

    def brief(prediction, state):
        return torch.full((len(prediction),), float(state.shape[1] < 10))

    first, last = counted(calibrated, one_of(short, 0))[0], counted(calibrated, one_of(long, 0))[-1]
    by_hand = (30 * first + 10 * last) / 40
    policy = allocate(calibrated, [short, long], by_hand, unit="macs", score=brief)
    assert policy.expected == by_hand
    assert policy.shares.tolist() == [0.75, 0, 0.25]


def test_a_budget_outside_the_range_of_these_lengths_is_refused_with_their_range():
    calibrated, batches = calibrated_for("text"), ragged.batches("text")
    costs = torch.tensor([counted(calibrated, one_of(x, 0)) for x in batches]).double().mean(dim=0)
    message = rf"between {costs[0]:.4g} \(all stop .*\) and {costs[-1]:.4g} \(none .*\), in multiply-adds, got"
    for budget in (float(costs[0]) - 1, float(costs[-1]) + 1, math.nan):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            allocate(calibrated, batches, budget, unit="macs")


@pytest.mark.parametrize("method", ["geometric", "optimal"])
def test_a_budget_in_milliseconds_is_refused_for_inputs_of_several_shapes(method):
    calibrated, batches = calibrated_for("text"), ragged.batches("text")
    profile = cost.profile(calibrated, batches[0], batch_sizes=(8,), repeats=1)
    with pytest.raises(ValueError, match=r"expected inputs of one shape for a budget in 'ms', .* got 6 that differ"):
        allocate(calibrated, batches, 0.1, unit="ms", profile=profile, method=method)


@KINDS
def test_a_guarantee_expects_the_cost_of_the_lengths_that_it_was_made_with(kind):
    calibrated, batches = calibrated_for(kind), ragged.batches(kind)
    loader = [(x, calibrated(x)[-1].label) for x in batches]
    policy = control_risk(calibrated, loader, 0.3, 0.9)
    assert 0 < policy.shares[0] < 1
    spent = torch.cat([run(calibrated, policy, x).macs for x in batches]).double()
    assert policy.expected == pytest.approx(float(spent.mean()))


@KINDS
def test_evaluation_measures_the_cost_of_each_length(kind):
    calibrated, batches = calibrated_for(kind), ragged.batches(kind)
    loader = [(x, calibrated(x)[-1].label) for x in batches]
    outcome = evaluation.predict(calibrated, loader)
    costs = torch.tensor([counted(calibrated, one_of(x, 0)) for x in batches]).double().repeat_interleave(20, dim=0)
    for answer in evaluation.over_budgets(calibrated, outcome, outcome):
        spent = costs.gather(1, answer.exit_index[:, None])
        assert answer.macs == pytest.approx(float(spent.mean()))
        assert costs[:, 0].mean() <= answer.requested <= costs[:, -1].mean()
    (row,) = evaluation.ranking.by_score(
        outcome, evaluation.ranking.rankings(calibrated, loader, loader, {"confidence": "confidence"})
    )
    curve = evaluation.over_budgets(calibrated, outcome, outcome)
    assert [point["macs"] for point in row["curve"]] == pytest.approx([answer.macs for answer in curve])


@pytest.mark.filterwarnings("ignore:.* ended at the edge")
@KINDS
def test_every_step_accepts_batches_of_different_lengths(kind, tmp_path):
    net, generator = ragged.network(kind), torch.Generator()
    loaders = [[(x, net(x)[-1].argmax(dim=1)) for x in ragged.batches(kind, seed=seed)] for seed in (0, 50)]
    calibrated = suffice.calibrate(net, *loaders, samples=2, generator=generator.manual_seed(0))
    updated = calibrated.update(loaders[1])
    suffice.save(calibrated, tmp_path / "calibrated")
    loaded = suffice.load(tmp_path / "calibrated", network=net)
    policy = allocate(calibrated, loaders[1], 0.8)
    for x, _ in loaders[0]:
        answer, again = run(calibrated, policy, x), run(loaded, policy, x)
        assert torch.equal(answer.macs, again.macs)
        assert torch.equal(answer.probs, again.probs)
        assert answer.macs.tolist() == [counted(calibrated, one_of(x, 0))[k] for k in answer.exit.tolist()]
        assert len(updated(x)[0]) == 20


@pytest.mark.filterwarnings("ignore:.* ended at the edge")
def test_costs_that_were_given_hold_for_all_lengths_and_after_reloading(tmp_path):
    net, batches = ragged.network("text"), ragged.batches("text")
    loader = [(x, net(x)[-1].argmax(dim=1)) for x in batches]
    given_costs = cost.Costs((100, 200, 300), (1, 2, 3), (0, 0, 0))
    calibrated = suffice.calibrate(net, None, loader, structure=None, costs=given_costs)
    suffice.save(calibrated, tmp_path / "calibrated")
    for each in (calibrated, suffice.load(tmp_path / "calibrated", network=net), calibrated.with_temperature(2.0)):
        policy = allocate(each, loader, 0.8)
        assert policy.budget == pytest.approx(0.8 * calibrated.costs.cumulative[-1])
        for x in batches:
            answer = run(each, policy, x)
            assert torch.equal(answer.macs, torch.tensor(calibrated.costs.cumulative)[answer.exit])


@pytest.mark.parametrize("kind", ["text", "patches"])
def test_threads_with_inputs_of_different_lengths_get_the_answers_of_one(kind):
    calibrated, policy = calibrated_for(kind), policy_for(kind)
    fresh = builders.untuned(ragged.network(kind), ragged.batch(kind, 60, (3, 3), seed=9))
    batches = ragged.batches(kind, 18, 7, seed=100)
    expected = [run(calibrated, policy, x) for x in batches]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda x: run(fresh, policy, x), batches))
        streams = list(
            pool.map(lambda _: [one.answer for one in run_stream(fresh, policy, batches, size=16)], range(3))
        )
    for got in [answers, *streams]:
        for answer, other in zip(got, expected, strict=True):
            assert torch.equal(answer.macs, other.macs)
            torch.testing.assert_close(answer.probs, other.probs, atol=1e-5, rtol=0)


def test_an_example_that_fails_leaves_the_others_of_its_length_and_their_costs():
    """Also if it is the first of a length that is new, whose costs are then those of another."""
    net = ragged.network("recurrent")
    calibrated = builders.untuned(net, ragged.batch("recurrent", 60, (3, 3)))
    policy = allocate(calibrated, ragged.batches("recurrent"), 1.0)
    batches = ragged.batches("recurrent", 4, 5, seed=7)
    bad = batches[2][0].clone()

    def fail(module, args):
        if any(torch.equal(x, bad) for x in args[0]):
            raise ArithmeticError("a stage that fails for this example")

    net.stages[0].register_forward_pre_hook(fail)
    fresh = builders.untuned(net, ragged.batch("recurrent", 60, (3, 3)))
    served = list(run_stream(fresh, policy, batches, size=8))
    assert [len(one.errors) for one in served] == [0, 0, 1, 0]
    assert served[2].positions.tolist() == [1, 2, 3, 4]
    assert served[2].answer.macs.tolist() == [counted(calibrated, one_of(batches[2], 1))[-1]] * 4
