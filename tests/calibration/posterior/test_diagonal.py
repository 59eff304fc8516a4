import torch

from suffice.calibration.posterior import diagonal
from tests.calibration.posterior.conformance import PosteriorConformance


class TestDiagonal(PosteriorConformance):
    module = diagonal
    width = 9

    def posterior(self, statistics, delta):
        return diagonal.Posterior.fit(statistics, delta)

    def precision(self, phi, logits, delta):
        total = delta * torch.eye(logits.shape[1] * phi.shape[1], dtype=torch.float64)
        for row, p in zip(phi, logits.softmax(dim=1), strict=True):
            total += torch.diag(torch.kron(p * (1 - p), row.square()))
        return total
