"""Classification by a softmax, p = softmax(f), with one output per class.

−log p_y = −f_y + log Σ_c exp f_c,   Λ = diag(p) − ppᵀ
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suffice.batches import Batch, class_labels
from suffice.calibration import links
from suffice.calibration.likelihoods import unit
from suffice.calibration.likelihoods.stateless import Stateless
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature, softmax
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Prediction


@dataclass(frozen=True)
class Likelihood(Stateless):
    """Categorical likelihood of integer labels (N,) in [0, C)."""

    name: ClassVar[str] = "classification"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    discrete: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (0.005, 200.0)

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError for a single output, because its softmax is always 1."""
        if outputs < 2:
            raise ValueError(
                "expected 2 outputs or more, one per class, got a classifier with 1; pass likelihood='binary' if it is "
                "the logit of class 1, or 'regression' if it is a number"
            )

    @staticmethod
    def labels(outputs: int) -> tuple[int, int]:
        """Return 1, the number of labels, and the number of classes C, its values."""
        return 1, outputs

    @staticmethod
    def latents(outputs: int) -> int:
        """Return the number of classes C."""
        return outputs

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return "kronecker", which is cheap for any number of classes."""
        return "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return 1, as logits have no unit."""
        return 1.0

    @staticmethod
    def output_unit(outputs: Tensor) -> float:
        """Return the unit of the logits."""
        return unit.of_classes(outputs)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the labels and return them as int64 (N,)."""
        if targets.shape == (batch.size, outputs):
            raise ValueError(
                f"expected integer labels of shape ({batch.size},), got {targets.dtype} of shape "
                f"{tuple(targets.shape)} from position {batch.start}; pass likelihood='multilabel' if each row has a 0 "
                "or 1 for every label, or labels.argmax(dim=1) if it is one-hot"
            )
        return class_labels(targets, batch, outputs)

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature diag(p) − ppᵀ at logits (N, C)."""
        return softmax(outputs)

    def serving_posterior(self, posterior: Posterior) -> Posterior:
        """Return the compressed posterior; probabilities depend little on the last few percent of a variance."""
        return posterior.compressed()

    def num_normals(self, posterior: Posterior) -> int:
        """Return the number of standard normals in a joint sample of the posterior."""
        return posterior.num_normals

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Build the posterior's offsets of joint samples of all logits."""
        return posterior.sample_offsets(normals)

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Return the shapes that the posterior defines."""
        return posterior.offsets_shapes

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Count the multiply-adds of the posterior."""
        return posterior.macs(offsets)

    def logit_samples(self, outputs: Tensor, posterior: Posterior, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the joint samples (S, N, C) of all logits that predictions average."""
        coefficients = posterior.coefficients(spectrum, offsets)
        return outputs + torch.einsum("nr,rsc->snc", coefficients, offsets.values)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Prediction:
        """Predict the softmax of logits (N, C) at a temperature."""
        return Prediction(*links.plugin(outputs, temperature))

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> Prediction:
        """Predict from logits (N, C): by samples if there are offsets, else by a closed form."""
        if offsets is not None:
            coefficients = functools.partial(posterior.coefficients, offsets=offsets)
            return Prediction(*links.sampled_from(outputs, spectrum, coefficients, offsets.values, temperature))
        closed_form = links.probit if link == "probit" else links.meanfield
        return Prediction(*closed_form(outputs, posterior.centered_variance(spectrum), temperature))

    def nll(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return −log p_y (N,), in nats."""
        return -prediction.log_probs.gather(1, targets[:, None])[:, 0]
