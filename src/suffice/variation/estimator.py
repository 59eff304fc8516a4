"""Estimator of the variation of a model's predictions, in one deterministic forward pass.

It is tied to the model's weights, stores its quality on held-out rows, and flags inputs outside those of fitting. A
few real passes can check its estimates (`audit`) or improve them (`cascade`).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.inputs import prepare
from suffice.network import State, batch_size, check_finite, placement, select
from suffice.storage.fingerprint import read_structure
from suffice.storage.parts import Parts
from suffice.storage.seal import Seal, check_unchanged
from suffice.storage.serializable import Serializable
from suffice.variation import conformal
from suffice.variation.features.distance import FALSE_ALARMS
from suffice.variation.features.reader import Reader
from suffice.variation.learning import agreement
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.quality import Audit, Quality, shown
from suffice.variation.teachers.dropout import MCDropout, configuration_of
from suffice.variation.teachers.teacher import Teacher, with_passes

EXPECTED = ((1, 5 * FALSE_ALARMS, 1e-6), (2, FALSE_ALARMS / 20, 1e-3), (10, 0.0, 1e-3))
"""Distances, the share of the inputs that may be beyond each, and the chance of more at which there is a warning."""


@dataclass(frozen=True)
class Estimate:
    """Output and estimated variation of a batch, from one pass.

    Attributes:
        output: The model's own output.
        variation: Estimated spread, the target of the fit, (N,) float32.
        clipped: Fraction of the features that were clipped, (N,).
        distance: Distance of the features from those of fitting (`Distance`), (N,), for ranking inputs. 1 % of inputs
            like those of fitting are above 1.
    """

    output: Any
    variation: Tensor
    clipped: Tensor
    distance: Tensor

    @property
    def outside(self) -> Tensor:
        """Flags of the examples whose distance is above 1 or not a number, (N,) bool."""
        return ~(self.distance <= 1)

    def __repr__(self) -> str:
        """Describe the estimate in one line."""
        mean = f", mean variation {float(self.variation.mean()):.3g}" if len(self.variation) else ""
        return f"Estimate({len(self.variation):,} examples{mean}, {int(self.outside.sum())} outside)"


@dataclass(frozen=True, eq=False, repr=False)
class VariationEstimator(Serializable):
    """Model with an estimate of the variation of each prediction. Made by `fit_variation`.

    Attributes:
        model: Model, with its weights unchanged.
        reader: Reader of the features.
        fitted_mlp: Fitted map from features to the spread.
        quality: Quality on held-out rows.
        network_hash: `fingerprint` of the model's weights at fitting.
        residuals: Sorted log(measured/estimated) of calibration rows, (n,) float64.
        teacher: Teacher of the fit; None after loading, unless it was `MCDropout`.

    Example:
        >>> import torch, suffice
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        >>> train, val, teacher = torch.randn(200, 3), torch.randn(50, 3), suffice.MCDropout(passes=8)
        >>> estimator = suffice.fit_variation(model, [train], [val], teacher=teacher, epochs=2)
        >>> low, high = estimator.band(estimator.estimate(train).variation, coverage=0.8)
        >>> bool((low < high).all())
        True
        >>> audit = estimator.audit(train, passes=6)  # three real passes in each of two halves
        >>> audit.rows, audit.passes
        (200, 6)
    """

    model: nn.Module
    reader: Reader
    fitted_mlp: FittedMLP
    quality: Quality
    network_hash: str
    residuals: Tensor
    teacher: Teacher | None = None
    _seal: Seal[nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_seal", Seal(self.model, self.network_hash))

    def __repr__(self) -> str:
        """Describe the teacher, what is read, and the quality in one line."""
        teacher = "" if self.teacher is None else f"{type(self.teacher).__name__}, "
        layers = f"{len(self.layers)} layer{'' if len(self.layers) == 1 else 's'}"
        return (
            f"VariationEstimator({teacher}{self.fitted_mlp.target.name}, {layers}, {self.macs:,} multiply-adds, "
            f"R² {shown(self.quality.r_squared)})"
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are read, "<margins>" for the margins; empty if only the output is read."""
        return self.reader.layers

    @property
    def macs(self) -> int:
        """Multiply-adds per example, beyond the model's own."""
        return self.fitted_mlp.macs + sum(self.reader.costs(self.model))

    def __call__(self, x: State) -> tuple[Any, Tensor]:
        """Run the model once and estimate the variation.

        The model runs in evaluation mode, without gradients, and under the caller's autocast if it is active. A
        warning is issued if inputs are far outside those of fitting, or more are outside than chance allows.

        Args:
            x: Batch of N examples, batch first.

        Returns:
            The model's own output, bit for bit, and the spread (N,) float32.

        Raises:
            ValueError: If an output is not finite, or the model's weights differ from those at fitting.
        """
        estimate = self.estimate(x)
        if _is_surprising(estimate):
            warnings.warn(
                f"{int(estimate.outside.sum())} of {len(estimate.outside)} inputs are outside what the estimator was "
                "fitted on, so their variation is unreliable; estimate(x).outside marks them, cascade(x) runs "
                "passes for them",
                stacklevel=2,
            )
        return estimate.output, estimate.variation

    @torch.no_grad()
    def estimate(self, x: State) -> Estimate:
        """Run the model once as the call does; return also which inputs are outside instead of warning."""
        with self._seal.twin() as model:
            output, parts = self.reader.read(model, prepare(x, self.model))
        variation, scaled = self.fitted_mlp.estimate(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        check_finite(parts[0], "outputs")
        check_finite(variation, "variations")
        return Estimate(output, variation, scaled.clipped, self.fitted_mlp.distance(scaled.scores))

    def band(self, variation: Tensor, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return a conformal band around estimated spreads, for inputs like those of fitting.

        Args:
            variation: Estimated spreads, (N,).
            coverage: Probability, in (0, 1), that the spread that the teacher measures is in the band.

        Returns:
            Lower and upper bounds, (N,).

        Raises:
            ValueError: For a coverage that needs more calibration rows.
        """
        return conformal.band(self.residuals, variation, coverage)

    def audit(
        self,
        x: State,
        passes: int = 20,
        *,
        teacher: Teacher | None = None,
        generator: torch.Generator | None = None,
    ) -> Audit:
        """Compare the estimates for some inputs with a few real passes, in two independent halves.

        Args:
            x: N examples with at least two different spreads, such as a thousandth of the traffic.
            passes: Total number of real passes of each example, at least 4, half of them in each half; an odd number is
                rounded down. A teacher whose number of passes is fixed uses that number for each half. A deterministic
                one, such as `EnsembleTeacher`, has two equal halves.
            teacher: Teacher in place of the estimator's own, which a loaded estimator has if it was `MCDropout`.
            generator: Generator of the passes.

        Raises:
            ValueError: For fewer passes, or if there is no teacher.
        """
        if passes < 4:
            raise ValueError(f"expected at least 4 passes, got {passes}; each of two halves needs two")
        x = prepare(x, self.model)
        estimate, target = self.estimate(x), self.fitted_mlp.target
        (a, half_passes), (b, _) = (self._measure(x, passes // 2, teacher, generator) for _ in range(2))
        estimated = estimate.variation.double().pow(target.power).mean()
        measured = torch.stack([half.pow(target.power) for half in (a, b)]).mean()
        a, b = (target.unbiased(half, half_passes) for half in (a, b))
        return Audit(
            batch_size(x),
            2 * half_passes,
            agreement.r_squared(estimate.variation, a, b),
            agreement.squared_correlation(estimate.variation, a, b),
            float((estimated / measured).pow(1 / target.power) - 1),
            float(estimate.clipped.mean()),
            float(estimate.outside.float().mean()),
        )

    def cascade(
        self,
        x: State,
        passes: int = 8,
        when: Callable[[Estimate], Tensor] | None = None,
        *,
        teacher: Teacher | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimate the variation, with real passes for flagged inputs only.

        The k passes of a flagged input are merged with its estimate by the precision of their logarithms. For an input
        outside those of fitting the passes alone count, since the precision of its estimate is unknown.

        Args:
            x: Batch of N examples.
            passes: Number k of real passes of each flagged example; not used if the teacher's number is fixed.
            when: Function from the estimate to the examples, (N,) bool, that are flagged besides those outside; None
                for no others.
            teacher: Teacher in place of the estimator's own.
            generator: Generator of the passes.

        Raises:
            ValueError: If there is no teacher, or the target is not a standard deviation.
        """
        target = self.fitted_mlp.target
        if not target.is_deviation:
            raise ValueError(f"expected a standard deviation as the target, got {target.name!r}")
        x = prepare(x, self.model)
        estimate = self.estimate(x)
        flagged = estimate.outside if when is None else estimate.outside | when(estimate)
        index = flagged.nonzero()[:, 0]
        if not len(index):
            return estimate
        measured, passes = self._measure(select(x, index), passes, teacher, generator)
        variation = estimate.variation[index]
        merged = agreement.combined(variation, self.quality.log_error, measured, passes)
        alone = agreement.unbiased(measured, passes)
        improved = torch.where(estimate.outside[index], alone, merged).to(variation)
        return replace(estimate, variation=estimate.variation.index_copy(0, index, improved))

    def _measure(
        self, x: State, passes: int, teacher: Teacher | None, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """Measure the target (N,) float64 by real passes; return also their number."""
        teacher = self.teacher if teacher is None else teacher
        if teacher is None:
            raise ValueError("expected a teacher for real passes, got none with a loaded estimator; pass teacher=…")
        variation = with_passes(teacher, passes)(self.model, x, generator=generator)
        return variation[self.fitted_mlp.target.name], variation.passes

    def check_weights(self) -> None:
        """Raise a ValueError unless the model's weights are, to the byte, those at fitting."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact; the model's weights stay with the model."""
        fit, tensors = self.fitted_mlp.parts()
        reader, reader_tensors = self.reader.parts()
        configuration = {
            "network_hash": self.network_hash,
            "structure": self._seal.structure,
            "reader": reader,
            "fit": fit,
            "quality": asdict(self.quality),
            "teacher": configuration_of(self.teacher),
        }
        return configuration, {**tensors, **reader_tensors, "residuals": self.residuals}

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "VariationEstimator":
        """Read an estimator from `parts`, for the model that it was fitted to.

        Raises:
            TypeError: If the model is missing.
            ValueError: If its weights differ from those at fitting, or a field or tensor is invalid.
        """
        network_hash = parts.digest("network_hash")
        network = check_unchanged(network, network_hash, read_structure(parts))
        device, _ = placement(network)
        residuals = parts.tensor("residuals", "N", also=(-math.inf,), dtype=torch.float64, rising=True)
        return cls(
            network,
            Reader.from_parts(parts.inner("reader", ""), network).to(device),
            FittedMLP.from_parts(parts.inner("fit", "")).to(device),
            Quality.from_parts(parts.inner("quality")),
            network_hash,
            residuals.to(device),
            None if parts.none("teacher") else MCDropout.from_parts(parts.inner("teacher"), network),
        )


def _is_surprising(estimate: Estimate) -> bool:
    """Return whether more inputs are outside, or far outside, than among inputs like those of fitting.

    The number beyond each distance of `EXPECTED` is compared with a binomial.
    """
    from scipy.special import bdtrc

    rows = len(estimate.distance)
    for limit, share, chance in EXPECTED:
        count = int((~(estimate.distance <= limit)).sum())
        if count and float(bdtrc(count - 1, rows, share)) < chance:
            return True
    return False
