"""Estimates of a variation beside each other, against an independent truth of many passes.

The rows: dropout itself with few passes; what needs no training, which is the delta rule, moments through a tower, and
the exact case of the last layer; and estimators that see the inputs alone, the prediction alone, or activation
strengths. What does not apply is left out, with the reason. The truth's passes are shared with no estimate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.batches import Loader
from suffice.models.tower import Embeddings
from suffice.network import ExitNetwork, State
from suffice.utils.modes import default_modes
from suffice.utils.progress import ProgressCallback
from suffice.variation.baselines import moments
from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.baselines.last_layer import last_layer
from suffice.variation.estimator import VariationEstimator
from suffice.variation.fitting import fit_labels
from suffice.variation.learning import agreement
from suffice.variation.learning.labels import Labels, label
from suffice.variation.teachers import spreads
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import LikelihoodName
from suffice.variation.teachers.teacher import Teacher

PASSES = (10, 50, 100)
"""Of the rows that are dropout itself."""

ESTIMATORS: dict[str, dict[str, Any]] = {"prediction only": {"layers": []}, "estimator": {}}
"""Estimators by name, as arguments of `fit_labels`."""


@dataclass(frozen=True)
class Fit:
    """What is estimated, and what estimators learn it from.

    Attributes:
        train: loader of inputs, read once; labels are not needed.
        validation: the same, other inputs.
        teacher: what estimators learn; with more passes it gives the truth.
        target: which spread, as for `fit_variation`.
        estimators: arguments of `fit_labels` by name, a row each.
    """

    train: Loader
    validation: Loader
    teacher: Teacher
    target: str = "std"
    estimators: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: ESTIMATORS)


@dataclass(frozen=True)
class Comparison:
    """Every estimate beside the truth.

    Attributes:
        estimators: those that were fitted, by name.
        truth: (N,) float64.
        rows: for each estimate its name, the passes that it takes, `judgement.measures`, and the estimate itself.
        left_out: why, for each estimate that does not apply.
    """

    estimators: dict[str, VariationEstimator]
    truth: Tensor
    rows: list[dict[str, Any]]
    left_out: dict[str, str]


@default_modes()
def compare(
    model: nn.Module,
    fit: Fit,
    x: Sequence[State],
    *,
    truth_passes: int,
    generator: torch.Generator,
    progress: ProgressCallback,
) -> Comparison:
    """Fit the estimators, to the same labels and from the same seed, and judge every estimate.

    Args:
        model: trained, with an answer as the teacher's likelihood says.
        fit: what to learn, and from what; disjoint from x.
        x: batches to judge on, on the model's device.
        truth_passes: half of them for each of two independent measurements.
        generator: randomness of all passes and fits.
        progress: of fits and passes.

    Raises:
        ValueError: as `fit_variation` and the teacher.
    """
    progress("label", 0, 1)
    labels = label(model, fit.train, fit.validation, teacher=fit.teacher, target=fit.target, generator=generator).kept()
    progress("label", 1, 1)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    task = _Task(model, fit, labels, x, seed, generator, progress)
    estimators = {name: task.fitted(name, model, labels, choices) for name, choices in fit.estimators.items()}
    passes = PASSES if isinstance(fit.teacher, MCDropout) else ()
    estimates = {f"dropout, T = {count}": (str(count), task.measured(count)) for count in passes}
    left_out = {}
    for name, (cost, baseline) in task.baselines().items():
        try:
            estimates[name] = cost, baseline()
        except (TypeError, ValueError) as error:
            left_out[name] = str(error)
    estimates |= {name: ("1", task.estimated(estimator)) for name, estimator in estimators.items()}
    a, b = task.truth(truth_passes)
    rows = [
        {"name": name, "passes": cost, **agreement.measures(estimate, a, b), "estimate": estimate.tolist()}
        for name, (cost, estimate) in estimates.items()
    ]
    return Comparison(estimators, (a + b) / 2, rows, left_out)


@dataclass(frozen=True)
class _Task:
    model: nn.Module
    fit: Fit
    labels: Labels
    x: Sequence[State]
    seed: int
    generator: torch.Generator
    progress: ProgressCallback

    def fitted(self, name: str, model: nn.Module, labels: Labels, choices: Mapping[str, Any]) -> VariationEstimator:
        self.progress(f"fit: {name}", 0, 1)
        estimator = fit_labels(model, labels, generator=torch.Generator().manual_seed(self.seed), **choices)
        self.progress(f"fit: {name}", 1, 1)
        return estimator

    def measured(self, passes: int) -> Tensor:
        """The target by so many passes, (N,) float64."""
        teacher, parts = self.fit.teacher, []
        if isinstance(teacher, MCDropout):
            teacher = replace(teacher, passes=passes)
        for done, batch in enumerate(self.x, start=1):
            parts.append(teacher(self.model, batch, generator=self.generator)[self.fit.target])
            self.progress(f"dropout, T = {passes}", done, len(self.x))
        return torch.cat(parts)

    def truth(self, passes: int) -> list[Tensor]:
        """Two independent measurements without bias."""
        half = passes // 2
        found = [self.measured(half) for _ in range(2)]
        if not isinstance(self.fit.teacher, MCDropout) or spreads.power(self.fit.target) != 2.0:
            return found
        return [agreement.unbiased(part, half) for part in found]

    def estimated(self, estimator: VariationEstimator) -> Tensor:
        return self._each(lambda batch: estimator.estimate(batch).variation)

    def baselines(self) -> dict[str, tuple[str, Callable[[], Tensor]]]:
        """Passes and estimate of what reads no strengths; the estimate raises where it does not apply."""
        return {
            "delta rule": ("1 and a gradient", self._delta_rule),
            "moments, diagonal": ("1, of variances", lambda: self._moments(full=False)),
            "moments, full": ("1, of covariances", lambda: self._moments(full=True)),
            "last layer, exact": ("1", self._last_layer),
            "inputs only": ("1", self._inputs_only),
        }

    def _delta_rule(self) -> Tensor:
        teacher = self._dropout()
        at = teacher.at if teacher.at is None or isinstance(teacher.at, str) else list(teacher.at)
        return self._each(lambda batch: delta_rule(self.model, batch, at, teacher.rate, teacher.likelihood))

    def _moments(self, full: bool) -> Tensor:
        rate, likelihood = self._own_dropout()
        tower = self.model
        if not isinstance(tower, (nn.Sequential, ExitNetwork)):
            raise TypeError(f"expected a tower, nn.Sequential or ExitNetwork, got {type(tower).__name__}")
        return self._each(
            lambda batch: moments.spread(moments.propagate(tower, batch, full=full, rate=rate), likelihood)
        )

    def _last_layer(self) -> Tensor:
        rate, likelihood = self._own_dropout()
        return self._each(lambda batch: moments.spread(last_layer(self.model, batch, rate), likelihood))

    def _inputs_only(self) -> Tensor:
        inputs, labels = _Inputs(self.model, self.x[0]), replace(self.labels, likelihood="regression")
        return self.estimated(self.fitted("inputs only", inputs, labels, {"layers": []}))

    def _dropout(self) -> MCDropout:
        teacher, target = self.fit.teacher, self.fit.target
        if not isinstance(teacher, MCDropout) or target != "std":
            raise ValueError(f"expected MCDropout and the target 'std', got {type(teacher).__name__}, {target!r}")
        return teacher

    def _own_dropout(self) -> tuple[float | None, LikelihoodName]:
        """Rate and likelihood of a teacher that drops what the model itself drops."""
        teacher = self._dropout()
        if teacher.at is not None:
            raise ValueError(f"expected the dropout of the model itself, at=None, got at={teacher.at}")
        return teacher.rate, teacher.likelihood

    def _each(self, estimate: Callable[[State], Tensor]) -> Tensor:
        return torch.cat([estimate(batch) for batch in self.x])


class _Inputs(nn.Module):
    """A model whose answer is what goes into another: its embeddings, where it begins with them, or numbers."""

    def __init__(self, model: nn.Module, example: State) -> None:
        super().__init__()
        self.model = model
        self.embeddings = next((module for module in model.modules() if isinstance(module, Embeddings)), None)
        numbers = isinstance(example, Tensor) and example.is_floating_point()
        if self.embeddings is None and not numbers:
            raise TypeError("expected a model with Embeddings, or inputs that are one tensor of numbers, got neither")

    def forward(self, *args: State, **kwargs: Tensor) -> Any:
        """(N, D)."""
        if self.embeddings is None:
            return args[0].flatten(start_dim=1)
        return self.embeddings(args[0] if args else kwargs)
