import math
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy.stats import betabinom

import suffice
from suffice import conformalize, run, run_stream
from suffice.budget.sets import examples_needed, quantile
from tests import builders, tolerances
from tests.robustness.surroundings import anywhere

NET = builders.network(scale=3.0)
X = builders.inputs(4000)
Y = builders.sampled_labels(NET(X)[-1], temperature=2.0)  # the network is overconfident
ALL = ["aps", "lac", "raps"]


@cache
def calibrated():
    return builders.untuned(NET, X[:200])


@cache
def policy(score="confidence"):
    return suffice.allocate(calibrated(), [X[:500]], 0.7, score=score)


def loader(start=500, stop=2500):
    return builders.batched(X[start:stop], Y[start:stop], 250)


@cache
def regression(outputs=2):
    net = builders.network(classes=outputs)
    targets = X[:, :outputs] * X[:, 1 : 1 + outputs] + 0.1 * builders.inputs(len(X), outputs, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = suffice.calibrate(net, [(X[:300], targets[:300])], [(X[:300], targets[:300])], likelihood="regression")
    return made, suffice.allocate(made, [X[:500]], 0.7, score="variance"), targets


def check_coverage(covered, exits, policy):
    """Check the counts of covered examples of each exit by the beta-binomial distribution of split conformal sets.

    With n calibration scores without ties and their k-th smallest as the threshold, the coverage of new examples has
    the distribution Beta(k, n + 1 − k). Ties, and sets of whole labels, only raise it.
    """
    rule = policy.sets
    for k, n in ((k, n) for k, n in enumerate(rule.counts) if n):
        hits = covered[exits == k]
        rank = math.ceil((n + 1) * rule.coverage - 1e-9)
        assert int(hits.sum()) >= betabinom.ppf(1e-6, len(hits), rank, n + 1 - rank), k
        if rule.method == "lac" or rule.randomized or rule.method == "interval":
            assert int(hits.sum()) <= betabinom.ppf(1 - 1e-6, len(hits), rank, n + 1 - rank), k


@pytest.mark.parametrize("score", ["confidence", "patience"])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
@pytest.mark.parametrize(("method", "randomized"), [("lac", False), ("aps", False), ("aps", True), ("raps", True)])
def test_sets_of_every_exit_cover_new_examples_as_stated(method, randomized, coverage, score):
    made = conformalize(calibrated(), policy(score), loader(), coverage, method, randomized=randomized, unpenalized=1)
    answer = run(calibrated(), made, X[2500:])
    assert answer.set.coverage == coverage
    check_coverage(answer.set.contains(Y[2500:]), answer.exit, made)


@pytest.mark.parametrize("outputs", [1, 2])
def test_intervals_of_every_exit_cover_new_targets_as_stated(outputs):
    on, its_policy, targets = regression(outputs)
    made = conformalize(on, its_policy, builders.batched(X[500:2500], targets[500:2500], 250), 0.9)
    assert made.sets.method == "interval"
    answer = run(on, made, X[2500:])
    check_coverage(answer.set.contains(targets[2500:]), answer.exit, made)
    middle = (answer.set.low + answer.set.high) / 2
    size = float(answer.set.high.abs().max())
    torch.testing.assert_close(middle, answer.mean.double(), rtol=0, atol=4 * size * tolerances.gamma(4, torch.float64))


@pytest.mark.parametrize("by_exit", [True, False])
def test_over_many_calibration_sets_the_mean_coverage_is_the_stated_one(by_exit):
    """Sets of the first 30 examples, drawn again and again from one pool; its mean is in [1 − α, 1 − α + 1/(n + 1)]."""
    draws, n, coverage = 2000, 30, 0.8
    answer = run(calibrated(), policy(), X)
    rule = conformalize(calibrated(), policy(), loader(), coverage, "lac").sets
    scores = rule.scores(answer.prediction, Y, None)
    pool = scores[answer.exit == 0] if by_exit else scores
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(draws):
        chosen = torch.randint(len(pool), (n,), generator=generator)
        covered.append(float((pool <= quantile(pool[chosen], coverage)).double().mean()))
    mean, sampling = sum(covered) / draws, tolerances.mean(float(torch.tensor(covered).std()), draws)
    assert coverage - sampling <= mean <= coverage + 1 / (n + 1) + sampling


def test_the_uncorrected_quantile_would_cover_too_little():
    """Without (n + 1) the simulation fails, so it is able to: the mean coverage is 24/31 instead of 24/30."""
    answer = run(calibrated(), policy(), X)
    scores = conformalize(calibrated(), policy(), loader(), 0.8, "lac").sets.scores(answer.prediction, Y, None)
    generator, covered = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        chosen = scores[torch.randint(len(scores), (30,), generator=generator)]
        covered.append(float((scores <= chosen.sort().values[23]).double().mean()))
    values = torch.tensor(covered)
    assert float(values.mean()) < 0.8 - tolerances.mean(float(values.std()), 2000)


def test_one_threshold_covers_over_all_exits_but_not_at_each():
    made = conformalize(calibrated(), policy(), loader(), 0.8, "lac", by_exit=False)
    assert len(made.sets.thresholds.unique()) == 1
    answer = run(calibrated(), made, X[2500:])
    covered = answer.set.contains(Y[2500:])
    n, rank = 2000, math.ceil(2001 * 0.8)
    low, high = betabinom.ppf([1e-6, 1 - 1e-6], 1500, rank, n + 1 - rank)
    assert low <= int(covered.sum()) <= high
    rates = [float(covered[answer.exit == k].double().mean()) for k in range(3)]
    assert max(rates) - min(rates) > 0.05
    assert not made.sets.by_exit


def test_the_answers_and_their_exits_are_those_of_the_policy_without_sets():
    made = conformalize(calibrated(), policy("patience"), loader(), randomized=True)
    before, after = (run(calibrated(), one, X[:300]) for one in (policy("patience"), made))
    assert torch.equal(before.exit, after.exit)
    assert torch.equal(before.probs, after.probs)
    assert before.set is None
    assert replace(made, sets=None).needs_coin == policy("patience").needs_coin


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("score", ["confidence", "patience"])
def test_a_set_is_the_same_in_any_batch_order_and_stream(score, randomized):
    made = conformalize(calibrated(), policy(score), loader(), 0.9, "aps", randomized=randomized)
    x = X[2500:2800]
    whole = run(calibrated(), made, x).set.members
    halves = torch.cat([run(calibrated(), made, part, buckets=(64,)).set.members for part in x.split(37)])
    turned = run(calibrated(), made, x.flip(0)).set.members.flip(0)
    streamed = torch.cat([one.answer.set.members for one in run_stream(calibrated(), made, x.split(41), size=32)])
    # the network's kernels round by the size of the batch, which may move a label that is within 1e-5 of the threshold
    for other in (halves, turned, streamed):
        assert int((other != whole).sum()) <= 1


def test_randomized_sets_may_be_empty_and_others_never_are():
    sizes = []
    for randomized in (False, True):
        made = conformalize(calibrated(), policy(), loader(), 0.3, "aps", randomized=randomized)
        sizes.append(run(calibrated(), made, X[2500:]).set.size)
    assert int(sizes[0].min()) == 1
    assert int(sizes[1].min()) == 0


def test_a_penalty_makes_the_sizes_of_sets_more_alike():
    made = [
        conformalize(calibrated(), policy(), loader(), 0.95, "raps", penalty=penalty, unpenalized=1)
        for penalty in (0.0, 2.0)
    ]
    plain = conformalize(calibrated(), policy(), loader(), 0.95, "aps")
    sets = [run(calibrated(), one, X[2500:]).set.members for one in (*made, plain)]
    assert torch.equal(sets[0], sets[2])
    sizes = [members.sum(dim=1).double() for members in sets]
    assert float(sizes[1].std()) < float(sizes[0].std())


@pytest.mark.parametrize("coverage", [0.9, 0.99])
def test_too_few_examples_at_an_exit_are_refused_with_the_number_needed(coverage):
    with pytest.raises(
        ValueError, match=rf"expected at least {examples_needed(coverage)} calibration examples at each"
    ):
        conformalize(calibrated(), policy(), [(X[500:512], Y[500:512])], coverage)


def test_as_many_examples_as_stated_are_enough_and_one_fewer_are_not():
    everything = replace(policy(), thresholds=torch.tensor([-math.inf, 0.0], dtype=torch.float64))
    made = conformalize(calibrated(), everything, [(X[:9], Y[:9])], 0.9)
    assert made.sets.counts == (9, 0, 0)
    assert made.sets.thresholds[1:].tolist() == [math.inf, math.inf]  # nothing comes there
    with pytest.raises(ValueError, match="got 8 at exit 0 of 8; pass about"):
        conformalize(calibrated(), everything, [(X[:8], Y[:8])], 0.9)
    with pytest.raises(ValueError, match=r"expected at least 9 calibration examples .* got 8"):
        conformalize(calibrated(), policy(), [(X[:8], Y[:8])], 0.9, by_exit=False)
    assert conformalize(calibrated(), policy(), [(X[:9], Y[:9])], 0.9, by_exit=False).sets.thresholds.isfinite().all()


def test_exits_where_nothing_can_stop_need_no_examples():
    never = replace(policy(), thresholds=torch.full((2,), math.inf, dtype=torch.float64), alternative=None, portion=0.0)
    made = conformalize(calibrated(), never, [(X[:20], Y[:20])], 0.9)
    assert made.sets.counts == (0, 0, 20)
    mixed = replace(never, alternative=torch.tensor([-math.inf, 0.0], dtype=torch.float64), portion=0.5)
    with pytest.raises(ValueError, match="at exit 0"):
        conformalize(calibrated(), mixed, [(X[:12], Y[:12])], 0.9)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"coverage": 90}, "expected a coverage between 0 and 1, got 90; 0.9 is 90 %"),
        ({"method": "interval"}, "expected method to be one of .* for a classification, got 'interval'"),
        ({"method": "naive"}, "expected method to be one of .*, got 'naive'"),
        ({"method": "lac", "randomized": True}, "expected method 'aps' or 'raps' with randomized=True, got 'lac'"),
        ({"penalty": -1.0}, "expected a finite penalty of at least 0, got -1.0"),
        ({"penalty": math.nan}, "expected a finite penalty of at least 0, got nan"),
        ({"unpenalized": -1}, "expected unpenalized to be an integer of at least 0, got -1"),
        ({"unpenalized": 1.5}, "expected unpenalized to be an integer of at least 0, got 1.5"),
    ],
)
def test_choices_out_of_range_are_refused_before_data_are_read(choices, expected):
    with pytest.raises(ValueError, match=expected):
        conformalize(calibrated(), policy(), [], **choices)


