from dataclasses import replace

import torch

from suffice.calibration.posterior import full
from suffice.calibration.posterior.moments import standard_normals
from tests.calibration.posterior.conformance import PosteriorConformance, problem, uneven


class TestFull(PosteriorConformance):
    module = full
    width = 9

    def posterior(self, statistics, delta, gamma):
        return full.Posterior.fit(statistics, delta, gamma)

    def precision(self, phi, logits, delta, gamma):
        total = delta * torch.kron(torch.diag(gamma), torch.eye(phi.shape[1], dtype=torch.float64))
        for row, p in zip(phi, logits.softmax(dim=1), strict=True):
            total += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(row, row))
        return total

    def test_samples_do_not_depend_on_the_signs_that_a_decomposition_chose(self):
        posterior = self.fit(*problem(100, 5, 4), gamma=uneven(4))
        signs = torch.where(torch.arange(20) % 3 > 0, 1.0, -1.0)
        other = replace(posterior, vectors=posterior.vectors * signs)
        normals = standard_normals(8, 20, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(other.sample_offsets(normals).values, posterior.sample_offsets(normals).values)
