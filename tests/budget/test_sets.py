import math

import numpy as np
import pytest
import torch

from suffice import Prediction, Regression
from suffice.budget.coin import hash_to_unit, redraw
from suffice.budget.sets import Intervals, LabelSets, SetRule, check_coverage, examples_needed, quantile
from tests import tolerances


def classes(n=200, count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, count, generator=generator, dtype=torch.float64)
    labels = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return Prediction(logits.log_softmax(dim=1), torch.zeros(n, dtype=torch.float64)), labels


def numbers(n=200, outputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance, error = torch.randn(3, n, outputs, generator=generator, dtype=torch.float64)
    variance = log_variance.exp()
    return Regression(mean, 0.3 * variance, 0.7 * variance), mean + 2 * variance.sqrt() * error


def rule(method="aps", threshold=1.0, **options):
    return SetRule(torch.tensor([threshold], dtype=torch.float64), method, 0.9, True, (100,), **options)


def by_hand(probs, label, method, u=0.0, penalty=0.01, unpenalized=5):
    """Compute the score of one label from the definition, with a loop over the labels that are more probable."""
    if method == "lac":
        return 1 - probs[label]
    order = sorted(range(len(probs)), key=lambda c: (-probs[c], c))
    rank = order.index(label) + 1
    score = sum(probs[c] for c in order[: rank - 1]) + u * probs[label]
    return score + (penalty * max(0, rank - unpenalized) if method == "raps" else 0)


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_scores_of_labels_are_those_of_the_definition(method, randomized):
    prediction, labels = classes()
    coin = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = redraw(coin).tolist() if randomized else [0.0] * 200
    made = rule(method, randomized=randomized, penalty=0.2, unpenalized=2)
    expected = [
        by_hand(p, y, method, v, 0.2, 2) for p, y, v in zip(prediction.probs.tolist(), labels.tolist(), u, strict=True)
    ]
    # probabilities e^l are rounded by the size of l, up to 37 in float64, and summed over 7 labels
    rounding = tolerances.gamma(2 * 37 + 7, torch.float64)
    assert made.scores(prediction, labels, coin).tolist() == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_a_set_contains_a_label_if_its_score_does_not_exceed_the_threshold(method, randomized):
    prediction, labels = classes()
    coin = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = rule(method, 0.7, randomized=randomized)
    sets = made.sets(prediction, torch.zeros(200, dtype=torch.long), coin)
    for label in range(7):
        same = torch.full_like(labels, label)
        assert torch.equal(sets.contains(same), made.scores(prediction, same, coin) <= 0.7)
    assert torch.equal(sets.size, torch.tensor([len(row) for row in sets.labels()]))


def test_intervals_contain_targets_whose_score_does_not_exceed_the_threshold():
    prediction, targets = numbers()
    made = rule("interval", 1.5)
    sets = made.sets(prediction, torch.zeros(200, dtype=torch.long), None)
    scores = made.scores(prediction, targets, None)
    assert torch.equal(sets.contains(targets), scores <= 1.5)
    assert 0 < int(sets.contains(targets).sum()) < 200
    deviations = (targets - prediction.mean).abs() / prediction.std
    torch.testing.assert_close(scores, deviations.amax(dim=1), rtol=tolerances.gamma(4, torch.float64), atol=0)
    torch.testing.assert_close(
        sets.size, 3 * prediction.std.mean(dim=1), rtol=tolerances.gamma(8, torch.float64), atol=0
    )


@pytest.mark.parametrize("method", ["aps", "raps"])
def test_without_randomization_a_set_holds_the_most_probable_label_however_small_the_threshold(method):
    prediction, _ = classes()
    sets = rule(method, 0.0).sets(prediction, torch.zeros(200, dtype=torch.long), None)
    assert sets.contains(prediction.label).all()


def test_every_exit_has_the_threshold_of_its_own():
    prediction, _ = classes(n=3)
    made = SetRule(torch.tensor([0.0, 0.5, math.inf], dtype=torch.float64), "aps", 0.9, True, (9, 9, 0))
    alone = [
        rule("aps", t).sets(prediction, torch.zeros(3, dtype=torch.long), None).members for t in (0.0, 0.5, math.inf)
    ]
    together = made.sets(prediction, torch.tensor([2, 0, 1]), None).members
    assert torch.equal(together, torch.stack([alone[2][0], alone[0][1], alone[1][2]]))
    assert together[0].all()


def test_a_set_depends_on_its_example_alone():
    prediction, _ = classes()
    coin = hash_to_unit(prediction.log_probs)
    made, order = rule("raps", 0.9, randomized=True), torch.randperm(200, generator=torch.Generator().manual_seed(0))
    sets = made.sets(prediction, torch.zeros(200, dtype=torch.long), coin)
    some = order[:17]
    again = made.sets(prediction.take(some), torch.zeros(17, dtype=torch.long), coin[some])
    assert torch.equal(again.members, sets.members[some])


def test_equal_probabilities_are_ordered_by_label_in_every_batch():
    prediction = Prediction(torch.full((4, 8), 1 / 8).log(), torch.zeros(4))
    sets = rule("aps", 0.5).sets(prediction, torch.zeros(4, dtype=torch.long), None)
    assert sets.labels() == [[0, 1, 2, 3, 4]] * 4


def test_the_second_number_of_an_example_is_uniform_and_unrelated_to_the_first():
    n = 20_000
    first = hash_to_unit(torch.arange(n)[:, None])
    second = redraw(first)
    assert float(second.min()) >= 0
    assert float(second.max()) < 1
    assert float(second.mean()) == pytest.approx(0.5, abs=tolerances.mean(12**-0.5, n))
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) <= tolerances.mean(1.0, n)
    assert len(second.unique()) == n


