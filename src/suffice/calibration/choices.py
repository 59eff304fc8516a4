"""Checked choices of a calibration: what is fitted, how exits predict, and what is tuned."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from torch import Tensor

from suffice.calibration import likelihoods
from suffice.calibration.ensemble import Combination, Ensemble, Weights, combination
from suffice.calibration.likelihoods import LIKELIHOODS, Likelihood
from suffice.calibration.links import Link
from suffice.calibration.posterior import STRUCTURES, Structure
from suffice.calibration.posterior.kronecker import Prior
from suffice.calibration.posterior.moments import check_samples
from suffice.utils import arguments
from suffice.utils.modes import default_modes

P = ParamSpec("P")
R = TypeVar("R")

Tuning = Literal["validation", "evidence", "grid"]

Preset = Literal["paper"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {
        "structure": "kronecker",
        "prior": "factored",
        "link": "sampled",
        "temperature": True,
        "ensemble": "average",
        "ensemble_weights": "cost",
        "tuning": "grid",
        "samples": 50,
    }
}
"""Choices of a published method by its name. "paper": Meronen et al. 2024."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Choices of one calibration. The attributes are arguments of `calibrate`, which documents them.

    Raises:
        TypeError: If a choice is of another kind, such as temperature="no".
        ValueError: If a choice is unknown or does not go with the others.
    """

    likelihood: likelihoods.Name = "classification"
    structure: Structure | Literal["auto"] | None = "auto"
    prior: Prior = "exact"
    link: Link | Literal["auto"] = "auto"
    temperature: bool = True
    ensemble: Ensemble = True
    ensemble_weights: Weights | Literal["auto"] = "auto"
    tuning: Tuning = "validation"
    bias_precision: float = 1.0
    class_precision: Tensor | None = None
    samples: int = 16

    def __post_init__(self) -> None:
        self._check_names()
        self._check_prior()
        self._check_ensemble()
        check_samples(self.samples)
        arguments.flag("temperature", self.temperature)
        self._check_precisions()

    @classmethod
    def of(cls, preset: Preset | None, **given: Any) -> "Choices":
        """Return the choices that are given, or those of a preset, which replaces the ones that it sets.

        Raises:
            ValueError: If the preset is unknown.
        """
        return cls(**given) if preset is None else cls(**{**given, **_of_preset(preset)})

    @property
    def family(self) -> type[Likelihood]:
        """Class of the likelihood."""
        return LIKELIHOODS[self.likelihood]

    @property
    def uses_training_data(self) -> bool:
        """True if posteriors or noise are fitted to the training data."""
        return self.structure is not None or self.family.learns_noise

    @property
    def tunes_prior(self) -> bool:
        """True if δ is tuned for the predictions on the validation data."""
        return self.tuning != "evidence"

    @property
    def combination(self) -> Combination:
        """Combination of the exits: "average", "product", or False for each alone."""
        return combination(self.ensemble, self.family.discrete)

    @property
    def tunes_weights(self) -> bool:
        """True if the weights of the ensemble are tuned on the validation data, if there are any."""
        automatic = self.ensemble_weights == "auto" and self.combination and self.tuning != "grid"
        return self.ensemble_weights == "tuned" or bool(automatic)

    @property
    def fitted_link(self) -> Link:
        """Link that predictions have while they are tuned."""
        return "sampled" if self.link == "auto" else self.link

    @property
    def selects_posterior(self) -> bool:
        """True if predictions use the posterior only where the validation data support it."""
        return self.link == "auto" and self.tuning == "validation" and self.family.discrete

    @property
    def uses_validation_data(self) -> bool:
        """True if a value is tuned on the validation data."""
        return self.tunes_prior or self.temperature or self.tunes_weights

    def resolved_structure(self, outputs: int) -> Structure | None:
        """Return the structure for a number of outputs, with "auto" replaced by the default of the likelihood."""
        if self.structure != "auto":
            return self.structure
        return "kronecker" if self.prior == "factored" else self.family.structure(outputs)

    def check_without_validation(self) -> None:
        """Raise a ValueError if the choices need validation data."""
        if self.tuning != "evidence":
            raise ValueError(
                f"expected a val_loader for tuning={self.tuning!r}, got None; pass one, or tuning='evidence'"
            )
        if self.ensemble_weights == "tuned":
            raise ValueError("expected a val_loader for ensemble_weights='tuned', got None; pass one, or 'cost'")

    def check_outputs(self, outputs: int) -> None:
        """Raise a ValueError unless the likelihood and the precisions of the classes fit the number of outputs."""
        self.family.check_outputs(outputs)
        if self.class_precision is not None:
            _check_class_precision(self.class_precision, self.family.latents(outputs))

    def _check_names(self) -> None:
        allowed = {
            "likelihood": tuple(LIKELIHOODS),
            "structure": ("auto", *STRUCTURES, None),
            "prior": get_args(Prior),
            "link": ("auto", *get_args(Link)),
            "tuning": get_args(Tuning),
            "ensemble": (True, False, "average", "product"),
            "ensemble_weights": ("auto", *get_args(Weights)),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"expected {name} to be one of {values}, got {getattr(self, name)!r}")

    def _check_prior(self) -> None:
        if self.prior == "factored" and self.structure not in ("auto", "kronecker", None):
            raise ValueError(
                f"expected prior 'exact' with structure {self.structure!r}, got 'factored'; pass structure='kronecker' "
                "for a factored prior"
            )
        exact = self.family.exact_structure
        if exact and (self.structure not in ("auto", exact, None) or self.prior != "exact"):
            raise ValueError(
                f"expected structure {exact!r} and prior 'exact' with likelihood {self.likelihood!r}, whose posterior "
                f"has exactly this form, got {self.structure!r} and {self.prior!r}; omit both, or pass structure=None "
                "for no posterior"
            )

    def _check_precisions(self) -> None:
        arguments.positive("bias_precision", self.bias_precision, "a number above 0, relative to that of the weights")
        if self.class_precision is not None and not isinstance(self.class_precision, Tensor):
            raise TypeError(f"expected class_precision as a tensor, got {self.class_precision!r}; pass torch.tensor(…)")

    def _check_ensemble(self) -> None:
        if self.ensemble == "product" and not self.family.discrete:
            raise ValueError(f"expected ensemble 'average' or False with likelihood {self.likelihood!r}, got 'product'")
        if self.ensemble_weights == "tuned" and (not self.ensemble or self.tuning == "grid"):
            raise ValueError(
                f"expected ensemble_weights 'cost' with ensemble={self.ensemble!r} and tuning={self.tuning!r}, got "
                "'tuned', which needs an ensemble and tuning by gradient"
            )


def in_default_modes(calibrate: Callable[P, R]) -> Callable[P, R]:
    """Decorate `calibrate`: it runs in `default_modes`, and refuses arguments that contradict a preset.

    A default value cannot be told from the same value in a call, except where the call arrives.

    Raises:
        ValueError: On a call, if the preset is unknown, or an argument that it sets is passed with another value.
    """

    @functools.wraps(calibrate)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        preset = kwargs.get("preset")
        if preset is not None:
            also = {
                name: kwargs[name] for name, value in _of_preset(preset).items() if kwargs.get(name, value) != value
            }
            if also:
                given = ", ".join(f"{name}={value!r}" for name, value in also.items())
                raise ValueError(
                    f"expected preset={preset!r} without other values of what it sets, got {given} too; omit one of "
                    "them"
                )
        with default_modes():
            return calibrate(*args, **kwargs)

    return checked


def _of_preset(preset: object) -> dict[str, Any]:
    """Return the choices of a preset."""
    if preset not in tuple(PRESETS):
        raise ValueError(f"expected preset to be None or one of {tuple(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def _check_class_precision(class_precision: Tensor, classes: int) -> None:
    if class_precision.shape != (classes,):
        raise ValueError(
            f"expected class_precision of shape ({classes},), one for each class, got {tuple(class_precision.shape)}"
        )
    bad = ~(class_precision.isfinite() & (class_precision > 0))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(f"expected a class_precision above 0, got {float(class_precision[first])} for class {first}")
