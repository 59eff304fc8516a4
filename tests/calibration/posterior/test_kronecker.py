from dataclasses import replace

import pytest
import torch

from suffice.calibration.posterior import kronecker
from suffice.calibration.posterior.moments import standard_normals
from tests.calibration.posterior.conformance import (
    PosteriorConformance,
    centered,
    feature_moment,
    problem,
    softmax_hessian,
    uneven,
)


class TestExactPrior(PosteriorConformance):
    module = kronecker

    def posterior(self, statistics, delta, gamma):
        return kronecker.Posterior.fit(statistics, delta, "exact", gamma)

    def precision(self, phi, logits, delta, gamma):
        likelihood = torch.kron(softmax_hessian(logits), feature_moment(phi))
        return likelihood + delta * torch.kron(torch.diag(gamma), torch.eye(phi.shape[1], dtype=torch.float64))

    @pytest.mark.parametrize("delta", [1e-2, 1.0, 1e2])
    def test_a_handful_of_directions_is_enough(self, delta):
        phi, logits = problem(500, 20, 40)
        normals = standard_normals(4, 40, generator=torch.Generator().manual_seed(0))
        assert self.fit(phi, logits, delta).sample_offsets(normals).values.shape[0] <= 8

    @pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0, 1e2])
    @pytest.mark.parametrize("scale", [1, 1e6])
    def test_the_direction_that_no_softmax_sees_takes_no_part(self, delta, scale):
        """Also if δ is divided differently between the prior and the relative precisions of the classes."""
        phi, logits = problem(500, 20, 3)
        gamma = torch.full((3,), scale, dtype=torch.float64)
        normals = standard_normals(4, 3, generator=torch.Generator().manual_seed(0))
        assert self.fit(phi, logits, delta / scale, gamma).sample_offsets(normals).values.shape[0] <= 2


@pytest.mark.parametrize("prior", ["exact", "factored"])
@pytest.mark.parametrize("delta", [1e-2, 1.0, 1e2, 1e4])
def test_compression_changes_no_variance_by_more_than_2_per_cent(delta, prior):
    phi, logits = problem(500, 40, 7)
    sums = kronecker.update(kronecker.init(40, 7), phi, logits)
    posterior = kronecker.Posterior.fit(sums, delta, prior)
    unlike = torch.cat(
        [phi[:50], torch.randn(50, 40, generator=torch.Generator().manual_seed(0)), posterior.feature_vectors.T]
    )
    served = posterior.compressed()
    ratio = served.covariance(unlike).diagonal(dim1=1, dim2=2) / posterior.covariance(unlike).diagonal(dim1=1, dim2=2)
    assert ((ratio - 1).abs() <= 0.02).all()


def test_nothing_is_compressed_where_rounding_could_be_seen():
    phi, logits = problem(500, 40, 7)
    phi[:, :30] = 0  # so that a window of eigenvalues can be replaced
    sums = kronecker.update(kronecker.init(40, 7), phi, logits)
    projections = [
        kronecker.Posterior.fit(sums, delta).compressed().feature_vectors.shape[1] for delta in (1e-2, 1e-12)
    ]
    assert projections[0] <= 10
    assert projections[1] == 40


def test_compression_projects_on_what_the_data_say_more_about_than_the_prior():
    phi, logits = problem(500, 40, 7)
    sums = kronecker.update(kronecker.init(40, 7), phi, logits)
    projections = [
        kronecker.Posterior.fit(sums, delta).compressed().feature_vectors.shape[1] for delta in (1e-3, 1e2, 1e6)
    ]
    assert 40 > projections[0] > projections[1] > projections[2] == 0


class TestFactoredPrior(PosteriorConformance):
    module = kronecker

    def posterior(self, statistics, delta, gamma):
        return kronecker.Posterior.fit(statistics, delta, "factored", gamma)

    def precision(self, phi, logits, delta, gamma):
        root, n = delta**0.5, len(phi)
        u, a = softmax_hessian(logits), feature_moment(phi)
        return torch.kron(u / n**0.5 + root * torch.diag(gamma), a * n**0.5 + root * torch.eye(len(a)).double())

    @pytest.mark.parametrize("delta", [1e-3, 1.0, 1e3])
    def test_one_direction_is_enough(self, delta):
        phi, logits = problem(500, 20, 40)
        normals = standard_normals(4, 40, generator=torch.Generator().manual_seed(0))
        assert self.fit(phi, logits, delta).sample_offsets(normals).values.shape[0] == 1


def test_the_factored_variance_is_the_smaller():
    phi, logits = problem(200, 6, 4)
    sums = kronecker.update(kronecker.init(6, 4), phi, logits)
    exact, factored = (kronecker.Posterior.fit(sums, 1.0, prior) for prior in ("exact", "factored"))
    assert (factored.moments(phi, logits).variance < exact.moments(phi, logits).variance).all()


@pytest.mark.parametrize("prior", ["exact", "factored"])
def test_offsets_of_different_examples_are_more_alike_than_their_logits(prior):
    """√g(x)√g(x') ≥ Σ_i ψ_iψ'_i M_ij: between examples use `joint_samples`."""
    phi, logits = problem(200, 6, 4)
    posterior = kronecker.Posterior.fit(kronecker.update(kronecker.init(6, 4), phi, logits), 1.0, prior)
    at, root = phi[:2], (posterior.spectrum(phi[:2]) @ posterior._variances).sqrt()
    normals = torch.eye(4, dtype=torch.float64)
    offsets = posterior.sample_offsets(normals)
    deviations = torch.einsum("nr,rsc->nsc", posterior.coefficients(posterior.spectrum(at), offsets), offsets.values)
    between = centered(posterior.class_vectors * root[0] * root[1] @ posterior.class_vectors.T)
    torch.testing.assert_close(deviations[0].T @ deviations[1], between, atol=1e-3, rtol=1e-2)
    psi = at @ posterior.feature_vectors
    true = posterior.class_vectors * ((psi[0] * psi[1]) @ posterior._variances) @ posterior.class_vectors.T
    assert centered(true).trace() < 0.8 * between.trace()


def test_samples_do_not_depend_on_the_signs_that_a_decomposition_chose():
    phi, logits = problem(200, 6, 4)
    sums = kronecker.update(kronecker.init(6, 4), phi, logits)
    posterior = kronecker.Posterior.fit(sums, class_precision=uneven(4))
    signs = torch.tensor([1, -1, -1, 1])
    other = replace(posterior, class_vectors=posterior.class_vectors * signs)
    normals = standard_normals(8, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other.sample_offsets(normals).values, posterior.sample_offsets(normals).values)


def test_features_that_are_all_zero_do_not_break_the_samples():
    phi, logits = torch.zeros(10, 5), torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    posterior = kronecker.Posterior.fit(kronecker.update(kronecker.init(5, 3), phi, logits))
    offsets = posterior.sample_offsets(standard_normals(4, 3))
    coefficients = posterior.coefficients(posterior.spectrum(phi.double()), offsets)
    assert torch.einsum("nr,rsc->nsc", coefficients, offsets.values).isfinite().all()
