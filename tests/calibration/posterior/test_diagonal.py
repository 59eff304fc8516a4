import torch

from suffice.calibration.posterior import diagonal
from tests.calibration.posterior.conformance import PosteriorConformance


class TestDiagonal(PosteriorConformance):
    module = diagonal
    width = 9

    def posterior(self, statistics, delta, gamma):
        return diagonal.Posterior.fit(statistics, delta, gamma)

    def precision(self, phi, logits, delta, gamma):
        total = delta * torch.kron(torch.diag(gamma), torch.eye(phi.shape[1], dtype=torch.float64))
        for row, p in zip(phi, logits.softmax(dim=1), strict=True):
            total += torch.diag(torch.kron(p * (1 - p), row.square()))
        return total
