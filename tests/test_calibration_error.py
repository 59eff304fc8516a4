import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from suffice import metrics
from tests import tolerances
from tests.test_metrics import problem


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
def test_equal_mass_bins_are_in_order_and_differ_by_at_most_one_example_without_ties(n, bins, ties):
    confidence = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    if ties:
        confidence = (confidence * 3).round() / 3
    table = metrics.reliability(confidence, confidence > 0.5, bins, equal_mass=True)
    counts = table[:, 0]
    assert counts.sum() == n
    assert ties or counts.max() - counts.min() <= 1
    means = (table[:, 1] / counts)[counts > 0]
    assert (means.diff() >= -1e-12).all()


def test_equal_mass_ece_of_two_bins_by_hand():
    probs = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2], [0.9, 0.1]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0])
    by_hand = (abs(1.1 - 1) + abs(1.7 - 2)) / 4
    assert float(metrics.ece(probs, labels, bins=2, equal_mass=True)) == pytest.approx(by_hand)


@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 60), bins=st.integers(1, 9))
def test_equal_mass_bins_do_not_depend_on_the_order_of_the_examples(data, n, bins):
    levels = data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    confidence = torch.tensor(levels).double() / 6
    hits = torch.rand(n, generator=torch.Generator().manual_seed(n)) < confidence
    order = torch.tensor(data.draw(st.permutations(range(n))))
    expected = metrics.bin_index(confidence, bins, equal_mass=True)
    assert torch.equal(metrics.bin_index(confidence[order], bins, equal_mass=True), expected[order])
    table, again = (
        metrics.reliability(confidence[index], hits[index], bins, equal_mass=True) for index in (torch.arange(n), order)
    )
    assert torch.equal(table[:, [0, 2]], again[:, [0, 2]])
    torch.testing.assert_close(table[:, 1], again[:, 1], rtol=tolerances.gamma(n, torch.float64), atol=0)


@pytest.mark.parametrize("order", ["sorted by class", "reversed", "shuffled"])
def test_equal_confidences_that_are_right_as_often_as_they_state_have_no_error(order):
    probs, labels = torch.tensor([[0.7, 0.3]]).expand(1000, 2), (torch.arange(1000) >= 700).long()
    if order == "reversed":
        labels = labels.flip(0)
    if order == "shuffled":
        labels = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    rounding = torch.finfo(torch.float32).eps
    assert float(metrics.ece(probs, labels, equal_mass=True)) <= rounding
    assert float(metrics.ece(probs, labels)) <= rounding


def perfect(n, least=0.5, seed=0, excess=0.0):
    """Return probabilities of two classes, and labels where the first is right as often as stated, minus an excess."""
    generator = torch.Generator().manual_seed(seed)
    confidence = least + (1 - least) * torch.rand(n, generator=generator, dtype=torch.float64)
    labels = (torch.rand(n, generator=generator, dtype=torch.float64) >= confidence - excess).long()
    return torch.stack([confidence, 1 - confidence], dim=1), labels


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize(("n", "least"), [(40, 0.5), (40, 0.95), (400, 0.5), (400, 0.95)])
def test_the_noise_floor_is_the_mean_error_of_perfect_predictions(n, least, equal_mass):
    """Labels are drawn anew for the same probabilities; the floor is within 1 % of the mean besides its sampling."""
    probs, _ = perfect(n, least)
    draws, generator = 1500, torch.Generator().manual_seed(1)
    labels = (torch.rand(draws, n, generator=generator, dtype=torch.float64) >= probs[:, 0]).long()
    errors = torch.stack([metrics.ece(probs, row, equal_mass=equal_mass) for row in labels])
    floor = float(metrics.ece_noise_floor(probs, equal_mass=equal_mass))
    assert floor == pytest.approx(float(errors.mean()), abs=0.01 * floor + tolerances.mean(float(errors.std()), draws))


@pytest.mark.parametrize("chance", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 30, 3000])
def test_the_noise_floor_of_equal_confidences_is_the_mean_deviation_of_a_binomial(n, chance):
    probs = torch.tensor([[chance] + [(1 - chance) / 63] * 63], dtype=torch.float64).expand(n, 64)
    expected = stats.binom(n, chance).expect(lambda hits: abs(hits - n * chance), lb=0, ub=n, maxcount=n + 1) / n
    assert float(metrics.ece_noise_floor(probs)) == pytest.approx(
        expected, rel=0.01 if n * chance * (1 - chance) >= 25 else 1e-9
    )


