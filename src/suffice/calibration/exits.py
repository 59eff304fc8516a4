"""Calibrated exits: from features and outputs to a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice.calibration.affine import weight_and_bias
from suffice.calibration.ensemble import Weight
from suffice.calibration.likelihoods import LIKELIHOODS, Likelihood, classification
from suffice.calibration.links import Link
from suffice.calibration.posterior import STRUCTURES, Posterior
from suffice.calibration.posterior.moments import Offsets, standard_normals
from suffice.prediction import AnyPrediction
from suffice.storage.parts import INVERTIBLE, Parts, Range, prefixed
from suffice.storage.serializable import Serializable
from suffice.utils import arguments

_FLOAT32 = torch.finfo(torch.float32)
TEMPERATURES = Range(_FLOAT32.tiny**0.5, _FLOAT32.max**0.5)
"""Temperatures whose square, which links compute, is finite and positive in every supported type."""


@dataclass(frozen=True)
class CalibratedExit(Serializable):
    """Posterior, temperature and ensemble weight of one exit.

    Attributes:
        temperature: Temperature T; divides the logits (and their samples) before the softmax, and multiplies the
            standard deviation of a regression.
        bias: Constant feature at the end of φ whose weight is the classifier's bias, or None without a bias. With
            1/√β the bias has β times the prior precision of the weights.
        posterior: Posterior over the classifier's weights, or None.
        link: Link from the posterior to probabilities.
        normals: Fixed standard normals (S, num_normals) of the sampled link, else None.
        offsets: Offsets of the samples that `normals` give under the posterior, else None.
        likelihood: Likelihood of a target given the outputs.
        weight: Tuned weight in the ensemble, relative to those of the other exits; None for the multiply-adds.
    """

    temperature: float | Tensor
    bias: float | None
    posterior: Posterior | None = None
    link: Link = "plugin"
    normals: Tensor | None = None
    offsets: Offsets | None = None
    likelihood: Likelihood = field(default_factory=classification.Likelihood)
    weight: Weight | None = None

    @property
    def prior_precision(self) -> float | None:
        """Prior precision δ of the posterior, or None."""
        return None if self.posterior is None else float(self.posterior.prior_precision)

    @property
    def class_precision(self) -> list[float] | None:
        """Prior precisions γ of the classes relative to δ, or None without a posterior."""
        return None if self.posterior is None else self.posterior.class_precision.tolist()

    @property
    def noise_variance(self) -> list[float] | None:
        """Learned noise variances σ² of the outputs of a regression, before any temperature, or None."""
        variance = self.likelihood.parts().get("noise_variance")
        return None if variance is None else variance.tolist()

    @property
    def samples(self) -> int:
        """Number S of joint samples that each prediction averages; 0 for other links."""
        return 0 if self.normals is None else len(self.normals)

    @property
    def macs(self) -> int:
        """Multiply-adds per example that the posterior and its link add to those of the exit."""
        posterior = self._serving.posterior
        if posterior is None or not self.uses_posterior:
            return 0
        return self.likelihood.macs(posterior, self.offsets)

    @property
    def uses_posterior(self) -> bool:
        """True if predictions depend on the posterior."""
        return self.posterior is not None and self.link != "plugin"

    @property
    def summary(self) -> str:
        """Tuned values in words."""
        text = f"T {float(self.temperature):.3g}"
        if self.posterior is None:
            return text
        return f"{text}, δ {self.prior_precision:.3g} ({self.link})" if self.uses_posterior else f"{text}, no posterior"

    def terms(self, classes: int) -> int:
        """Count the exponentials per example that a prediction computes and its gradient stores."""
        if self.offsets is not None:
            return self.samples * classes
        pairwise = self.link == "meanfield" and self.likelihood.labels(classes)[0] == 1
        return classes**2 if pairwise else classes

    def with_temperature(self, temperature: float | Tensor) -> "CalibratedExit":
        """Return the exit with another temperature."""
        return replace(self, temperature=temperature)

    def without_posterior(self) -> "CalibratedExit":
        """Return the exit with predictions from its outputs alone; it keeps the posterior for other uses."""
        return replace(self, link="plugin", normals=None, offsets=None)

    def with_weight(self, weight: Weight) -> "CalibratedExit":
        """Return the exit with another weight in the ensemble."""
        return replace(self, weight=weight)

    def with_prior(self, prior_precision: float | Tensor) -> "CalibratedExit":
        """Return the exit with another prior precision and the same randomness."""
        return self.with_same_samples(self.require_posterior().with_prior(prior_precision))

    def require_posterior(self) -> Posterior:
        """Return the posterior.

        Raises:
            ValueError: If there is none.
        """
        if self.posterior is None:
            raise ValueError(
                "expected an exit with a posterior, got one without; pass structure=… to suffice.calibrate"
            )
        return self.posterior

    def with_same_samples(self, posterior: Posterior) -> "CalibratedExit":
        """Return the exit with another posterior over the same weights and the same randomness."""
        if self.normals is None or self.offsets is None:
            return replace(self, posterior=posterior)
        like = self.offsets.values
        offsets = self.likelihood.offsets(posterior, self.normals).to(like.device, like.dtype)
        return replace(self, posterior=posterior, offsets=offsets)

    def with_posterior(
        self, posterior: Posterior, link: Link, samples: int, generator: torch.Generator | None
    ) -> "CalibratedExit":
        """Return the exit with a posterior and a link; draws the normals of `samples` samples for "sampled"."""
        num_normals = self.likelihood.num_normals(posterior)
        if link != "sampled" or not num_normals:
            return replace(self, posterior=posterior, link=link, normals=None, offsets=None)
        normals = standard_normals(samples, num_normals, generator=generator)
        offsets = self.likelihood.offsets(posterior, normals)
        return replace(self, posterior=posterior, link=link, normals=normals, offsets=offsets)

    def to(self, device: torch.device, dtype: torch.dtype) -> "CalibratedExit":
        """Return the exit for predictions on a device and in a floating type; tuned scalars become Python numbers."""
        return replace(
            self,
            temperature=float(self.temperature),
            weight=None if self.weight is None else float(self.weight),
            posterior=self.posterior and self.posterior.to(device),
            offsets=self.offsets and self.offsets.to(device, dtype),
            likelihood=self.likelihood.to(device, dtype),
        )

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        configuration: dict[str, Any] = {
            "temperature": float(self.temperature),
            "bias": self.bias,
            "link": self.link,
            "likelihood": self.likelihood.name,
        }
        if self.weight is not None:
            configuration["weight"] = float(self.weight)
        tensors = prefixed("likelihood.", self.likelihood.parts())
        if self.posterior is not None:
            configuration["posterior"], posterior_tensors = self.posterior.parts()
            tensors |= posterior_tensors
        if self.normals is not None and self.offsets is not None:
            tensors |= {"normals": self.normals, **prefixed("offsets.", self.offsets.tensors())}
        return configuration, tensors

    @classmethod
    def from_parts(cls, parts: Parts, classifier: nn.Linear) -> "CalibratedExit":
        """Restore an exit from the parts of an artifact, for the classifier that it was calibrated for."""
        family = LIKELIHOODS[parts.choice("likelihood", tuple(LIKELIHOODS))]
        family.check_outputs(classifier.out_features)
        likelihood = family.from_parts(parts.under("likelihood."), classifier.out_features)
        temperature, link = parts.number("temperature", TEMPERATURES), parts.choice("link", get_args(Link))
        bias = None if parts.none("bias") else parts.number("bias", INVERTIBLE)
        if (bias is None) != (classifier.bias is None):
            parts.refuse("bias", "null if and only if the classifier has no bias", bias)
        posterior = normals = offsets = None
        if "posterior" in parts:
            parts.sizes["C"] = likelihood.latents(classifier.out_features)
            parts.sizes["D"] = classifier.in_features + (bias is not None)
            posterior_parts = parts.inner("posterior", "")
            posterior_parts.floating = None
            structure = posterior_parts.choice("structure", tuple(STRUCTURES))
            posterior = STRUCTURES[structure].Posterior.from_parts(posterior_parts)
        if posterior is not None and link == "sampled" and likelihood.num_normals(posterior):
            normals = parts.tensor("normals", f"S {likelihood.num_normals(posterior)}", dtype=torch.float64)
            offsets_parts = parts.under("offsets.")
            offsets_parts.floating = None
            offsets = Offsets.from_parts(offsets_parts, likelihood.offsets_shapes(posterior))
        elif posterior is None and link != "plugin":
            parts.refuse("link", "'plugin' without a posterior", link)
        weight = parts.number("weight", INVERTIBLE) if "weight" in parts else None
        return cls(temperature, bias, posterior, link, normals, offsets, likelihood, weight)

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return the posterior's spectrum of φ (N, D), which does not depend on the prior."""
        assert self.posterior is not None
        return self.posterior.spectrum(with_bias(phi, self.bias))

    @cached_property
    def _serving(self) -> "CalibratedExit":
        """Return the exit with the posterior that predictions use."""
        return replace(self, posterior=self.posterior and self.likelihood.serving_posterior(self.posterior))

    def predict(self, phi: Tensor, outputs: Tensor) -> AnyPrediction:
        """Predict from features φ (N, D) and outputs (N, C) of the network."""
        if not self.uses_posterior:
            return self._serving.member(outputs, None)
        exact = phi if self.offsets is None else phi.double()  # float32 rounding shows far from the mean
        return self._serving.member(outputs, self._serving.spectrum(exact))

    def member(self, outputs: Tensor, spectrum: Tensor | None) -> AnyPrediction:
        """Predict from outputs (N, C) and, if the link uses the posterior, the spectrum of φ."""
        if self.posterior is None or spectrum is None or not self.uses_posterior:
            return self.likelihood.plugin(outputs, self.temperature)
        return self.likelihood.predict(outputs, self.temperature, self.posterior, spectrum, self.link, self.offsets)


