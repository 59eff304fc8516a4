import math
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


MEASURES_OF_CLASSES = (
    metrics.accuracy,
    metrics.top_k_accuracy,
    lambda probs, labels: metrics.nll(probs.log(), labels),
    metrics.brier,
    metrics.ece,
    lambda probs, labels: metrics.ece(probs, labels, equal_mass=True),
    metrics.ece_debiased,
    metrics.smooth_ece,
)


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
    for measure in MEASURES_OF_CLASSES:
        assert measure(probs, labels).isnan()
    assert metrics.ece_noise_floor(probs).isnan()
    assert metrics.aurc(torch.zeros(0), torch.zeros(0)).isnan()
    assert metrics.auroc(torch.zeros(0), torch.zeros(0)).isnan()
    assert metrics.fpr95(torch.zeros(0), torch.zeros(0)).isnan()


@pytest.mark.parametrize("measure", [metrics.correct, metrics.nll, *MEASURES_OF_CLASSES])
@pytest.mark.parametrize(
    ("rows", "labels"), [((6,), (6,)), ((6, 4), (6, 1)), ((6, 4), (5,)), ((6, 1, 4), (6,))], ids=str
)
def test_other_shapes_are_refused_with_both(measure, rows, labels):
    values, given = -torch.rand(rows).log1p(), torch.zeros(labels, dtype=torch.long)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        measure(values, given)
    assert f"(N, C), one number per class, and labels (N,), got {rows} and {labels}" in str(refused.value)


@pytest.mark.parametrize(
    "measure",
    [metrics.brier, metrics.ece, metrics.ece_debiased, metrics.smooth_ece, lambda p, _: metrics.ece_noise_floor(p)],
)
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


@pytest.mark.parametrize("measure", MEASURES_OF_CLASSES)
def test_a_nan_makes_the_measure_nan(measure):
    probs, labels = problem()
    probs[3, 2] = torch.nan
    assert measure(probs, labels).isnan()


def test_an_impossible_label_has_an_infinite_nll():
    assert metrics.nll(torch.zeros(1, 2) - torch.inf, torch.zeros(1, dtype=torch.long)) == torch.inf


INTEGERS = (
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("measure", MEASURES_OF_CLASSES)
def test_labels_of_every_integer_type_are_measured_alike(measure, dtype):
    probs, labels = problem(classes=2)
    assert measure(probs, labels.to(dtype)) == measure(probs, labels)


@pytest.mark.parametrize("measure", MEASURES_OF_CLASSES)
def test_labels_above_the_range_of_a_small_type_are_measured_alike(measure):
    """Of 256 classes the number of classes itself does not fit into the type of the labels."""
    probs, labels = problem(classes=256)
    assert measure(probs, labels.to(torch.uint8)) == measure(probs, labels)


@pytest.mark.parametrize("measure", MEASURES_OF_CLASSES)
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, -100], r"expected labels in \[0, 4\), got -100 at position 2; .*; leave out examples without a label"),
        ([1, 4, 3], r"expected labels in \[0, 4\), got 4 at position 1; .*; subtract 1 if they are counted from 1"),
        ([0, 7, 3], r"expected labels in \[0, 4\), got 7 at position 1; there are 4 classes$"),
        ([0.0, 1.0, math.nan], "expected integer labels, got torch.float32"),
        ([0.0, 1.0, 2.0], "expected integer labels, got torch.float32"),
    ],
    ids=["-100", "from 1", "out of range", "NaN", "floats"],
)
def test_labels_that_are_no_classes_are_refused_by_every_measure_with_one_message(measure, labels, expected):
    with pytest.raises(ValueError, match=expected):
        measure(torch.full((3, 4), 0.25), torch.tensor(labels))


OF_FLAGS = (metrics.auroc, metrics.fpr95, metrics.aurc, metrics.reliability, lambda s, h: metrics.eefp([s, s], [h, h]))


