from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn import metrics as sklearn

from suffice import metrics


def problem(n=300, classes=7, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * sharpness
    labels = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return (logits * 1.5).softmax(dim=1), labels


def test_accuracy_and_top_k_agree_with_scikit_learn():
    probs, labels = problem()
    assert float(metrics.accuracy(probs, labels)) == pytest.approx(sklearn.accuracy_score(labels, probs.argmax(dim=1)))
    for k in (1, 2, 5):
        expected = sklearn.top_k_accuracy_score(labels, probs, k=k)
        assert float(metrics.top_k_accuracy(probs, labels, k)) == pytest.approx(expected)


def test_top_k_is_one_where_k_is_the_number_of_classes_or_more():
    probs, labels = problem(classes=3)
    assert metrics.top_k_accuracy(probs, labels, 3) == metrics.top_k_accuracy(probs, labels, 5) == 1


def test_nll_agrees_with_scikit_learn():
    probs, labels = problem()
    assert float(metrics.nll(probs.log(), labels)) == pytest.approx(
        sklearn.log_loss(labels, probs, labels=np.arange(7))
    )


def test_nll_does_not_underflow():
    log_probs = torch.tensor([[0.0, -200.0]])
    assert metrics.nll(log_probs, torch.tensor([1])) == 200


def test_brier_agrees_with_scikit_learn():
    probs, labels = problem()
    expected = sum(sklearn.brier_score_loss(labels == k, probs[:, k]) for k in range(7))
    assert float(metrics.brier(probs, labels)) == pytest.approx(expected)
    binary, hits = problem(classes=2)
    halved = sklearn.brier_score_loss(hits, binary[:, 1])
    assert float(metrics.brier(binary, hits)) == pytest.approx(2 * halved)


@pytest.mark.parametrize("bins", [5, 15, 40])
def test_ece_agrees_with_torchmetrics_away_from_the_edges_of_bins(bins):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = problem(n=2000)
    expected = functional.multiclass_calibration_error(probs.clamp(0, 1), labels, num_classes=7, n_bins=bins, norm="l1")
    assert float(metrics.ece(probs, labels, bins)) == pytest.approx(float(expected), abs=1e-6)


def test_ece_counts_confidence_of_exactly_one():
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.ece(probs, torch.tensor([0, 1])) == 0.5


def test_every_confidence_falls_into_a_bin():
    confidence = torch.tensor([0.0, 1e-12, 1 / 15, 0.5, 1 - 1e-9, 1.0, 1.0 + 1e-6], dtype=torch.float64)
    table = metrics.reliability(confidence, torch.ones(7, dtype=torch.bool))
    assert table[:, 0].sum() == 7
    assert table[0, 0] == 3  # 0, just above 0, and the closed upper edge 1/15
    assert table[-1, 0] == 3


def test_bins_hold_the_sums_of_confidence_and_hits():
    table = metrics.reliability(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([True, False, True]), bins=2)
    expected = torch.tensor([[2, 0.6, 1], [1, 0.9, 1]], dtype=torch.float64)
    torch.testing.assert_close(table, expected)


@settings(deadline=None)
@given(n=st.integers(1, 80), bins=st.integers(1, 20), ties=st.booleans())
def test_equal_mass_bins_differ_by_at_most_one_example_and_are_in_order(n, bins, ties):
    confidence = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    if ties:
        confidence = (confidence * 3).round() / 3
    table = metrics.reliability(confidence, confidence > 0.5, bins, equal_mass=True)
    counts = table[:, 0]
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1
    means = (table[:, 1] / counts)[counts > 0]
    assert (means.diff() >= -1e-12).all()


def test_equal_mass_ece_of_two_bins_by_hand():
    probs = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2], [0.9, 0.1]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0])
    by_hand = (abs(1.1 - 1) + abs(1.7 - 2)) / 4
    assert float(metrics.ece(probs, labels, bins=2, equal_mass=True)) == pytest.approx(by_hand)


