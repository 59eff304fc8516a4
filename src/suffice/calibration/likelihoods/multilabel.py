"""Classification with several labels, one logit f_c for each of K labels that are present or absent: p_c = σ(f_c).

    −log p(y) = −Σ_c (y_c log p_c + (1 − y_c) log(1 − p_c)),   Λ = diag(p_c (1 − p_c))

As Λ is diagonal, the Hessian in the weights is block-diagonal, with a block Σ_n p_nc (1 − p_nc) φ_nφ_nᵀ for each label,
and so is the posterior: the logits of an example are independent, f_c ~ N(μ_c, v_c), for every structure. "blocks" and
"full" are exact; "kronecker" and "lowrank", equal to each other, share the features' moment between the labels.

Each label is a binary classification by itself (`binary`): the samples are μ_c + √v_c z_s with S fixed points z_s, the
same for all labels, and both closed forms are MacKay's (1992) σ(μ_c/√(T² + π/8 · v_c)).
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
from suffice.calibration.posterior.moments import Offsets, quantiles, root
from suffice.network import check_finite
from suffice.prediction import Multilabel


@dataclass(frozen=True)
class Likelihood(Stateless):
    """Bernoulli likelihoods of K labels of 0 or 1 of any type, (N, K), or (N,) where K = 1."""

    name: ClassVar[str] = "multilabel"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    discrete: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (0.005, 200.0)

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Accept any number of outputs."""

    @staticmethod
    def labels(outputs: int) -> tuple[int, int]:
        """Return the number of labels K, and 2, as each is present or absent."""
        return outputs, 2

    @staticmethod
    def output_unit(outputs: Tensor) -> float:
        """Return the unit of the logits."""
        return unit.of_questions(outputs)

    @staticmethod
    def latents(outputs: int) -> int:
        """Return the number of labels K."""
        return outputs

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return "full" for one label, where it is exact and cheap, else "kronecker"."""
        return "full" if outputs == 1 else "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return 1, as logits have no unit."""
        return 1.0

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the labels and return them as int64 (N, K)."""
        shapes = [(batch.size, outputs)] + [(batch.size,)] * (outputs == 1)
        if tuple(targets.shape) not in shapes or targets.is_complex():
            remedy = "; pass likelihood='classification' for one class out of several" if targets.ndim == 1 else ""
            raise ValueError(
                f"expected labels of shape ({batch.size}, {outputs}), 0 or 1 for each label, "
                f"got {targets.dtype} of shape {tuple(targets.shape)} from position {batch.start}{remedy}"
            )
        labels = targets.reshape(batch.size, outputs)
        check_finite(labels, "labels", batch.start)
        outside = ((labels != 0) & (labels != 1)).nonzero()
        if len(outside):
            row, column = (int(index) for index in outside[0])
            raise ValueError(
                f"expected labels 0 or 1, got {labels[row, column].item():g} for label {column} at position "
                f"{batch.start + row}; leave out examples with a label that is not known"
            )
        return labels.long()

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature p(1 − p) of each label at logits (N, K)."""
        return sigmoid(outputs)

    def serving_posterior(self, posterior: Posterior) -> Posterior:
        """Return the compressed posterior; probabilities depend little on the last few percent of a variance."""
        return posterior.compressed()

    def num_normals(self, posterior: Posterior) -> int:
        """Return K, one standard normal for each independent logit."""
        return len(posterior.class_precision)

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Return the offsets z_s of logits with standard deviation 1, from standard normals (S, K).

        Every label has the same S quantiles, in the order of its normals: as good a set of points as one label has
        by itself, but in an order that keeps the labels of a joint sample nearly uncorrelated.
        """
        like = posterior.prior_precision.detach()
        points = quantiles(len(normals))[normals.cpu().argsort(dim=0).argsort(dim=0)]
        return Offsets(like.new_ones(1, 1), points[None].to(like))

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Return the shapes of one value for each label."""
        return "1 1", "1 S C"

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Count the multiply-adds of the variances and of S products with each."""
        return posterior.macs(None) + (0 if offsets is None else offsets.values.numel())

    def logit_samples(self, outputs: Tensor, posterior: Posterior, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the samples μ_c + √v_c z_s (S, N, K) that predictions average label by label."""
        return outputs + root(posterior.variance(spectrum)) * offsets.values[0][:, None]

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Multilabel:
        """Predict σ(f/T) from logits (N, K)."""
        return _by_label(outputs, links.plugin(_pairs(outputs), temperature))

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> Multilabel:
        """Predict from logits (N, K): by samples if there are offsets, else by the closed form."""
        pairs, variance = _pairs(outputs), posterior.variance(spectrum).reshape(-1, 1)
        if offsets is None:
            return _by_label(outputs, links.probit(pairs, variance, temperature))
        points = torch.nn.functional.pad(offsets.values[:, :, :1], (1, 0))  # all labels have the same points
        return _by_label(outputs, links.sampled_from(pairs, variance, root, points, temperature))

    def nll(self, prediction: Multilabel, targets: Tensor) -> Tensor:
        """Return −Σ_c log p(y_c) (N,), in nats."""
        return -prediction.log_probs.gather(2, targets[..., None])[..., 0].sum(dim=-1)


def _pairs(logits: Tensor) -> Tensor:
    """Return the logits (0, f_c) of absence and presence of every label, (N·K, 2), from f (N, K)."""
    return torch.nn.functional.pad(logits.reshape(-1, 1), (1, 0))


def _by_label(outputs: Tensor, results: tuple[Tensor, Tensor]) -> Multilabel:
    """Return the prediction of log-probabilities (N·K, 2) and aleatoric parts (N·K,) for outputs (N, K)."""
    log_probs, aleatoric = results
    return Multilabel(log_probs.reshape(*outputs.shape, 2), aleatoric.reshape(outputs.shape))
