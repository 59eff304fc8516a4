"""Linear heads for the benchmark of posteriors, and their posteriors in this library and in laplace-torch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import suffice
from suffice import Exit, ExitNetwork
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.exits import with_bias


@dataclass(frozen=True)
class Head:
    """Trained linear head, with features φ (N, D) and labels (N,)."""

    linear: nn.Linear
    phi: Tensor
    labels: Tensor

    def loader(self, size: int = 1000) -> list[tuple[Tensor, Tensor]]:
        """Return batches of φ and labels."""
        return list(zip(self.phi.split(size), self.labels.split(size), strict=True))


def make_head(features: int, classes: int, examples: int = 10_000) -> Head:
    """Generate non-negative features of overlapping classes, and train a head on them for a few hundred steps."""
    torch.manual_seed(0)
    centers = torch.randn(classes, features)
    labels = torch.randint(classes, (examples,))
    phi = (centers[labels] + 1.5 * torch.randn(examples, features)).relu()
    linear = nn.Linear(features, classes)
    optimizer = torch.optim.Adam(linear.parameters(), 3e-3)
    for index in torch.randint(examples, (200, 512)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(phi[index]), labels[index]).backward()
        optimizer.step()
    return Head(linear.requires_grad_(False), phi, labels)


def calibrate_head(data: Head, samples: int) -> Calibrated:
    """Calibrate a head with the Kronecker posterior at δ = 1 and T = 1, without tuning or ensemble."""
    network = ExitNetwork([nn.Identity()], [Exit(nn.Identity(), data.linear)])
    options = {"link": "plugin", "temperature": False, "ensemble": False}
    plain = suffice.calibrate(network, data.loader(), data.loader(), **options)
    posterior, generator = plain.exits[0].posterior, torch.Generator().manual_seed(0)
    exit_ = plain.exits[0].with_posterior(posterior, "sampled", samples, generator)
    return Calibrated(network, [exit_], False, plain.costs, plain.network_hash)


def reference_probs(calibrated: Calibrated, phi: Tensor, samples: int = 100_000) -> Tensor:
    """Estimate probabilities (N, C) from independent samples of the exact-prior Kronecker posterior."""
    posterior = calibrated.exits[0].posterior
    generator = torch.Generator().manual_seed(1)
    logits = calibrated.network(phi)[0].double()
    augmented = with_bias(phi, 1.0)
    factors = torch.linalg.cholesky(posterior.to(torch.device("cpu")).covariance(augmented.double()))
    rows = []
    for mean, factor in zip(logits, factors, strict=True):
        z = torch.randn(samples, len(mean), generator=generator, dtype=torch.float64)
        rows.append((mean + z @ factor.T).softmax(dim=1).mean(dim=0))
    return torch.stack(rows)


def peer(data: Head) -> object:
    """Fit the Kronecker last layer of laplace-torch to the same data, with the same prior precision."""
    from laplace import KronLLLaplace
    from laplace.curvature import CurvlinopsGGN

    model = nn.Sequential(nn.Identity(), data.linear)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    laplace = KronLLLaplace(model, "classification", last_layer_name="1", prior_precision=1.0, backend=CurvlinopsGGN)
    laplace.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.phi, data.labels), 1000))
    return laplace