@settings(deadline=None)
@given(data=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
def test_auroc_agrees_with_scikit_learn_with_ties(data):
    scores = torch.tensor([float(score) for score, _ in data])
    positive = torch.tensor([flag for _, flag in data])
    value = float(metrics.auroc(scores, positive))
    if positive.all() or not positive.any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(sklearn.roc_auc_score(positive, scores))


def test_auroc_takes_infinite_scores():
    scores = torch.tensor([-torch.inf, 0.0, torch.inf])
    assert metrics.auroc(scores, torch.tensor([False, False, True])) == 1


def test_fpr95_by_hand():
    positives, negatives = torch.arange(1.0, 21), torch.tensor([0.0, 1.5, 2.0, 30.0])
    scores, positive = torch.cat([positives, negatives]), torch.arange(24) < 20
    assert metrics.fpr95(scores, positive) == 0.5  # 19 of 20 pass at 2, and so do 2 of 4
    assert metrics.fpr95(scores[1:], positive[1:]) == 0.5  # of 19, all have to: 18 would be 94.7 %


@settings(deadline=None, max_examples=100)
@given(data=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_fpr95_is_the_least_rate_of_a_threshold_that_passes_95_percent(data):
    scores, positive = torch.tensor([s for s, _ in data]), torch.tensor([p for _, p in data])
    value = metrics.fpr95(scores.float(), positive)
    if positive.all() or not positive.any():
        assert value.isnan()
        return
    fpr, tpr, _ = sklearn.roc_curve(positive, scores, drop_intermediate=False)
    passed = np.round(tpr * int(positive.sum())) * 100 >= 95 * int(positive.sum())
    assert float(value) == pytest.approx(fpr[passed].min())


def test_fpr95_counts_ties_against_the_score_and_takes_infinite_scores():
    positive = torch.arange(10) < 5
    assert metrics.fpr95(torch.zeros(10), positive) == 1
    assert metrics.fpr95(torch.where(positive, torch.inf, -torch.inf), positive) == 0


@settings(deadline=None, max_examples=40)
@given(data=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_all_orders_of_tied_examples(data):
    def risk_of(order):
        errors = [0 if data[i][1] else 1 for i in order]
        return np.mean([np.mean(errors[: n + 1]) for n in range(len(errors))])

    orders = [
        order for order in permutations(range(len(data))) if all(data[a][0] >= data[b][0] for a, b in pairwise(order))
    ]
    scores = torch.tensor([float(score) for score, _ in data])
    hits = torch.tensor([hit for _, hit in data])
    assert float(metrics.aurc(scores, hits)) == pytest.approx(np.mean([risk_of(order) for order in orders]))


def test_eefp_by_hand():
    # Two examples are positive at exit 0: the first is right there, the third is never right.
    hits = [torch.tensor([True, False, False]), torch.tensor([True, True, False])]
    scores = [torch.tensor([0.9, 0.5, 0.4]), torch.zeros(3)]
    assert metrics.eefp(scores, hits) == 0.5  # (0.9 beats 0.5) and (0.4 does not)


def test_eefp_looks_at_all_later_exits_and_averages_over_exits():
    hits = [torch.tensor(row, dtype=torch.bool) for row in ([1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0])]
    scores = [torch.tensor([4.0, 3, 2, 1]), torch.tensor([1.0, 4, 3, 2]), torch.zeros(4)]
    first = sklearn.roc_auc_score([1, 0, 0, 1], scores[0])
    second = sklearn.roc_auc_score([1, 0, 1, 1], scores[1])
    assert float(metrics.eefp(scores, hits)) == pytest.approx((first + second) / 2)


def test_eefp_leaves_out_exits_where_all_examples_are_of_one_class():
    hits = [torch.tensor(row, dtype=torch.bool) for row in ([1, 1], [1, 0], [1, 1])]
    scores = [torch.tensor([1.0, 2]), torch.tensor([2.0, 1]), torch.zeros(2)]
    assert metrics.eefp(scores, hits) == 1
    assert metrics.eefp(scores[:1], hits[:1]).isnan()


def test_measures_without_examples_are_nan():
    probs, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for measure in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece, metrics.top_k_accuracy):
        assert measure(probs, labels).isnan(), measure.__name__
    assert metrics.aurc(torch.zeros(0), torch.zeros(0)).isnan()
    assert metrics.auroc(torch.zeros(0), torch.zeros(0)).isnan()
    assert metrics.fpr95(torch.zeros(0), torch.zeros(0)).isnan()
    assert metrics.ece(probs, labels, equal_mass=True).isnan()


OF_CLASSES = (metrics.accuracy, metrics.correct, metrics.top_k_accuracy, metrics.nll, metrics.brier, metrics.ece)


@pytest.mark.parametrize("measure", OF_CLASSES)
@pytest.mark.parametrize(
    ("rows", "labels"), [((6,), (6,)), ((6, 4), (6, 1)), ((6, 4), (5,)), ((6, 1, 4), (6,))], ids=str
)
def test_other_shapes_are_refused_with_both(measure, rows, labels):
    values, given = -torch.rand(rows).log1p(), torch.zeros(labels, dtype=torch.long)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        measure(values, given)
    assert f"(N, C), one number per class, and labels (N,), got {rows} and {labels}" in str(refused.value)


@pytest.mark.parametrize("measure", [metrics.brier, metrics.ece])
@pytest.mark.parametrize("wrong", [lambda p: 5 * p.log() + 9, lambda p: p.log(), lambda p: 100 * p])
def test_values_that_are_not_probabilities_are_refused_with_their_range(measure, wrong):
    probs, labels = problem()
    with pytest.raises(ValueError, match=r"in \[0, 1\], got .* to .*; pass probabilities"):
        measure(wrong(probs), labels)


@pytest.mark.parametrize("wrong", [lambda p: 5 * p.log() + 9, lambda p: p])
def test_values_that_are_not_log_probabilities_are_refused_with_their_range(wrong):
    probs, labels = problem()
    with pytest.raises(ValueError, match=r"in \[-inf, 0\], got .* to .*; pass log-probabilities"):
        metrics.nll(wrong(probs), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_above_one_by_rounding_are_accepted(dtype):
    probs, labels = problem(sharpness=9.0)
    rounded = probs.to(dtype) * (1 + torch.finfo(dtype).eps)
    assert float(rounded.max()) > 1
    assert float(metrics.brier(rounded, labels)) == pytest.approx(float(metrics.brier(probs, labels)), abs=0.02)
    assert float(metrics.ece(rounded, labels)) == pytest.approx(float(metrics.ece(probs, labels)), abs=0.02)
    assert metrics.nll(rounded.log(), labels).isfinite() or dtype == torch.float16


def test_a_nan_makes_the_measure_nan():
    probs, labels = problem()
    probs[3, 2] = torch.nan
    assert metrics.brier(probs, labels).isnan()
    assert metrics.nll(torch.zeros(1, 2) - torch.inf, torch.zeros(1, dtype=torch.long)) == torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_measure_is_a_float64_scalar(dtype):
    probs, labels = problem()
    probs, hits = probs.to(dtype), metrics.correct(probs, labels)
    scores = probs.amax(dim=1)
    values = [
        metrics.accuracy(probs, labels),
        metrics.top_k_accuracy(probs, labels),
        metrics.nll(probs.log(), labels),
        metrics.brier(probs, labels),
        metrics.ece(probs, labels),
        metrics.ece(probs, labels, equal_mass=True),
        metrics.auroc(scores, hits),
        metrics.fpr95(scores, hits),
        metrics.aurc(scores, hits),
        metrics.eefp([scores, scores], [hits, hits.roll(1)]),
    ]
    assert all(value.dtype == torch.float64 and value.shape == () for value in values)


def gaussians(n=40, outputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance, error = torch.randn(3, n, outputs, generator=generator, dtype=torch.float64)
    return mean, log_variance.exp(), mean + 1.5 * error


def test_the_root_mean_squared_error_agrees_with_scikit_learn():
    mean, _, targets = gaussians()
    expected = sklearn.mean_squared_error(targets.flatten(), mean.flatten()) ** 0.5
    assert float(metrics.rmse(mean, targets)) == pytest.approx(expected)


def test_the_gaussian_nll_agrees_with_scipy_summed_over_outputs():
    mean, variance, targets = gaussians()
    expected = -stats.norm(mean, variance.sqrt()).logpdf(targets).sum(axis=1).mean()
    assert float(metrics.gaussian_nll(mean, variance, targets)) == pytest.approx(expected)


def test_the_closed_form_of_the_crps_is_its_integral():
    mean, variance, targets = gaussians(n=6, outputs=1)

    def integral(m, v, y):
        cdf = stats.norm(m, v**0.5).cdf
        below, _ = integrate.quad(lambda t: cdf(t) ** 2, -np.inf, y)
        above, _ = integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, np.inf)
        return below + above

    triples = zip(mean.flatten().tolist(), variance.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = np.mean([integral(*triple) for triple in triples])
    assert float(metrics.gaussian_crps(mean, variance, targets)) == pytest.approx(expected, abs=1e-7)


def test_the_crps_of_a_certain_prediction_is_its_absolute_error():
    mean, variance, targets = gaussians()
    expected = sklearn.mean_absolute_error(targets, mean)
    assert float(metrics.gaussian_crps(mean, 0 * variance, targets)) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_of_the_right_width_cover_their_level(level):
    mean, variance, _ = gaussians(n=20_000)
    targets = mean + variance.sqrt() * gaussians(n=20_000, seed=1)[0]
    assert float(metrics.interval_coverage(mean, variance, targets, level)) == pytest.approx(level, abs=0.01)
    assert float(metrics.interval_coverage(mean, variance, mean, level)) == 1
    assert float(metrics.interval_coverage(mean, variance, mean + 9 * variance.sqrt(), level)) == 0


def test_the_largest_fall_is_the_greatest_distance_below_an_earlier_exit():
    chances = torch.tensor([[0.1, 0.5, 0.9, 0.3], [0.2, 0.9, 0.4, 0.3], [0.3, 0.6, 0.8, 0.3]])
    expected = torch.tensor([0.0, 0.3, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.largest_fall(list(chances)), expected, atol=1e-6, rtol=0)


def test_quantiles_are_those_of_torch_and_of_any_number_of_values(generator):
    values = torch.rand(1001, dtype=torch.float64, generator=generator)
    probabilities = torch.tensor([0.0, 0.1, 0.3333, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.quantile(values, probabilities.tolist()), values.quantile(probabilities))
    assert metrics.quantile(torch.tensor([2.0]), [0.5]).tolist() == [2.0]
    assert metrics.quantile(torch.tensor([1.0, torch.nan]), [0.0]).isnan().all()


@pytest.mark.slow
def test_a_quantile_of_more_values_than_torch_accepts_is_computed():
    values = torch.arange(2**24 + 3, dtype=torch.float32)
    assert metrics.quantile(values, [0.5]).tolist() == [2**23 + 1]
