"""The estimator: a model that says with each answer how much it varies, from one ordinary pass.

It is bound to the model's weights, keeps how good it was on rows that it did not learn from, flags inputs unlike
those it knows, and can have its answers checked or mended by a few real passes.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, check_finite, placement, select
from suffice.storage.parts import NOT_NEGATIVE, POSITIVE, Parts
from suffice.storage.seal import Seal, unchanged
from suffice.storage.stored import Stored
from suffice.storage.structure import structure_of
from suffice.variation import conformal
from suffice.variation.features.reader import Reader
from suffice.variation.learning import agreement
from suffice.variation.learning.fit import Fit
from suffice.variation.teachers import spreads
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True)
class Estimate:
    """One pass over a batch.

    Attributes:
        output: the model's own.
        variation: (N,) float32, the target.
        clipped: (N,), share of the features that had to be clipped.
        outside: (N,) bool, whether the features are more than twice as far out as those of any row of fitting.
    """

    output: Any
    variation: Tensor
    clipped: Tensor
    outside: Tensor


@dataclass(frozen=True)
class Audit:
    """An estimator against real passes on the same inputs.

    Attributes:
        rows: how many.
        passes: T of each of two independent measurements.
        r_squared: noise-corrected R² of the spread, which sees bias.
        squared_correlation: noise-corrected, blind to bias.
        bias: root of the mean estimated variance over that of the mean measured one, less 1.
        clipped: mean share of clipped features.
        outside: share of inputs far outside.
    """

    rows: int
    passes: int
    r_squared: float
    squared_correlation: float
    bias: float
    clipped: float
    outside: float


@dataclass(frozen=True)
class Quality:
    """How good an estimator was on validation rows kept aside.

    Attributes:
        r_squared: noise-corrected R².
        log_error: τ², the variance of log(truth/estimate).
        subsets: of layers="auto", a row for each subset tried: layers, strengths, macs, cost, r_squared.
    """

    r_squared: float
    log_error: float
    subsets: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Quality":
        """From the fields of one."""
        log_error = parts.number("log_error", POSITIVE, also=(math.inf,))
        return cls(parts.number("r_squared", also=(math.nan,)), log_error, tuple(map(_row, parts.each("subsets"))))


def _row(parts: Parts) -> dict[str, Any]:
    """One subset that was tried."""
    return {
        "layers": list(parts.texts("layers")),
        "strengths": parts.count("strengths"),
        "macs": parts.count("macs"),
        "cost": parts.number("cost", NOT_NEGATIVE),
        "r_squared": parts.number("r_squared", also=(math.nan,)),
    }


@dataclass(frozen=True, eq=False)
class VariationEstimator(Stored):
    """A model that says with each answer how much it varies. Made by `fit_variation`.

    Attributes:
        model: the model, its weights untouched.
        reader: what is read of a pass.
        fit: what was learned: from what is read to the spread.
        quality: how good that was on rows that it did not learn from.
        network_hash: `fingerprint` of the model's weights at fitting.
        residuals: sorted log(measured/estimated) of calibration rows.
        teacher: what it learned from; None after loading, unless that was `MCDropout`.
    """

    model: nn.Module = field(repr=False)
    reader: Reader
    fit: Fit
    quality: Quality
    network_hash: str
    residuals: Tensor = field(repr=False)
    teacher: Teacher | None = None
    _seal: Seal[nn.Module] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_seal", Seal(self.model, self.network_hash, [self.model]))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose strengths are read; without any, the output alone is."""
        return self.reader.layers

    @property
    def macs(self) -> int:
        """Multiply-adds per example, beyond the model's own."""
        return self.fit.macs

    def __call__(self, x: State) -> tuple[Any, Tensor]:
        """The model's own output, bit for bit, and the variation (N,) float32 of the target, in one pass.

        The model runs as a twin in evaluation mode, without gradients, under the caller's autocast if there is any; x
        is on its device. Warns of inputs far outside.

        Raises:
            ValueError: if an output is not finite, or the model's weights are no longer those at fitting.
        """
        found = self.estimate(x)
        if bool(found.outside.any()):
            warnings.warn(
                f"{int(found.outside.sum())} of {len(found.outside)} inputs are far outside what the estimator was "
                "fitted on, and their variation is a guess; estimate(x).outside says which, cascade(x) runs passes",
                stacklevel=2,
            )
        return found.output, found.variation

    @torch.no_grad()
    def estimate(self, x: State) -> Estimate:
        """The same with what was clipped and which inputs are outside, and no warning."""
        with self._seal.twin() as model:
            output, parts = self.reader.read(model, x)
        variation, scaled = self.fit.estimate(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        check_finite(parts[0], "outputs")
        check_finite(variation, "variations")
        return Estimate(output, variation, scaled.clipped, scaled.distance > self.fit.limit)

    def band(self, variation: Tensor, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """Bounds (N,) that hold what the teacher would measure with stated coverage, for inputs like those of fitting.

        Raises:
            ValueError: for a coverage that the calibration rows are too few for.
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
        """Run a few real passes, in two independent halves, and say how good the estimates of these inputs are.

        Args:
            x: N examples, such as a thousandth of the traffic; of at least two different spreads.
            passes: real passes of each example in all, at least 4; a teacher other than `MCDropout` has its own number
                for each half, and one without randomness, such as `EnsembleTeacher`, gives both halves alike.
            teacher: in place of the estimator's own, which a loaded one has if it was `MCDropout`.
            generator: randomness of the passes.

        Raises:
            ValueError: for fewer passes, or if there is no teacher.
        """
        if passes < 4:
            raise ValueError(f"expected at least 4 passes, got {passes}; each of two halves needs two")
        found = self.estimate(x)
        (a, half_passes), (b, _) = (self._measured(x, passes // 2, teacher, generator) for _ in range(2))
        power = spreads.power(self.fit.target)
        estimated = found.variation.double().pow(power).mean()
        measured = torch.stack([half.pow(power) for half in (a, b)]).mean()
        if power == 2.0:
            a, b = (agreement.unbiased(half, half_passes) for half in (a, b))
        return Audit(
            batch_size(x),
            half_passes,
            agreement.r_squared(found.variation, a, b),
            agreement.squared_correlation(found.variation, a, b),
            float((estimated / measured).pow(1 / power) - 1),
            float(found.clipped.mean()),
            float(found.outside.float().mean()),
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
        """The estimates, with real passes for flagged inputs only.

        Flagged inputs get k passes, merged with the estimate by the precision of their logarithms; where an input is
        far outside, the passes alone count, as the estimate's precision is known for inputs like those of fitting.

        Args:
            x: a batch.
            passes: k, real passes of each flagged example; a teacher other than `MCDropout` has its own number.
            when: from the estimate to (N,) bool, which examples are flagged besides those outside; None: no others.
            teacher: in place of the estimator's own.
            generator: randomness of the passes.

        Raises:
            ValueError: if there is no teacher, or the target is not a standard deviation.
        """
        if spreads.power(self.fit.target) != 2.0:
            raise ValueError(f"expected a standard deviation as the target, got {self.fit.target!r}")
        found = self.estimate(x)
        flagged = found.outside if when is None else found.outside | when(found)
        index = flagged.nonzero()[:, 0]
        if not len(index):
            return found
        measured, passes = self._measured(select(x, index), passes, teacher, generator)
        own, error = found.variation[index], self.quality.log_error
        merged = agreement.combined(own, error, measured, passes)
        alone = agreement.unbiased(measured, passes)
        mended = torch.where(found.outside[index], alone, merged).to(own)
        return replace(found, variation=found.variation.index_copy(0, index, mended))

    def _measured(
        self, x: State, passes: int, teacher: Teacher | None, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """The target (N,) float64 by real passes, and how many they were."""
        teacher = self.teacher if teacher is None else teacher
        if teacher is None:
            raise ValueError("expected a teacher for real passes, got none with a loaded estimator; pass teacher=…")
        if isinstance(teacher, MCDropout):
            teacher = replace(teacher, passes=passes)
        found = teacher(self.model, x, generator=generator)
        return found[self.fit.target], found.passes

    def check_weights(self) -> None:
        """Raise a ValueError unless the model's weights are, to the byte, those at fitting."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the model's weights stay with the model."""
        fit, tensors = self.fit.parts()
        configuration = {
            "network_hash": self.network_hash,
            "structure": self._seal.structure,
            "reader": asdict(self.reader),
            "fit": fit,
            "quality": asdict(self.quality),
            "teacher": asdict(self.teacher) if isinstance(self.teacher, MCDropout) else None,
        }
        return configuration, {**tensors, "residuals": self.residuals}

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "VariationEstimator":
        """The reverse of `parts`, for the model that it was made from.

        Raises:
            TypeError: if the model is missing.
            ValueError: if its weights are not those at fitting, or a part is not what it can be.
        """
        network_hash = parts.digest("network_hash")
        network = unchanged(network, network_hash, structure_of(parts))
        device, _ = placement(network)
        residuals = parts.tensor("residuals", "N", also=(-math.inf,), dtype=torch.float64, rising=True)
        return cls(
            network,
            Reader.from_parts(parts.inner("reader"), network),
            Fit.from_parts(parts.inner("fit", "")).to(device),
            Quality.from_parts(parts.inner("quality")),
            network_hash,
            residuals.to(device),
            None if parts.none("teacher") else MCDropout.from_parts(parts.inner("teacher"), network),
        )
