"""One calibrated exit: features and logits in, a prediction out."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice.calibration.ensemble import Weight
from suffice.calibration.likelihoods import LIKELIHOODS, Likelihood, classification
from suffice.calibration.links import Link
from suffice.calibration.posterior import STRUCTURES, Posterior
from suffice.calibration.posterior.moments import Offsets, standard_normals
from suffice.prediction import AnyPrediction
from suffice.storage.parts import INVERTIBLE, Parts, Range, prefixed
from suffice.storage.stored import Stored

_FLOAT32 = torch.finfo(torch.float32)
TEMPERATURES = Range(_FLOAT32.tiny**0.5, _FLOAT32.max**0.5)
"""T whose square, which links take, is a number in any type that is served."""


@dataclass(frozen=True)
class CalibratedExit(Stored):
    """What calibration learned about one exit.

    Attributes:
        temperature: T, divides the logits (and their samples) before the softmax; multiplies the standard
            deviation of a regression.
        bias: the constant at the end of φ that the classifier's bias is the weight of, or None without a bias. At
            1/√β the bias has β times the prior precision of the weights.
        posterior: over the classifier's weights, or None.
        link: from the posterior to probabilities.
        normals: (S, noise), the fixed randomness of the sampled link, else None.
        offsets: what `normals` become under the posterior.
        likelihood: what the outputs say about a target.
        weight: of this exit in the ensemble, beside the others', where it was tuned; None for its multiply-adds.
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
        """δ of the posterior, if there is one."""
        return None if self.posterior is None else float(self.posterior.prior_precision)

    @property
    def class_precision(self) -> list[float] | None:
        """γ of the classes, relative to δ, if there is a posterior."""
        return None if self.posterior is None else self.posterior.class_precision.tolist()

    @property
    def noise_variance(self) -> list[float] | None:
        """σ² of the outputs of a regression whose noise was learned, before any temperature."""
        own = self.likelihood.parts().get("noise_variance")
        return None if own is None else own.tolist()

    @property
    def samples(self) -> int:
        """S, joint samples averaged at each prediction; 0 for the other links."""
        return 0 if self.normals is None else len(self.normals)

    @property
    def macs(self) -> int:
        """Multiply-adds per example of the posterior and its link, beyond the exit's own."""
        served = self._served.posterior
        if served is None or not self.asks_posterior:
            return 0
        return self.likelihood.macs(served, self.offsets)

    @property
    def asks_posterior(self) -> bool:
        """Whether predictions depend on the posterior."""
        return self.posterior is not None and self.link != "plugin"

    def terms(self, classes: int) -> int:
        """Exponentials per example that an answer takes, and its gradient keeps."""
        if self.offsets is not None:
            return self.samples * classes
        return classes**2 if self.link == "meanfield" else classes

    def with_temperature(self, temperature: float | Tensor) -> "CalibratedExit":
        """The same exit at another temperature."""
        return replace(self, temperature=temperature)

    def with_weight(self, weight: Weight) -> "CalibratedExit":
        """The same exit with another weight in the ensemble."""
        return replace(self, weight=weight)

    def with_prior(self, prior_precision: float | Tensor) -> "CalibratedExit":
        """The same exit under another prior precision, with the same randomness."""
        return self.with_same_samples(self.known_posterior().with_prior(prior_precision))

    def known_posterior(self) -> Posterior:
        """The posterior.

        Raises:
            ValueError: if there is none.
        """
        if self.posterior is None:
            raise ValueError("expected an exit with a posterior, got one without; pass a structure to calibrate")
        return self.posterior

    def with_same_samples(self, posterior: Posterior) -> "CalibratedExit":
        """The same exit under another posterior of as many weights, with the same randomness."""
        if self.normals is None or self.offsets is None:
            return replace(self, posterior=posterior)
        like = self.offsets.values
        offsets = self.likelihood.offsets(posterior, self.normals).to(like.device, like.dtype)
        return replace(self, posterior=posterior, offsets=offsets)

    def with_posterior(
        self, posterior: Posterior, link: Link, samples: int, generator: torch.Generator | None
    ) -> "CalibratedExit":
        """The same exit with a posterior, answering by a link; `samples` are drawn if the link is "sampled"."""
        noise = self.likelihood.noise(posterior)
        if link != "sampled" or not noise:
            return replace(self, posterior=posterior, link=link, normals=None, offsets=None)
        normals = standard_normals(samples, noise, generator=generator)
        offsets = self.likelihood.offsets(posterior, normals)
        return replace(self, posterior=posterior, link=link, normals=normals, offsets=offsets)

    def to(self, device: torch.device, dtype: torch.dtype) -> "CalibratedExit":
        """The same exit as it is served, on a device and for outputs of a floating type: what was tuned are numbers."""
        return replace(
            self,
            temperature=float(self.temperature),
            weight=None if self.weight is None else float(self.weight),
            posterior=self.posterior and self.posterior.to(device),
            offsets=self.offsets and self.offsets.to(device, dtype),
            likelihood=self.likelihood.to(device, dtype),
        )

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
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
            configuration["posterior"], own = self.posterior.parts()
            tensors |= own
        if self.normals is not None and self.offsets is not None:
            tensors |= {"normals": self.normals, **prefixed("offsets.", self.offsets.tensors())}
        return configuration, tensors

    @classmethod
    def from_parts(cls, parts: Parts, classifier: nn.Linear) -> "CalibratedExit":
        """The reverse of `parts`, for a classifier as that it was calibrated for."""
        family = LIKELIHOODS[parts.choice("likelihood", tuple(LIKELIHOODS))]
        family.check_outputs(classifier.out_features)
        likelihood = family.from_parts(parts.under("likelihood."), classifier.out_features)
        temperature, link = parts.number("temperature", TEMPERATURES), parts.choice("link", get_args(Link))
        bias = None if parts.none("bias") else parts.number("bias", INVERTIBLE)
        if (bias is None) != (classifier.bias is None):
            parts.refuse("bias", "null for a classifier without a bias, and for no other", bias)
        posterior = normals = offsets = None
        if "posterior" in parts:
            parts.sizes["C"] = likelihood.latents(classifier.out_features)
            parts.sizes["D"] = classifier.in_features + (bias is not None)
            own = parts.inner("posterior", "")
            own.floating = None
            posterior = STRUCTURES[own.choice("structure", tuple(STRUCTURES))].Posterior.from_parts(own)
        if posterior is not None and link == "sampled" and likelihood.noise(posterior):
            normals = parts.tensor("normals", f"S {likelihood.noise(posterior)}", dtype=torch.float64)
            drawn = parts.under("offsets.")
            drawn.floating = None
            offsets = Offsets.from_parts(drawn, likelihood.offsets_shapes(posterior))
        elif posterior is None and link != "plugin":
            parts.refuse("link", "'plugin' without a posterior", link)
        weight = parts.number("weight", INVERTIBLE) if "weight" in parts else None
        return cls(temperature, bias, posterior, link, normals, offsets, likelihood, weight)

    def spectrum(self, phi: Tensor) -> Tensor:
        """What the posterior needs of φ (N, D), whatever the prior."""
        assert self.posterior is not None
        return self.posterior.spectrum(with_bias(phi, self.bias))

    @cached_property
    def _served(self) -> "CalibratedExit":
        """The same exit over the posterior that it is served by."""
        return replace(self, posterior=self.posterior and self.likelihood.served(self.posterior))

    def predict(self, phi: Tensor, outputs: Tensor) -> AnyPrediction:
        """Prediction of φ (N, D) and the network's own outputs (N, C), of classes the logits."""
        if not self.asks_posterior:
            return self._served.member(outputs, None)
        exact = phi if self.offsets is None else phi.double()  # samples far from the mean show float32's rounding
        return self._served.member(outputs, self._served.spectrum(exact))

    def member(self, outputs: Tensor, spectrum: Tensor | None) -> AnyPrediction:
        """Prediction from outputs (N, C) and, where the link asks the posterior, the spectrum of φ."""
        if self.posterior is None or spectrum is None:
            return self.likelihood.plugin(outputs, self.temperature)
        return self.likelihood.predict(outputs, self.temperature, self.posterior, spectrum, self.link, self.offsets)


def with_bias(phi: Tensor, bias: float | None) -> Tensor:
    """φ (N, D) with the constant of the classifier's bias behind it, if it has one."""
    return phi if bias is None else torch.cat([phi, phi.new_full((len(phi), 1), bias)], dim=1)


def weights_with_bias(classifier: nn.Linear, bias: float | None) -> Tensor:
    """W (C, D) of a classifier for φ as `with_bias` gives it: the last column is its bias over the constant."""
    weight: Tensor = classifier.weight.detach()
    return weight if bias is None else torch.cat([weight, classifier.bias.detach()[:, None] / bias], dim=1)
