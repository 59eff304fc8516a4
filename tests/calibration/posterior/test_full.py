import torch

from suffice.calibration.posterior import full
from tests.calibration.posterior.conformance import PosteriorConformance


class TestFull(PosteriorConformance):
    module = full
    width = 9

    def posterior(self, statistics, delta):
        return full.Posterior.fit(statistics, delta)

    def precision(self, phi, logits, delta):
        total = delta * torch.eye(logits.shape[1] * phi.shape[1], dtype=torch.float64)
        for row, p in zip(phi, logits.softmax(dim=1), strict=True):
            total += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(row, row))
        return total
