import pytest
import torch

from suffice.calibration.posterior.resolvents import Resolvent, Resolvents, interpolation


def pieces(classes, rank, seed=0):
    """γ, t, Q and υ of a random diagonal plus low rank, with eigenvalues υ of 0 and of 2."""
    generator = torch.Generator().manual_seed(seed)
    gamma, t = torch.rand(2, classes, generator=generator, dtype=torch.float64) + 0.01
    Q = torch.linalg.qr(torch.randn(classes, rank, generator=generator, dtype=torch.float64))[0]
    return gamma, t, Q, torch.linspace(0, 2, rank, dtype=torch.float64)


def dense(t, Q, values):
    middle = torch.eye(len(t), dtype=torch.float64) + Q @ torch.diag(values - 1) @ Q.T
    return t.sqrt()[:, None] * middle * t.sqrt()


@pytest.mark.parametrize("tau", [-0.004, 0.0, 1e-3, 1.0, 1e6])
def test_a_resolvent_is_the_dense_inverse(tau):
    gamma, t, Q, values = pieces(9, 4)
    matrix = torch.diag(gamma) + tau * dense(t, Q, values)
    got = Resolvent.at(torch.tensor(tau, dtype=torch.float64), gamma, t, Q, values)
    inverse, centring = torch.linalg.inv(matrix), torch.eye(9, dtype=torch.float64) - 1 / 9
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(got.apply(torch.eye(9, dtype=torch.float64)), inverse, **close)
    plain, visible = got.diagonals()
    torch.testing.assert_close(plain, inverse.diagonal(), **close)
    torch.testing.assert_close(visible, (centring @ inverse @ centring).diagonal(), **close)
    torch.testing.assert_close(got.log_det, torch.logdet(matrix), **close)


def test_the_root_times_its_transpose_is_the_hessian():
    gamma, t, Q, values = pieces(9, 4)
    resolvents = Resolvents.between(torch.ones(1, dtype=torch.float64), gamma, t, Q, values)
    root = resolvents.rooted(torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(root @ root.T, dense(t, Q, values), rtol=1e-9, atol=1e-12)


def test_combinations_are_sums_of_dense_inverses_at_the_nodes():
    gamma, t, Q, values = pieces(9, 4)
    resolvents = Resolvents.between(torch.tensor([0.1, 2.0], dtype=torch.float64), gamma, t, Q, values)
    inverses = torch.linalg.inv(torch.diag(gamma) + resolvents.nodes[:, None, None] * dense(t, Q, values))
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    combined = resolvents.combined(resolvents.weights.T, x)
    torch.testing.assert_close(combined, torch.einsum("rv,vcd,dm->rcm", resolvents.weights, inverses, x))
    torch.testing.assert_close(resolvents.diagonals[0], inverses.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("condition", [1e-3, 1.0, 1e4, 1e11])
@pytest.mark.parametrize("largest", [1e-3, 1e4])
def test_every_resolvent_is_interpolated_to_1e_8_of_itself(condition, largest):
    tau = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 200)]).double() * condition / largest
    u = torch.cat([torch.zeros(1), torch.logspace(-12, 0, 50)]).double() * largest
    nodes, weights = interpolation(tau, torch.tensor(largest, dtype=torch.float64))
    expected = 1 / (1 + torch.outer(tau, u))
    torch.testing.assert_close(weights @ (1 / (1 + torch.outer(nodes, u))), expected, rtol=1e-8, atol=0)
    assert weights.abs().sum(dim=1).max() < 3


def test_the_weights_are_differentiable_in_tau():
    u = torch.tensor([0.3, 2.0], dtype=torch.float64)
    tau = torch.tensor([0.01, 0.4, 7.0], dtype=torch.float64, requires_grad=True)
    nodes, weights = interpolation(tau, torch.tensor(2.0, dtype=torch.float64))
    (got,) = torch.autograd.grad((weights @ (1 / (1 + torch.outer(nodes, u)))).sum(), tau)
    expected = -(u / (1 + torch.outer(tau.detach(), u)).square()).sum(dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