@pytest.mark.parametrize("measure", OF_FLAGS)
def test_flags_of_every_type_are_counted_alike(measure):
    scores, flags = torch.tensor([0.1, 0.3, 0.2, 0.6]), torch.tensor([True, False, False, True])
    for dtype in (*INTEGERS, torch.float16, torch.float32):
        torch.testing.assert_close(
            measure(scores, flags.to(dtype)), measure(scores, flags), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("measure", OF_FLAGS)
@pytest.mark.parametrize("wrong", [torch.tensor([0, -100, 1]), torch.tensor([0, math.nan, 1]), torch.tensor([1, 2, 1])])
def test_flags_of_other_numbers_are_refused_with_their_position(measure, wrong):
    with pytest.raises(ValueError, match=r"that are bool, or 0 or 1, got .* at position 1"):
        measure(torch.tensor([0.1, 0.3, 0.2]), wrong)


@pytest.mark.parametrize("measure", OF_FLAGS)
@pytest.mark.parametrize("shape", [(4,), (3, 1), ()])
def test_flags_of_another_shape_are_refused(measure, shape):
    with pytest.raises(ValueError, match=r"of one shape \(N,\), got \(3,\) and "):
        measure(torch.rand(3), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.fpr95, metrics.aurc, OF_FLAGS[-1]])
def test_a_score_that_is_nan_makes_the_measure_nan(measure):
    scores, flags = torch.tensor([0.1, math.nan, 0.2, 0.6]), torch.tensor([True, False, False, True])
    assert measure(scores, flags).isnan()


OF_NUMBERS = (
    lambda m, v, y: metrics.rmse(m, y),
    metrics.gaussian_nll,
    metrics.gaussian_crps,
    metrics.interval_coverage,
)


@pytest.mark.parametrize("measure", OF_NUMBERS)
def test_targets_are_measured_alike_in_every_type_and_never_broadcast(measure):
    mean, variance, _ = gaussians(n=9, outputs=1)
    targets = torch.arange(9)[:, None]
    for dtype in (torch.int8, torch.uint8, torch.uint16, torch.float32, torch.float64):
        assert measure(mean, variance, targets.to(dtype)) == measure(mean, variance, targets)
    with pytest.raises(ValueError, match=r"of one shape, \(N, C\), got \(9, 1\), \(9,\)"):
        measure(mean, variance, targets[:, 0])


@pytest.mark.parametrize("measure", OF_NUMBERS)
def test_a_target_that_is_nan_makes_the_measure_nan(measure):
    mean, variance, targets = gaussians()
    targets[3, 1] = math.nan
    assert measure(mean, variance, targets).isnan()


@pytest.mark.slow
def test_more_than_16_777_216_examples_are_counted_exactly():
    """A counter in float32 would stay at 2²⁴."""
    n = 2**24 + 3
    probs = torch.tensor([[0.75, 0.25]]).expand(n, 2)
    labels = torch.arange(n, dtype=torch.int32) % 4 // 3
    right = int((labels == 0).sum())
    assert float(metrics.accuracy(probs, labels)) == right / n
    assert metrics.reliability(probs[:, 0], labels == 0, bins=1)[0].tolist() == [n, 0.75 * n, right]
    assert float(metrics.ece(probs, labels)) == pytest.approx(abs(right / n - 0.75), rel=1e-6, abs=0)
    scores = torch.arange(n) % 2
    assert float(metrics.auroc(scores.float(), scores)) == 1
    assert float(metrics.fpr95(scores.float(), scores)) == 0
    assert float(metrics.aurc(torch.zeros(n), labels == 0)) == pytest.approx(1 - right / n, rel=n * 2.0**-53)


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
        metrics.ece_debiased(probs, labels),
        metrics.ece_noise_floor(probs),
        metrics.smooth_ece(probs, labels),
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


def labels_problem(n=400, labels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, labels, generator=generator, dtype=torch.float64) - torch.arange(labels) / 2
    return (1.5 * logits).sigmoid(), torch.bernoulli(logits.sigmoid(), generator=generator).long()


