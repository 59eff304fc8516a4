import torch

from suffice.calibration.posterior import full
from tests.calibration.posterior.conformance import PosteriorConformance


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
