"""Classes by a softmax: p = softmax(f), one output a class.

−log p_y = −f_y + log Σ_c exp f_c,   Λ = diag(p) − ppᵀ
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from suffice.batches import Batch, class_labels
from suffice.calibration import links
from suffice.calibration.likelihoods.stateless import Stateless
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature, softmax
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Prediction


@dataclass(frozen=True)
class Likelihood(Stateless):
    """The categorical likelihood; labels are integers (N,) in [0, C)."""

    name: ClassVar[str] = "classification"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (0.05, 20.0)

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError for a single output, whose softmax is always 1."""
        if outputs < 2:
            raise ValueError(
                "expected 2 outputs or more, one a class, got a classifier with 1; pass likelihood='binary' if it is "
                "the logit of class 1, 'regression' if it is a number"
            )

    @staticmethod
    def latents(outputs: int) -> int:
        """C."""
        return outputs

    @staticmethod
    def structure(outputs: int) -> Structure:
        """The one that is cheap at any number of classes."""
        return "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """1: logits have no unit."""
        return 1.0

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Labels, int64 (N,)."""
        return class_labels(targets, batch, outputs)

    def curvature(self, outputs: Tensor) -> Curvature:
        """At logits (N, C)."""
        return softmax(outputs)

    def served(self, posterior: Posterior) -> Posterior:
        """Compressed: probabilities hardly depend on the last few percent of a variance."""
        return posterior.compressed()

    def noise(self, posterior: Posterior) -> int:
        """The posterior's own."""
        return posterior.noise

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """The posterior's own, of joint samples of all logits."""
        return posterior.sample_offsets(normals)

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """The posterior's own."""
        return posterior.offsets_shapes

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """The posterior's own."""
        return posterior.macs(offsets)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Prediction:
        """Softmax of logits (N, C) at a temperature."""
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
        """From logits (N, C) by a link; where there are offsets, by their samples."""
        if offsets is not None:
            read = functools.partial(posterior.coefficients, offsets=offsets)
            return Prediction(*links.sampled_from(outputs, spectrum, read, offsets.values, temperature))
        closed_form = links.probit if link == "probit" else links.meanfield
        return Prediction(*closed_form(outputs, posterior.visible_variance(spectrum), temperature))

    def nll(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """−log p_y (N,), nats."""
        return -prediction.log_probs.gather(1, targets[:, None])[:, 0]
