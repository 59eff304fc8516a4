import pytest
import torch

from suffice.calibration.posterior import blocks, diagonal, full
from suffice.calibration.posterior.curvature import sigmoid
from tests.calibration.posterior.conformance import PosteriorConformance, problem, uneven


class TestBlocks(PosteriorConformance):
    module = blocks
    width = 9

    def posterior(self, statistics, delta, gamma):
        return blocks.Posterior.fit(statistics, delta, gamma)

    def precision(self, phi, logits, delta, gamma):
        total = delta * torch.kron(torch.diag(gamma), torch.eye(phi.shape[1], dtype=torch.float64))
        for row, p in zip(phi, logits.softmax(dim=1), strict=True):
            total += torch.kron(torch.diag(p * (1 - p)), torch.outer(row, row))
        return total


@pytest.mark.parametrize("gamma", [None, uneven(4)])
def test_where_outputs_do_not_interact_it_is_the_full_posterior(gamma):
    phi, logits = problem(60, 7, 4)
    wide, narrow = (module.update(module.init(7, 4), phi, logits, sigmoid) for module in (full, blocks))
    exact, posterior = full.Posterior.fit(wide, 0.3, gamma), blocks.Posterior.fit(narrow, 0.3, gamma)
    torch.testing.assert_close(posterior.covariance(phi), exact.covariance(phi))
    weights = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    evidence, expected = (each.log_marginal_likelihood(weights) for each in (posterior, exact))
    torch.testing.assert_close(evidence, expected)


def test_its_diagonal_is_that_of_the_diagonal_posterior():
    phi, logits = problem(60, 7, 4)
    sums, expected = (module.update(module.init(7, 4), phi, logits) for module in (blocks, diagonal))
    torch.testing.assert_close(sums.hessian.diagonal(dim1=1, dim2=2), expected.hessian)


def test_the_variance_does_not_depend_on_how_many_examples_are_projected_at_once(monkeypatch):
    phi, logits = problem(60, 7, 4)
    posterior = blocks.Posterior.fit(blocks.update(blocks.init(7, 4), phi, logits))
    whole = posterior.variance(phi)
    monkeypatch.setattr(blocks, "_CHUNK", 5 * 28)
    torch.testing.assert_close(posterior.variance(phi), whole)
