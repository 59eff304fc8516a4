import pytest
import torch

from suffice.variation.conformal import band

ESTIMATE = torch.tensor([1.0, 3.0], dtype=torch.float64)


def residuals(count):
    return torch.arange(count, dtype=torch.float64) / 10


@pytest.mark.parametrize(("count", "coverage", "low", "high"), [(3, 0.5, 0, 2), (19, 0.9, 0, 18), (39, 0.9, 1, 37)])
def test_a_band_has_equal_tails(count, coverage, low, high):
    bounds = band(residuals(count), ESTIMATE, coverage)
    for side, at in zip(bounds, (low, high), strict=True):
        torch.testing.assert_close(side, ESTIMATE * residuals(count)[at].exp())


@pytest.mark.parametrize(("count", "most"), [(0, 0.0), (1, 0.0), (3, 0.5), (19, 0.9)])
def test_a_coverage_above_what_the_rows_can_guarantee_is_refused(count, most):
    with pytest.raises(ValueError, match=rf"that {count} calibration rows can guarantee, which is at most {most:.4f}"):
        band(residuals(count), ESTIMATE, most + 0.01)
    if most:
        band(residuals(count), ESTIMATE, most)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, float("nan")])
def test_a_coverage_outside_the_unit_interval_is_refused(coverage):
    with pytest.raises(ValueError, match=r"coverage in \(0, 1\)"):
        band(residuals(100), ESTIMATE, coverage)
