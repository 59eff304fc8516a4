"""Comparison of estimates of a variation against an independent truth of many passes.

The rows are dropout itself with few passes; the baselines that need no training (the delta rule, the margins of the
last linear layers, moments propagated through a tower, and the exact covariance of the last layer); and estimators that
read the inputs alone, the prediction alone, or activation strengths. A baseline that does not apply is left out, with
the reason. No estimate shares passes with the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.batches import Loader
from suffice.inputs import prepare
from suffice.models.tower import Embeddings
from suffice.network import ExitNetwork, State
from suffice.utils.modes import default_modes
from suffice.utils.progress import ProgressCallback
from suffice.variation.baselines import moments
from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.baselines.head import spread_and_rest
from suffice.variation.baselines.last_layer import last_layer
from suffice.variation.estimator import VariationEstimator
from suffice.variation.fitting import fit_labels
from suffice.variation.learning import agreement
from suffice.variation.learning.labels import Labels, label
from suffice.variation.teachers.spreads import LikelihoodName
from suffice.variation.teachers.teacher import DropoutTeacher, RepeatableTeacher, Teacher, with_passes

PASSES = (10, 50, 100)
"""Numbers of passes of the rows that are dropout itself."""

ESTIMATORS: dict[str, dict[str, Any]] = {"prediction only": {"layers": []}, "estimator": {}}
"""Estimators by name, as arguments of `fit_labels`."""


@dataclass(frozen=True)
class FitSpec:
    """Spread to estimate, and the estimators that are fitted to it.

    Attributes:
        train: Loader of training inputs, read once; labels are not needed.
        validation: Loader of other inputs, read once.
        teacher: Teacher of the estimators; with more passes it measures the truth.
        target: Spread, as for `fit_variation`.
        estimators: Arguments of `fit_labels` by name, a row each.
    """

    train: Loader
    validation: Loader
    teacher: Teacher
    target: str = "std"
    estimators: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: ESTIMATORS)


@dataclass(frozen=True)
class Comparison:
    """All estimates, and the truth that they are compared with.

    Attributes:
        estimators: Fitted estimators by name.
        truth: Measured spreads, (N,) float64.
        rows: For each estimate its name, its cost in passes, `agreement.measures`, and the estimate itself.
        left_out: Reason for each baseline that does not apply, by name.
    """

    estimators: dict[str, VariationEstimator]
    truth: Tensor
    rows: list[dict[str, Any]]
    left_out: dict[str, str]


@default_modes()
def compare(
    model: nn.Module,
    spec: FitSpec,
    x: Sequence[State],
    *,
    truth_passes: int,
    generator: torch.Generator,
    progress: ProgressCallback,
) -> Comparison:
    """Fit the estimators, to the same labels and from the same seed, and compare every estimate with the truth.

    Args:
        model: Trained model with outputs of the teacher's likelihood.
        spec: Spread to estimate, and the estimators to fit, on inputs disjoint from x.
        x: Test batches.
        truth_passes: Number of passes of the truth, half of them for each of two independent measurements.
        generator: Generator of all passes and fits.
        progress: Callback for the progress of fits and passes.

    Raises:
        ValueError: As `fit_variation` and the teacher.
    """
    progress("label", 0, 1)
    labels = label(model, spec.train, spec.validation, teacher=spec.teacher, target=spec.target, generator=generator)
    labels = labels.in_memory()
    progress("label", 1, 1)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    run = _Run(model, labels, [prepare(batch, model) for batch in x], seed, generator, progress)
    estimators = {name: run.fit(name, model, labels, options) for name, options in spec.estimators.items()}
    counts = PASSES if isinstance(spec.teacher, RepeatableTeacher) else ()
    estimates = {f"dropout, T = {count}": (str(count), run.measure(count)) for count in counts}
    left_out = {}
    for name, (cost, baseline) in run.baselines().items():
        try:
            estimates[name] = cost, baseline()
        except (TypeError, ValueError) as error:
            left_out[name] = str(error)
    estimates |= {name: ("1", run.estimate(estimator)) for name, estimator in estimators.items()}
    a, b = run.measure_truth(truth_passes)
    rows = [
        {"name": name, "passes": cost, **agreement.measures(estimate, a, b), "estimate": estimate.tolist()}
        for name, (cost, estimate) in estimates.items()
    ]
    return Comparison(estimators, (a + b) / 2, rows, left_out)


@dataclass(frozen=True)
class _Run:
    """State of one comparison; each method returns estimates (N,) of the test inputs.

    Attributes:
        model: Trained model.
        labels: Labels in memory, with the teacher and the target.
        x: Test batches.
        seed: Seed of every fit.
        generator: Generator of all passes.
        progress: Callback for the progress.
    """

    model: nn.Module
    labels: Labels
    x: Sequence[State]
    seed: int
    generator: torch.Generator
    progress: ProgressCallback

    def fit(self, name: str, model: nn.Module, labels: Labels, options: Mapping[str, Any]) -> VariationEstimator:
        """Fit one estimator."""
        self.progress(f"fit: {name}", 0, 1)
        estimator = fit_labels(model, labels, generator=torch.Generator().manual_seed(self.seed), **options)
        self.progress(f"fit: {name}", 1, 1)
        return estimator

    def measure(self, passes: int) -> Tensor:
        """Measure the target by the teacher, with `passes` passes if their number can be chosen, (N,) float64."""
        teacher, spreads = with_passes(self.labels.teacher, passes), []
        for done, batch in enumerate(self.x, start=1):
            spreads.append(teacher(self.model, batch, generator=self.generator)[self.labels.target.name])
            self.progress(f"dropout, T = {passes}", done, len(self.x))
        return torch.cat(spreads)

    def measure_truth(self, passes: int) -> list[Tensor]:
        """Measure the target twice, independently and without bias."""
        half = passes // 2
        halves = [self.measure(half) for _ in range(2)]
        if not isinstance(self.labels.teacher, RepeatableTeacher):
            return halves
        return [self.labels.target.unbiased(spread, half) for spread in halves]

    def estimate(self, estimator: VariationEstimator) -> Tensor:
        """Estimate the target by a fitted estimator."""
        return self._per_batch(lambda batch: estimator.estimate(batch).variation)

    def baselines(self) -> dict[str, tuple[str, Callable[[], Tensor]]]:
        """Return the cost and the function of each baseline; the function raises an error where it does not apply."""
        return {
            "delta rule": ("1 and a gradient", self._delta_rule),
            "margins": ("1", self._margins),
            "moments, diagonal": ("1, of variances", lambda: self._moments(full=False)),
            "moments, full": ("1, of covariances", lambda: self._moments(full=True)),
            "last layer, exact": ("1", self._last_layer),
            "inputs only": ("1", self._inputs_only),
        }

    def _delta_rule(self) -> Tensor:
        teacher = self._dropout_teacher()
        return self._per_batch(
            lambda batch: delta_rule(self.model, batch, teacher.at, teacher.rate, teacher.likelihood)
        )

    def _margins(self) -> Tensor:
        teacher = self._dropout_teacher()
        return self._per_batch(
            lambda batch: spread_and_rest(self.model, batch, teacher.at, teacher.rate, teacher.likelihood)[0]
        )

    def _moments(self, full: bool) -> Tensor:
        rate, likelihood = self._native_dropout()
        tower = self.model
        if not isinstance(tower, (nn.Sequential, ExitNetwork)):
            raise TypeError(f"expected a tower, nn.Sequential or ExitNetwork, got {type(tower).__name__}")
        return self._per_batch(
            lambda batch: moments.spread(moments.propagate(tower, batch, full=full, rate=rate), likelihood)
        )

    def _last_layer(self) -> Tensor:
        rate, likelihood = self._native_dropout()
        return self._per_batch(lambda batch: moments.spread(last_layer(self.model, batch, rate), likelihood))

    def _inputs_only(self) -> Tensor:
        inputs, labels = _Inputs(self.model, self.x[0]), replace(self.labels, likelihood="regression")
        return self.estimate(self.fit("inputs only", inputs, labels, {"layers": []}))

    def _dropout_teacher(self) -> DropoutTeacher:
        """Return the teacher if it drops units and the target is the spread that the baselines approximate."""
        teacher, target = self.labels.teacher, self.labels.target.name
        if not isinstance(teacher, DropoutTeacher) or target != "std":
            raise ValueError(f"expected MCDropout and the target 'std', got {type(teacher).__name__}, {target!r}")
        return teacher

    def _native_dropout(self) -> tuple[float | None, LikelihoodName]:
        """Return rate and likelihood of a teacher that uses the dropout of the model itself."""
        teacher = self._dropout_teacher()
        if teacher.at is not None:
            raise ValueError(f"expected the dropout of the model itself, at=None, got at={teacher.at}")
        return teacher.rate, teacher.likelihood

    def _per_batch(self, estimate: Callable[[State], Tensor]) -> Tensor:
        return torch.cat([estimate(batch) for batch in self.x])


class _Inputs(nn.Module):
    """Model that returns the inputs of another: its embeddings, if it begins with them, or the numbers themselves."""

    def __init__(self, model: nn.Module, example: State) -> None:
        super().__init__()
        self.model = model
        self.embeddings = next((module for module in model.modules() if isinstance(module, Embeddings)), None)
        is_numeric = isinstance(example, Tensor) and example.is_floating_point()
        if self.embeddings is None and not is_numeric:
            raise TypeError("expected a model with Embeddings, or inputs that are one tensor of numbers, got neither")

    def forward(self, *args: State, **kwargs: Tensor) -> Any:
        """Return the inputs (N, D) of a batch."""
        if self.embeddings is None:
            return args[0].flatten(start_dim=1)
        return self.embeddings(args[0] if args else kwargs)