def test_objects_that_do_not_belong_together_are_refused():
    other = builders.untuned(builders.network(seed=1), X[:50])
    with pytest.raises(ValueError, match="expected a policy for this calibrated network"):
        conformalize(other, policy(), loader())
    with pytest.raises(TypeError, match="expected a Calibrated and then a Policy"):
        conformalize(policy(), calibrated(), loader())
    with pytest.raises(ValueError, match=r"expected labels in \[0, 4\), got -100"):
        conformalize(calibrated(), policy(), [(X[:9], torch.full((9,), -100))])
    with pytest.raises(ValueError, match="labels are needed"):
        conformalize(calibrated(), policy(), [X[:9]])
    on, its_policy, _ = regression()
    with pytest.raises(ValueError, match=r"expected method to be one of .*'interval'.* for a regression, got 'aps'"):
        conformalize(on, its_policy, [], method="aps")


def test_a_rule_of_another_kind_of_prediction_is_refused_when_run():
    rule = conformalize(calibrated(), policy(), loader(), method="lac").sets
    with pytest.raises(ValueError, match=r"expected method to be one of .* for a classification, got 'interval'"):
        run(calibrated(), replace(policy(), sets=replace(rule, method="interval")), X[:3])


@pytest.mark.parametrize("options", [{"method": "lac"}, {"randomized": True}, {"method": "raps", "by_exit": False}])
def test_sets_travel_with_a_saved_policy(tmp_path, options):
    made = conformalize(calibrated(), policy(), loader(), 0.9, **options)
    suffice.save(made, tmp_path / "policy")
    again = suffice.load(tmp_path / "policy")
    assert torch.equal(again.sets.thresholds, made.sets.thresholds)
    assert replace(again.sets, thresholds=made.sets.thresholds) == replace(made.sets, thresholds=made.sets.thresholds)
    before, after = (run(calibrated(), one, X[:300]).set for one in (made, again))
    assert torch.equal(before.members, after.members)
    assert before.coverage == after.coverage