@pytest.mark.parametrize(("n", "least"), [(200, 0.5), (2000, 0.5), (2000, 0.9)])
def test_the_debiased_error_of_perfect_predictions_is_0_in_the_mean_and_the_plain_error_is_not(n, least):
    draws = 400
    problems = [perfect(n, least, seed) for seed in range(draws)]
    plain, debiased = (
        torch.stack([measure(*one) for one in problems]) for measure in (metrics.ece, metrics.ece_debiased)
    )
    sampling = tolerances.mean(float(debiased.std()), draws)
    assert abs(float(debiased.mean())) <= sampling
    assert float(plain.mean()) > 5 * sampling


def test_the_debiased_error_of_clearly_wrong_confidences_is_their_error():
    draws = 100
    errors = torch.stack([metrics.ece_debiased(*perfect(5000, 0.7, seed, excess=0.2)) for seed in range(draws)])
    assert float(errors.mean()) == pytest.approx(0.2, abs=tolerances.mean(float(errors.std()), draws))


def test_confidences_of_exactly_one_have_no_noise():
    probs, labels = torch.tensor([[1.0, 0.0]]).expand(8, 2), torch.tensor([0] * 6 + [1] * 2)
    assert float(metrics.ece_noise_floor(probs)) <= 128 * tolerances.gamma(256, torch.float64)  # sums up to 128 away
    assert float(metrics.ece_debiased(probs, labels)) == float(metrics.ece(probs, labels)) == 0.25


def smoothed(probs, labels, sigma):
    """Integrate the absolute smoothed residual numerically, with three reflections of the kernel on either side."""
    confidence, hits = probs.amax(dim=1).numpy(), metrics.correct(probs, labels).numpy()
    images = [(2 * k + sign * confidence, hits - confidence) for k in range(-3, 4) for sign in (1, -1)]

    def residual(t):
        return abs(sum((stats.norm.pdf(t, at, sigma) * r).sum() for at, r in images)) / len(labels)

    return integrate.quad(residual, 0, 1, limit=400, epsabs=1e-7)[0]


@pytest.mark.parametrize("excess", [0.0, 0.3])
@pytest.mark.parametrize("n", [3, 100])
def test_the_smooth_error_is_the_fixed_point_of_the_integral(n, excess):
    """Node spacing h = 2⁻¹⁴ shifts the integral by at most h²/8σ², since a Gaussian kernel has ∫|K″| < 1/σ²."""
    probs, labels = perfect(n, seed=4, excess=excess)
    sigma = float(metrics.smooth_ece(probs, labels))
    assert 0.001 < sigma < 1
    assert smoothed(probs, labels, sigma) == pytest.approx(sigma, abs=1e-6 + 2.0**-31 / sigma**2)


def test_the_smooth_error_of_a_constant_bias_is_the_bias_and_of_right_confidences_is_0():
    probs, labels = torch.tensor([[0.75, 0.25]], dtype=torch.float64).expand(400, 2), (torch.arange(400) % 4 > 2).long()
    assert float(metrics.smooth_ece(probs, labels)) < 2.0**-39
    assert float(metrics.smooth_ece(probs, torch.zeros(400, dtype=torch.long))) == pytest.approx(0.25, abs=2.0**-39)


def test_the_smooth_error_changes_little_with_the_confidences_where_bins_jump():
    """Confidences just below and just above the edge of a bin, wrong by 0.4 in opposite directions."""
    labels = torch.cat([torch.zeros(90), torch.ones(10), torch.zeros(10), torch.ones(90)]).long()
    values = {}
    for shift in (-1e-6, 1e-6):
        confidence = torch.cat([torch.full((100,), 0.6), torch.full((100,), 0.6 + shift)]).double()
        probs = torch.stack([confidence, 1 - confidence], dim=1)
        values[shift] = float(metrics.ece(probs, labels)), float(metrics.smooth_ece(probs, labels))
    assert abs(values[1e-6][0] - values[-1e-6][0]) > 0.2
    assert abs(values[1e-6][1] - values[-1e-6][1]) < 1e-4


def test_the_smooth_error_agrees_with_relplot():
    relplot = pytest.importorskip("relplot")
    for n in (200, 5000):
        probs, labels = perfect(n, seed=n, excess=0.05)
        expected = relplot.smECE(probs.amax(dim=1).numpy(), metrics.correct(probs, labels).double().numpy())
        assert float(metrics.smooth_ece(probs, labels)) == pytest.approx(
            expected, abs=0.001
        )  # the accuracy of its search
