"""Binary classification with one logit f of class 1: p = σ(f).

    Λ = p(1 − p)

σ(f) is the softmax of the pair (0, f), so every link applies to the pair and returns a `Prediction` of two classes.
The uncertainty is one-dimensional, f ~ N(μ, v) for every structure: the samples are μ + √v z_s with fixed z_s, and both
closed forms are MacKay's (1992) σ(μ/√(T² + π/8 · v)).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration import links
from suffice.calibration.likelihoods import unit
from suffice.calibration.likelihoods.stateless import Stateless
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature, sigmoid
from suffice.calibration.posterior.moments import Offsets, root
from suffice.network import check_finite
from suffice.prediction import Prediction


@dataclass(frozen=True)
class Likelihood(Stateless):
    """Bernoulli likelihood of labels 0 or 1 of any type, (N,) or (N, 1)."""

    name: ClassVar[str] = "binary"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = False
    discrete: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (0.005, 200.0)

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError unless there is one output."""
        if outputs != 1:
            raise ValueError(
                f"expected 1 output, the logit of class 1, for likelihood='binary', got a classifier with {outputs}; "
                "pass likelihood='classification' for one logit per class, or 'multilabel' for one per label"
            )

    @staticmethod
    def labels(outputs: int) -> tuple[int, int]:
        """Return 1, the number of labels, and 2, the number of values."""
        return 1, 2

    @staticmethod
    def latents(outputs: int) -> int:
        """Return 1, the number of logits."""
        return 1

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return "full", which is exact and needs only D² numbers."""
        return "full"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return 1, as logits have no unit."""
        return 1.0

    @staticmethod
    def output_unit(outputs: Tensor) -> float:
        """Return the unit of the logits."""
        return unit.of_questions(outputs)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the labels and return them as int64 (N,)."""
        if targets.shape not in ((batch.size,), (batch.size, 1)) or targets.is_complex():
            raise ValueError(
                f"expected labels of shape ({batch.size},) or ({batch.size}, 1), "
                f"got {targets.dtype} of shape {tuple(targets.shape)} from position {batch.start}"
            )
        labels = targets.reshape(-1)
        check_finite(labels, "labels", batch.start)
        outside = ((labels != 0) & (labels != 1)).nonzero()
        if len(outside):
            first = int(outside[0])
            raise ValueError(f"expected labels 0 or 1, got {labels[first].item():g} at position {batch.start + first}")
        return labels.long()

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature p(1 − p) at logits (N, 1)."""
        return sigmoid(outputs)

    def serving_posterior(self, posterior: Posterior) -> Posterior:
        """Return the compressed posterior; probabilities depend little on the last few percent of a variance."""
        return posterior.compressed()

    def num_normals(self, posterior: Posterior) -> int:
        """Return 1, as a sample has one degree of freedom."""
        return 1

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Return the offsets (0, z_s) of a logit with standard deviation 1, from standard normals (S, 1)."""
        like = posterior.prior_precision.detach()
        return Offsets(like.new_ones(1, 1), torch.nn.functional.pad(normals, (1, 0))[None].to(like))

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Return the shapes for the pair (0, f)."""
        return "1 1", "1 S 2"

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Count the multiply-adds of the variance and of S products with it."""
        return posterior.macs(None) + (0 if offsets is None else offsets.values.shape[1])

    def logit_samples(self, outputs: Tensor, posterior: Posterior, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the samples μ + √v z_s (S, N, 1) that predictions average."""
        return outputs + root(posterior.variance(spectrum)) * offsets.values[0, :, 1:, None]

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Prediction:
        """Predict σ(f/T) from logits (N, 1)."""
        return Prediction(*links.plugin(_pair(outputs), temperature))

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> Prediction:
        """Predict from logits (N, 1): by samples if there are offsets, else by the closed form."""
        pair = _pair(outputs)
        if offsets is None:
            return Prediction(*links.probit(pair, posterior.variance(spectrum), temperature))

        def deviation(spectrum: Tensor) -> Tensor:
            return root(posterior.variance(spectrum))

        return Prediction(*links.sampled_from(pair, spectrum, deviation, offsets.values, temperature))

    def nll(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return −log p_y (N,), in nats."""
        return -prediction.log_probs.gather(1, targets[:, None])[:, 0]


def _pair(logits: Tensor) -> Tensor:
    """Return the logits (0, f) of both classes, (N, 2), from f (N, 1)."""
    return torch.nn.functional.pad(logits, (1, 0))
