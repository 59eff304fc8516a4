import pytest
import torch

from suffice.calibration.posterior.moments import Offsets, quantiles, root, standard_normals


def normals(count, dimension, seed=0):
    return standard_normals(count, dimension, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dimension", [1, 10, 1000])
@pytest.mark.parametrize("count", [2, 32])
def test_points_come_in_antithetic_pairs(count, dimension):
    points = normals(count, dimension)
    assert points.shape == (count, dimension)
    assert points.dtype == torch.float64
    assert torch.equal(points[: count // 2], -points[count // 2 :])


def test_with_enough_pairs_the_covariance_is_the_identity():
    points = normals(64, 20)
    torch.testing.assert_close(points.T @ points / 64, torch.eye(20, dtype=torch.float64))


def test_with_fewer_pairs_they_are_orthogonal_and_as_long_as_is_expected():
    half = normals(16, 20)[:8]
    torch.testing.assert_close(half @ half.T, 20 * torch.eye(8, dtype=torch.float64))


def test_many_points_have_the_quantiles_of_the_normal():
    points = normals(8192, 2)
    levels = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], dtype=torch.float64)
    for column in points.T:
        torch.testing.assert_close(column.quantile(levels), torch.special.ndtri(levels), atol=0.02, rtol=0)


def test_many_points_have_the_moments_of_independent_standard_normals():
    points = normals(8192, 6)
    torch.testing.assert_close(points.T @ points / 8192, torch.eye(6, dtype=torch.float64), atol=0.02, rtol=0)
    assert float(points.pow(4).mean()) == pytest.approx(3, abs=0.1)


def test_the_generator_decides_and_is_advanced():
    generator = torch.Generator().manual_seed(0)
    first, second = (standard_normals(8, 5, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, normals(8, 5))
    assert not torch.equal(first, normals(8, 5, seed=1))


def test_the_global_seed_is_left_alone_by_a_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    normals(8, 5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("count", "dimension"), [(16, 300), (32, 1000)])
def test_every_coordinate_alone_is_spread_like_a_normal(count, dimension):
    """Its order statistics are at least four times closer to the quantiles than those of independent draws."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    expected = torch.special.ndtri(levels)
    sorted_ = normals(count, dimension).sort(dim=0).values
    draws = torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error, plain = (s - expected[:, None] for s in (sorted_, draws.sort(dim=0).values))
    assert error.square().mean().sqrt() < plain.square().mean().sqrt() / 4


@pytest.mark.parametrize("count", [2, 8, 100])
def test_a_single_coordinate_is_in_proportion_to_the_quantiles_of_a_normal(count):
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    expected, points = torch.special.ndtri(levels), normals(count, 1)[:, 0].sort().values
    torch.testing.assert_close(points / points.norm(), expected / expected.norm())


@pytest.mark.parametrize("count", [0, 1, 5, -2])
def test_a_number_of_samples_that_is_not_even_and_positive_is_refused(count):
    with pytest.raises(ValueError, match=f"even number of samples of at least 2, got {count}"):
        standard_normals(count, 3)


def test_offsets_for_logits_of_another_type_are_read_off_in_float64_all_the_same():
    offsets = Offsets(torch.ones(3, 2).double(), torch.ones(2, 4, 3).double())
    offsets = offsets.to(torch.device("cpu"), torch.float32)
    assert (offsets.basis.dtype, offsets.values.dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize("count", [2, 8, 16, 64])
def test_quantiles_are_the_points_of_one_dimension_rising(count):
    points = normals(count, 1)[:, 0]
    torch.testing.assert_close(quantiles(count), points.sort().values)
    torch.testing.assert_close(quantiles(count).square().mean(), torch.ones((), dtype=torch.float64))


def test_the_root_has_no_slope_at_zero():
    variance = torch.tensor([0.0, 4.0], requires_grad=True)
    root(variance).sum().backward()
    assert variance.grad.tolist() == [0.0, 0.25]
    assert root(variance)[1] == 2
    assert 0 < root(variance)[0] < 1e-15