@pytest.mark.parametrize(
    ("n", "coverage", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (10, 0.9, 10), (99, 0.5, 50), (4, 0.8, 4)]
)
def test_the_quantile_is_the_score_of_the_corrected_rank(n, coverage, rank):
    scores = torch.arange(1, n + 1).double().flip(0)
    assert quantile(scores, coverage) == rank
    assert quantile(scores, np.float64(coverage)) == rank


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1 / 3])
def test_the_number_of_examples_needed_is_the_least_with_a_quantile(coverage):
    needed = examples_needed(coverage)
    assert needed == math.ceil(round(1 / (1 - coverage), 9)) - 1
    quantile(torch.zeros(needed), coverage)
    with pytest.raises(ValueError, match=f"expected at least {needed} calibration examples .* got {needed - 1}"):
        quantile(torch.zeros(needed - 1), coverage)


@pytest.mark.parametrize("coverage", [0, 1, 90, -0.5, math.nan])
def test_a_coverage_out_of_range_is_refused(coverage):
    with pytest.raises(ValueError, match=r"expected a coverage between 0 and 1, got .*; 0.9 is 90 %"):
        check_coverage(coverage)


def test_targets_of_sets_are_checked():
    sets = LabelSets(torch.ones(3, 4, dtype=torch.bool), 0.9)
    assert sets.contains(torch.tensor([0, 3, 1], dtype=torch.uint8)).all()
    with pytest.raises(ValueError, match=r"expected labels in \[0, 4\), got -100 at position 1"):
        sets.contains(torch.tensor([0, -100, 1]))
    with pytest.raises(ValueError, match=r"labels \(N,\), got \(3, 4\) and \(2,\)"):
        sets.contains(torch.tensor([0, 1]))
    one = Intervals(torch.zeros(3, 1), torch.ones(3, 1), 0.9)
    assert one.contains(torch.tensor([0.5, 1.0, 2.0])).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="got NaN"):
        one.contains(torch.tensor([0.5, math.nan, 2.0]))
    with pytest.raises(ValueError, match=r"expected targets of shape \(3, 2\), got \(3,\)"):
        Intervals(torch.zeros(3, 2), torch.ones(3, 2), 0.9).contains(torch.zeros(3))


def test_sets_print_in_one_line():
    assert repr(LabelSets(torch.tensor([[True, False], [True, True]]), 0.9)) == (
        "LabelSets(2 examples, coverage 0.9, 1.50 labels each)"
    )
    assert repr(LabelSets(torch.zeros(0, 2, dtype=torch.bool), 0.9)) == "LabelSets(0 examples, coverage 0.9)"
    assert repr(Intervals(torch.zeros(2, 3), torch.ones(2, 3), 0.8)) == "Intervals(2 examples, 3 outputs, coverage 0.8)"


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_of_the_least_ambiguous_classifier_agree_with_mapie(coverage):
    mapie = pytest.importorskip("mapie.classification")
    (calibration, labels), (test, _) = classes(150), classes(100, seed=1)

    class Passing:
        """Classifier whose inputs are its probabilities."""

        classes_ = np.arange(7)

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

        def __sklearn_is_fitted__(self):
            return True

    peer = mapie.SplitConformalClassifier(Passing(), confidence_level=coverage, conformity_score="lac", prefit=True)
    _, members = peer.conformalize(calibration.probs.numpy(), labels.numpy()).predict_set(test.probs.numpy())
    made = rule("lac", quantile(rule("lac").scores(calibration, labels, None), coverage))
    ours = made.sets(test, torch.zeros(100, dtype=torch.long), None).members
    assert np.array_equal(ours.numpy(), members[:, :, 0])


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_of_constant_deviation_agree_with_mapie(coverage):
    mapie = pytest.importorskip("mapie.regression")
    generator = torch.Generator().manual_seed(0)
    x, error = torch.randn(2, 250, 1, generator=generator, dtype=torch.float64)

    class Passing:
        """Regression whose inputs are its predictions."""

        n_features_in_ = 1  # by which the peer sees that it is fitted

        def fit(self, x, y):
            return self

        def predict(self, x):
            return x[:, 0]

        def __sklearn_is_fitted__(self):
            return True

    peer = mapie.SplitConformalRegressor(Passing(), confidence_level=coverage, prefit=True)
    _, ends = peer.conformalize(x[:150].numpy(), (x + error)[:150, 0].numpy()).predict_interval(x[150:].numpy())
    calibration, test = (Regression(m, 0 * m, torch.full_like(m, 0.25)) for m in (x[:150], x[150:]))
    made = rule("interval", quantile(rule("interval").scores(calibration, (x + error)[:150], None), coverage))
    sets = made.sets(test, torch.zeros(100, dtype=torch.long), None)
    ours = torch.cat([sets.low, sets.high], dim=1)
    torch.testing.assert_close(
        ours, torch.from_numpy(ends[:, :, 0]), rtol=0, atol=8 * tolerances.gamma(4, torch.float64)
    )
