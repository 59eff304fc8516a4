"""What a network says about a number and how sure it is: a Gaussian for each output.

    y_c ~ N(mean_c, epistemic variance_c + noise variance_c)

The epistemic part is what the weights, and the members of an ensemble, disagree about, and shrinks with data; the
noise is what the targets themselves scatter. Outputs are taken as independent. Units are those of the targets,
variances in their squares.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """Gaussian predictions of a batch; every field is batch first. The sibling of `Prediction`.

    Attributes:
        mean: (N, C).
        epistemic_variance: (N, C), of the mean.
        noise_variance: (N, C), of a target about its mean.
        members: the exits' own predictions where this one is an ensemble, else empty.
    """

    mean: Tensor
    epistemic_variance: Tensor
    noise_variance: Tensor
    members: "tuple[Regression, ...]" = ()

    @property
    def variance(self) -> Tensor:
        """(N, C), total variance of a target."""
        return self.epistemic_variance + self.noise_variance

    @property
    def std(self) -> Tensor:
        """(N, C), its root, in the units of the targets."""
        return self.variance.sqrt()

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end, (N, C) each, of the central interval that holds a target with probability `level`.

        Raises:
            ValueError: unless 0 < level < 1.
        """
        half = half_width(level) * self.std
        return self.mean - half, self.mean + half

    def log_density(self, targets: Tensor) -> Tensor:
        """Log-density (N,) in nats of targets (N, C), or (N,) where C = 1, summed over the outputs."""
        targets = targets.reshape(self.mean.shape)
        variance = self.variance
        terms = (targets - self.mean).square() / variance + variance.log() + math.log(2 * math.pi)
        return -terms.sum(dim=-1) / 2

    @property
    def soundness(self) -> Tensor:
        """(N,), a number that is finite where the prediction is one."""
        return (self.mean.abs() + self.variance).amax(dim=-1)

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self.mean)

    def take(self, index: Tensor) -> "Regression":
        """The examples `index` (M,)."""
        return Regression(
            self.mean.index_select(0, index),
            self.epistemic_variance.index_select(0, index),
            self.noise_variance.index_select(0, index),
            tuple(member.take(index) for member in self.members),
        )


def half_width(level: float) -> float:
    """Standard deviations from the middle to the ends of a Gaussian's central interval of probability `level`.

    Raises:
        ValueError: unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is 95 %")
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