def test_a_plain_classifier_and_a_binary_one_have_sets_too():
    plain = builders.identity_network(4)
    on = suffice.calibrate(plain, None, [(NET(X)[-1].detach(), Y)], structure=None)
    one = suffice.allocate(on, [NET(X)[-1].detach()], 1.0)
    made = conformalize(on, one, [(NET(X)[-1].detach()[:500], Y[:500])], 0.9, "aps")
    assert run(on, made, NET(X)[-1].detach()[:5]).set.members.shape == (5, 4)
    net = builders.network(classes=1)
    labels = (torch.rand(len(X), generator=torch.Generator().manual_seed(0)) < net(X)[-1][:, 0].sigmoid()).long()
    binary = suffice.calibrate(net, None, [(X, labels)], structure=None, likelihood="binary")
    its_policy = suffice.allocate(binary, [X], 0.7)
    answer = run(binary, conformalize(binary, its_policy, [(X, labels)], 0.9, "lac"), X)
    assert answer.set.members.shape == (len(X), 2)
    assert float(answer.set.contains(labels).double().mean()) >= 0.9


def test_an_empty_batch_has_no_sets():
    made = conformalize(calibrated(), policy(), loader(), randomized=True)
    assert len(run(calibrated(), made, X[:0]).set) == 0


@anywhere
def test_the_ambient_modes_change_nothing(surrounding):
    expected = conformalize(calibrated(), policy(), loader(), randomized=True).sets
    with surrounding():
        made = conformalize(calibrated(), policy(), loader(), randomized=True).sets
    assert torch.equal(made.thresholds, expected.thresholds)
    assert not made.thresholds.is_inference()


def test_several_labels_are_refused_with_what_bounds_their_loss():
    targets = (X[:200] > 0).long()[:, :3]
    net = builders.network(classes=3)
    made = suffice.calibrate(net, None, [(X[:200], targets)], structure=None, likelihood="multilabel")
    chosen = suffice.allocate(made, [X[:200]], 0.8)
    with pytest.raises(
        ValueError, match=r"a likelihood with prediction sets, .* got 'multilabel'; suffice.control_risk"
    ):
        conformalize(made, chosen, [], 0.9)
