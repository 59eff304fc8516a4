import pytest
import torch

from suffice.calibration.posterior import sketch
from suffice.calibration.posterior.curvature import softmax

CPU = torch.device("cpu")


def confusion(classes, groups, n, within, seed=0):
    """Logits (N, C) confident of one class, with the remaining probability mostly inside its group."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(classes) * groups // classes
    y = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), y] += 7
    return logits - within * (group != group[y][:, None])


def hessians(logits, columns):
    """Estimate from a sketch, and the exact sum, both (C, C)."""
    curvature = softmax(logits)
    diagonal = curvature.weights().sum(dim=0)
    t, Q, values = sketch.recover(diagonal, sketch.off_diagonal(curvature.rank_one, columns))
    torch.testing.assert_close(Q.T @ Q, torch.eye(len(values), dtype=torch.float64))
    middle = torch.eye(len(t), dtype=torch.float64) + Q @ torch.diag(values - 1) @ Q.T
    return t.sqrt()[:, None] * middle * t.sqrt(), curvature.summed()


def variances(hessian, delta=1.0):
    """Variances of the centered logits for a single unit feature."""
    inverse = torch.linalg.inv(hessian + delta * torch.eye(len(hessian), dtype=torch.float64))
    centered = inverse - inverse.mean(dim=0)
    return (centered - centered.mean(dim=1, keepdim=True)).diagonal()


@pytest.mark.parametrize("classes", [1, 3, 50])
def test_as_many_columns_as_classes_are_exact(classes):
    got, expected = hessians(confusion(classes, 1, 30, 0.0), classes)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("columns", [2, 5, 16, 64])
@pytest.mark.parametrize("n", [1, 10, 2000])
@pytest.mark.parametrize("within", [0.0, 10.0])
def test_the_estimate_is_positive_semidefinite_with_zero_row_sums(columns, n, within):
    got, expected = hessians(confusion(100, 10, n, within), columns)
    largest = expected.diagonal().max()
    assert torch.linalg.eigvalsh(got)[0] > -1e-12 * largest
    assert got.sum(dim=1).abs().max() < 1e-12 * largest


@pytest.mark.parametrize("columns", [2, 16, 64])
def test_the_diagonal_stays_what_was_summed(columns):
    got, expected = hessians(confusion(100, 1, 2000, 0.0), columns)
    torch.testing.assert_close(got.diagonal(), expected.diagonal(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("columns", [16, 64])
def test_the_diagonal_moves_by_less_than_half_a_percent_where_groups_hardly_touch(columns):
    """Here eigenvalues of N close to 1 are estimated above 1 and clamped."""
    got, expected = hessians(confusion(100, 10, 2000, 10.0), columns)
    torch.testing.assert_close(got.diagonal(), expected.diagonal(), rtol=5e-3, atol=0)


def test_confident_predictions_keep_their_variance():
    """The exact sum of eeᵀ is then close to a diagonal of full rank."""
    got, expected = hessians(confusion(400, 1, 8000, 0.0), 64)
    assert ((variances(got) / variances(expected) - 1).abs() < 0.02).all()

    curvature = softmax(confusion(400, 1, 8000, 0.0))
    whole, omega = curvature.rank_one.T @ curvature.rank_one, sketch.signs(400, 64, CPU)
    products = whole @ omega
    nystrom = products @ torch.linalg.pinv(omega.T @ products, hermitian=True) @ products.T
    sketched_whole = torch.diag(curvature.diagonal.sum(dim=0)) - nystrom
    assert (variances(sketched_whole) / variances(expected)).mean() < 0.75


def test_variance_that_a_group_of_confused_classes_shares_is_seen():
    """Its direction has little curvature, which a diagonal cannot represent: with two columns the variance is lost."""
    logits = confusion(400, 10, 8000, 12.0)
    errors = []
    for columns in (2, 64):
        got, expected = hessians(logits, columns)
        errors.append((variances(got) / variances(expected) - 1).abs().mean())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(("classes", "wider"), [(20, 30), (200, 230), (250, 270), (400, 401)])
def test_classes_that_come_later_widen_a_sketch_to_what_it_would_have_been(classes, wider):
    e = softmax(confusion(classes, 4, 100, 3.0)).rank_one
    more = torch.cat([e, e.new_zeros(len(e), wider - classes)], dim=1)
    got = sketch.widen(sketch.off_diagonal(e, min(sketch.COLUMNS, classes)), wider)
    expected = sketch.off_diagonal(more, min(sketch.COLUMNS, wider))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_signs_of_a_class_do_not_depend_on_how_many_there_are():
    assert torch.equal(sketch.signs(1000, 32, CPU), sketch.signs(21841, 32, CPU)[:1000])


def test_the_signs_are_the_same_whenever_they_are_made():
    first = sketch.signs(1000, 32, CPU)
    torch.manual_seed(5)
    sketch.signs.cache_clear()
    assert torch.equal(first, sketch.signs(1000, 32, CPU))
    assert int((first * torch.arange(1000)[:, None] * torch.arange(1, 33)).sum()) == CHECKSUM


CHECKSUM = 114188
"""Weighted sum of the signs: other signs would be incompatible with saved sketches."""