def with_bias(phi: Tensor, bias: float | None) -> Tensor:
    """Append the constant of the classifier's bias, if any, to φ (N, D)."""
    return phi if bias is None else torch.cat([phi, phi.new_full((phi.shape[0], 1), bias)], dim=1)


def weights_with_bias(classifier: nn.Linear, bias: float | None) -> Tensor:
    """Return the weights W (C, D) for φ from `with_bias`: the last column is the bias over the constant.

    Raises:
        ValueError: If the classifier is a subclass that computes no affine map.
    """
    weight, own = weight_and_bias(classifier)
    if bias is None or own is None:
        return weight
    return torch.cat([weight, own[:, None] / bias], dim=1)


def one_per_exit(name: str, value: float | Sequence[float], num_exits: int, within: Range) -> list[float]:
    """Return one value for each exit from one for all or a sequence.

    Args:
        name: Name of the value in the error.
        value: One value for all exits, or a sequence of one value for each.
        num_exits: Number of exits.
        within: Range of valid values.

    Raises:
        TypeError: If a value is no number.
        ValueError: If the number of values is wrong or one is out of range.
    """
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value] * num_exits
    values = [arguments.number(name, each) for each in given]
    if len(values) != num_exits or not all(map(within.holds, values)):
        raise ValueError(f"expected a {name} above 0, or {num_exits} of them, one for each exit, {within}, got {value}")
    return values