class TestSeveralLabels:
    def test_accuracies_are_scikit_learns(self):
        probs, y = labels_problem()
        decided = (probs > 0.5).long()
        assert float(metrics.hamming_loss(probs, y)) == pytest.approx(sklearn.hamming_loss(y, decided))
        assert float(metrics.subset_accuracy(probs, y)) == pytest.approx(sklearn.accuracy_score(y, decided))
        expected = [sklearn.accuracy_score(y[:, c], decided[:, c]) for c in range(5)]
        assert metrics.label_accuracy(probs, y).tolist() == pytest.approx(expected)

    def test_scores_of_each_label_are_scikit_learns_and_those_of_two_classes(self):
        probs, y = labels_problem()
        log_probs = torch.stack([1 - probs, probs], dim=2).log()
        for c in range(5):
            pair = log_probs[:, c].exp()
            assert float(metrics.label_nll(log_probs, y)[c]) == pytest.approx(sklearn.log_loss(y[:, c], probs[:, c]))
            assert float(metrics.label_brier(probs, y)[c]) == pytest.approx(float(metrics.brier(pair, y[:, c])))
            for equal_mass in (False, True):
                got = metrics.label_ece(probs, y, bins=10, equal_mass=equal_mass)[c]
                assert float(got) == pytest.approx(float(metrics.ece(pair, y[:, c], 10, equal_mass)))

    @pytest.mark.parametrize("digits", [1, 12])
    def test_the_mean_average_precision_is_scikit_learns_with_and_without_ties(self, digits):
        probs, y = labels_problem()
        scores = probs.round(decimals=digits)
        expected = sklearn.average_precision_score(y, scores, average="macro")
        assert float(metrics.mean_average_precision(scores, y)) == pytest.approx(expected)
        assert float(metrics.mean_average_precision(scores.logit(), y)) == pytest.approx(expected)

    def test_labels_without_a_positive_example_are_left_out_of_the_mean_average_precision(self):
        probs, y = labels_problem()
        y[:, 2] = 0
        others = [0, 1, 3, 4]
        expected = sklearn.average_precision_score(y[:, others], probs[:, others], average="macro")
        assert float(metrics.mean_average_precision(probs, y)) == pytest.approx(expected)
        assert metrics.average_precision(probs[:, 2], y[:, 2]).isnan()
        assert metrics.mean_average_precision(probs[:, 2:3], y[:, 2:3]).isnan()

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.float16, torch.float64])
    def test_labels_of_any_type_count(self, dtype):
        probs, y = labels_problem()
        log_probs = torch.stack([1 - probs, probs], dim=2).log()
        for measure in ("hamming_loss", "subset_accuracy", "mean_average_precision", "label_brier", "label_ece"):
            function = getattr(metrics, measure)
            assert torch.equal(function(probs, y.to(dtype)), function(probs, y))
        assert torch.equal(metrics.label_nll(log_probs, y.to(dtype)), metrics.label_nll(log_probs, y))

    @pytest.mark.parametrize("bad", [2.0, -1.0, 0.5, float("nan")])
    def test_labels_other_than_zero_and_one_are_refused(self, bad):
        probs, y = labels_problem()
        y = y.double()
        y[3, 1] = bad
        for function in (metrics.hamming_loss, metrics.mean_average_precision, metrics.label_ece):
            with pytest.raises(ValueError, match="expected labels 0 or 1, got"):
                function(probs, y)

    def test_logits_and_other_shapes_are_refused(self):
        probs, y = labels_problem()
        with pytest.raises(ValueError, match=r"take logits.sigmoid\(\)"):
            metrics.hamming_loss(probs.logit(), y)
        with pytest.raises(ValueError, match=r"labels \(N, K\), got \(400, 5\) and \(400,\)"):
            metrics.subset_accuracy(probs, y[:, 0])
        with pytest.raises(ValueError, match=r"log-probabilities \(N, K, 2\)"):
            metrics.label_nll(probs.log(), y)


def test_several_labels_for_a_measure_of_classes_are_refused_with_the_remedy():
    probs, y = labels_problem()
    with pytest.raises(
        ValueError, match=r"for several labels of 0 and 1 take metrics.hamming_loss or a function label_"
    ):
        metrics.accuracy(probs, y)


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
