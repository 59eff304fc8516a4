import pytest
import torch

from suffice.calibration.moments import standard_normals
from suffice.calibration.posterior import kronecker
from tests.calibration.posterior.conformance import (
    PosteriorConformance,
    feature_moment,
    problem,
    softmax_hessian,
)


class TestExactPrior(PosteriorConformance):
    module = kronecker

    def posterior(self, statistics, delta):
        return kronecker.Posterior.fit(statistics, delta, "exact")

    def precision(self, phi, logits, delta):
        likelihood = torch.kron(softmax_hessian(logits), feature_moment(phi))
        return likelihood + delta * torch.eye(len(likelihood), dtype=torch.float64)

    @pytest.mark.parametrize("delta", [1e-2, 1.0, 1e2])
    def test_a_handful_of_directions_is_enough(self, delta):
        phi, logits = problem(500, 20, 40)
        normals = standard_normals(4, 40, generator=torch.Generator().manual_seed(0))
        assert self.fit(phi, logits, delta).sample_offsets(normals).values.shape[0] <= 8

    @pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0, 1e2])
    def test_the_direction_that_no_softmax_sees_takes_no_part(self, delta):
        phi, logits = problem(500, 20, 3)
        normals = standard_normals(4, 3, generator=torch.Generator().manual_seed(0))
        assert self.fit(phi, logits, delta).sample_offsets(normals).values.shape[0] <= 2


@pytest.mark.parametrize("prior", ["exact", "factored"])
@pytest.mark.parametrize("delta", [1e-2, 1.0, 1e2, 1e4])
def test_compression_changes_no_variance_by_more_than_5_per_cent(delta, prior):
    phi, logits = problem(500, 40, 7)
    sums = kronecker.update(kronecker.init(40, 7), phi, logits)
    posterior = kronecker.Posterior.fit(sums, delta, prior)
    unlike = torch.cat(
        [phi[:50], torch.randn(50, 40, generator=torch.Generator().manual_seed(0)), posterior.feature_vectors.T]
    )
    served = posterior.compressed()
    ratio = served.covariance(unlike).diagonal(dim1=1, dim2=2) / posterior.covariance(unlike).diagonal(dim1=1, dim2=2)
    assert ((ratio - 1).abs() <= 0.05).all()


def test_compression_projects_on_what_the_data_say_more_about_than_the_prior():
    phi, logits = problem(500, 40, 7)
    sums = kronecker.update(kronecker.init(40, 7), phi, logits)
    kept = [kronecker.Posterior.fit(sums, delta).compressed().feature_vectors.shape[1] for delta in (1e-3, 1e2, 1e6)]
    assert 40 > kept[0] > kept[1] > kept[2] == 0


class TestFactoredPrior(PosteriorConformance):
    module = kronecker

    def posterior(self, statistics, delta):
        return kronecker.Posterior.fit(statistics, delta, "factored")

    def precision(self, phi, logits, delta):
        root, n = delta**0.5, len(phi)
        u, a = softmax_hessian(logits), feature_moment(phi)
        eye_u, eye_a = (torch.eye(len(factor), dtype=torch.float64) for factor in (u, a))
        return torch.kron(u / n**0.5 + root * eye_u, a * n**0.5 + root * eye_a)

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


def test_features_that_are_all_zero_do_not_break_the_samples():
    phi, logits = torch.zeros(10, 5), torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    posterior = kronecker.Posterior.fit(kronecker.update(kronecker.init(5, 3), phi, logits))
    offsets = posterior.sample_offsets(standard_normals(4, 3))
    coefficients = posterior.coefficients(posterior.spectrum(phi.double()), offsets)
    assert torch.einsum("nr,rsc->nsc", coefficients, offsets.values).isfinite().all()
