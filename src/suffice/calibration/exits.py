"""One calibrated exit: features and logits in, a prediction out."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from suffice.calibration.ensemble import Weight
from suffice.calibration.likelihoods import LIKELIHOODS, Likelihood, classification
from suffice.calibration.links import Link
from suffice.calibration.moments import Offsets, standard_normals
from suffice.calibration.posterior import STRUCTURES, Posterior
from suffice.prediction import AnyPrediction


@dataclass(frozen=True)
class CalibratedExit:
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
        """The same exit on another device, for outputs of another floating type."""
        return replace(
            self,
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
        tensors = {f"likelihood.{name}": tensor for name, tensor in self.likelihood.parts().items()}
        if self.posterior is not None:
            configuration["posterior"], own = self.posterior.parts()
            tensors |= own
        if self.normals is not None and self.offsets is not None:
            tensors |= {
                "normals": self.normals,
                "offsets.basis": self.offsets.basis,
                "offsets.values": self.offsets.values,
            }
        return configuration, tensors

    @classmethod
    def from_parts(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "CalibratedExit":
        """The reverse of `parts`."""
        own, normals = configuration.get("posterior"), tensors.get("normals")
        prefix = "likelihood."
        noise = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        return cls(
            configuration["temperature"],
            configuration["bias"],
            None if own is None else STRUCTURES[own["structure"]].Posterior.from_parts(own, tensors),
            configuration["link"],
            normals,
            None if normals is None else Offsets(tensors["offsets.basis"], tensors["offsets.values"]),
            LIKELIHOODS[configuration["likelihood"]].from_parts(noise),
            configuration.get("weight"),
        )

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
        return self._served.member(outputs, self._served.spectrum(phi) if self.asks_posterior else None)

    def member(self, outputs: Tensor, spectrum: Tensor | None) -> AnyPrediction:
        """Prediction from outputs (N, C) and, where the link asks the posterior, the spectrum of φ."""
        if self.posterior is None or spectrum is None:
            return self.likelihood.plugin(outputs, self.temperature)
        return self.likelihood.answer(outputs, self.temperature, self.posterior, spectrum, self.link, self.offsets)


def with_bias(phi: Tensor, bias: float | None) -> Tensor:
    """φ (N, D) with the constant of the classifier's bias behind it, if it has one."""
    return phi if bias is None else torch.cat([phi, phi.new_full((len(phi), 1), bias)], dim=1)


def weights_with_bias(classifier: nn.Linear, bias: float | None) -> Tensor:
    """W (C, D) of a classifier for φ as `with_bias` gives it: the last column is its bias over the constant."""
    weight: Tensor = classifier.weight.detach()
    return weight if bias is None else torch.cat([weight, classifier.bias.detach()[:, None] / bias], dim=1)
