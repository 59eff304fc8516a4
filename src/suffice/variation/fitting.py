"""Fit of an estimator to a teacher's variation, so that one deterministic forward pass estimates it.

For each training row a teacher measures the variance s² of its prediction over T passes, with divisor T − 1. A small
network predicts log v from the model's output and its activation strengths, and minimizes

    QLIKE    log v + s²/v

whose minimizer is the true variance, however few the passes (T ≥ 2). For the same number of passes, many rows with few
passes each are therefore better than few rows with many.

Estimates are clamped to the intersection of two ranges, that of the training labels and that of the values fitted to
them: the first alone is too wide because of the noise of T passes, the second may overshoot it.

Yu et al. 2021 (arXiv 2110.06435), after Chen et al. 2021 (arXiv 2008.07032); the loss is that of Patton 2011.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suffice import cost
from suffice.batches import Loader
from suffice.storage.fingerprint import fingerprint
from suffice.utils import arguments
from suffice.utils.modes import default_modes
from suffice.variation import conformal
from suffice.variation.estimator import VariationEstimator
from suffice.variation.features.distance import Distance
from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.learning import agreement, mlp, ridge
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.learning.labels import Labels, label
from suffice.variation.learning.layer_selection import select_layers
from suffice.variation.learning.objective import Objective, estimate_bounds, r_squared, random_seed
from suffice.variation.learning.repeats import warn_if_repeated
from suffice.variation.learning.rows import Rows, concatenate, halves, make_reader, mean_label, read_rows
from suffice.variation.learning.target import Target
from suffice.variation.quality import Quality, warn_if_poor
from suffice.variation.teachers.teacher import Teacher

Method = Literal["network", "ridge"]


@dataclass(frozen=True)
class FitOptions:
    """Choices of a fit; each is described at `fit_variation`.

    Raises:
        TypeError: For widths or epochs that are no whole numbers.
        ValueError: For another method, or for the ridge regression with `layers="auto"`.
    """

    layers: str | Sequence[str] | None
    strengths: Kind
    delta: bool
    method: Method
    hidden: Sequence[int]
    epochs: int

    def __post_init__(self) -> None:
        method, layers = self.method, self.layers
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            raise TypeError(f"expected hidden as a sequence of widths, such as (64, 64), got {self.hidden!r}")
        for width in self.hidden:
            arguments.whole("a width in hidden", width)
        arguments.whole("epochs", self.epochs, least=0)
        arguments.flag("delta", self.delta)
        if method not in ("network", "ridge") or (method == "ridge" and layers == "auto"):
            raise ValueError(f"expected method='network', or 'ridge' with named layers, got {method!r}, {layers=}")


@default_modes()
def fit_variation(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    teacher: Teacher,
    layers: str | Sequence[str] | None = None,
    target: str = "std",
    strengths: Kind = "value",
    delta: bool = False,
    method: Method = "network",
    hidden: Sequence[int] = (64, 64),
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> VariationEstimator:
    """Fit an estimator of the variation that `teacher` measures on a trained model.

    Args:
        model: Model with outputs of the teacher's likelihood.
        train_loader: Batches of inputs like those in use, hard ones too; read once. No labels are needed, the teacher
            measures them. About 10 passes suffice: more rows help more than more passes, except where passes cost
            little, as with dropout near the end of the model.
        val_loader: Batches of other inputs, measured twice; read once. Every other row is for early stopping and
            selection, the rest for the evaluation. Rows that are training rows too are warned of, and so is an R² below
            zero or one that cannot be measured.
        teacher: `MCDropout(…)`, or any other teacher.
        layers: Names or patterns of the layers whose strengths are read; None or "all" for every activation whose
            output has the examples first, modules and functions (`F.relu`, `torch.tanh`, …) alike, "last" for the last,
            an empty list for the output alone. The name "<margins>" in a list stands for the spreads under dropout of
            the model's last linear layers, in closed form and without a gradient. "auto" for the fewest within 1 % of
            all, the margins among them if the teacher is dropout that acts on the inputs of such layers.
        target: Spread of the teacher that few passes estimate without bias: "std", another deviation or
            "disagreement".
        strengths: Kind of strengths: "value", "on" (whether they are above zero) or "both".
        delta: Whether the delta rule's estimate is one more feature; it costs a backward pass at each prediction.
        method: "network", or "ridge" in closed form, which does not keep training rows in memory.
        hidden: Widths of the hidden layers of the small network.
        epochs: Maximum number of passes over the training rows.
        generator: Generator of the teacher and the fit; the same state gives the same bytes.

    Raises:
        TypeError: If `model` is not a module, `teacher` not a teacher (but its class, for example), or a loader does
            not iterate batches.
        ValueError: For another target, fewer than two training or four validation rows, labels or features that are
            not finite, labels that are all zero, an empty loader, a model that is not deterministic in evaluation
            mode, for "<margins>" without dropout in front of the last linear layers, or anything that `layer_names` and
            the teacher reject.

    Example:
        >>> import torch, suffice
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        >>> train, val, teacher = torch.randn(200, 3), torch.randn(50, 3), suffice.MCDropout(passes=8)
        >>> estimator = suffice.fit_variation(model, [train], [val], teacher=teacher, epochs=2)
        >>> output, variation = estimator(train[:5])  # one deterministic forward pass
        >>> output.shape, variation.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """
    options = FitOptions(layers, strengths, delta, method, hidden, epochs)
    labels = label(model, train_loader, val_loader, teacher=teacher, target=target, generator=generator)
    estimator = _fit(model, labels, options, generator)
    warn_if_poor(estimator.quality, len(estimator.residuals))
    return estimator


@default_modes()
def fit_labels(
    model: nn.Module,
    labels: Labels,
    *,
    layers: str | Sequence[str] | None = None,
    strengths: Kind = "value",
    delta: bool = False,
    method: Method = "network",
    hidden: Sequence[int] = (64, 64),
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> VariationEstimator:
    """Fit an estimator as `fit_variation` does, to labels that a teacher has measured already.

    Fits to the same `labels.in_memory()` from the same state of the generator differ only by their options.
    """
    estimator = _fit(model, labels, FitOptions(layers, strengths, delta, method, hidden, epochs), generator)
    warn_if_poor(estimator.quality, len(estimator.residuals))
    return estimator


def _fit(
    model: nn.Module, labels: Labels, options: FitOptions, generator: torch.Generator | None
) -> VariationEstimator:
    teacher, target, layers = labels.teacher, labels.target, options.layers
    reader = make_reader(model, labels.example, teacher, layers, options.strengths, options.delta, labels.likelihood)
    reader = reader.low_rank(model, labels.example)
    labeled = iter(labels.train)
    first = next(labeled)
    training = read_rows(model, chain([first], labeled), reader)
    if options.method == "ridge":
        validation = concatenate(read_rows(model, labels.validation, reader))
        stopping, held_out = halves(validation)
        keys = list[Tensor]()
        fitted = _fit_ridge(_noting_keys(training, keys), stopping, target)
        _warn_if_repeated(torch.cat(keys), validation)
        return build_estimator(model, reader, teacher, fitted, held_out)
    train = concatenate(training)
    unit = mean_label(train.labels, target)
    validation = concatenate(read_rows(model, labels.validation, reader))
    stopping, held_out = halves(validation)
    _warn_if_repeated(train.keys, validation)
    seed = random_seed(generator)
    objective = Objective(train, stopping, unit, target, options.hidden, options.epochs, seed)
    if layers != "auto":
        return build_estimator(model, reader, teacher, objective.fit(range(len(reader.layers))), held_out)
    costs = reader.costs(model)
    fitted, chosen, subsets = select_layers(objective, reader, cost.macs(model, first.batch.inputs), costs)
    reader = reader.select(chosen)
    held_out = replace(held_out, features=held_out.features[:, held_out.columns(chosen)])
    return build_estimator(model, reader, teacher, fitted, held_out, subsets)


def _noting_keys(training: Iterator[Rows], keys: list[Tensor]) -> Iterator[Rows]:
    """Yield rows, and add their keys to a list."""
    for rows in training:
        keys += [] if rows.keys is None else [rows.keys]
        yield rows


def _warn_if_repeated(train: Tensor | None, validation: Rows) -> None:
    """Warn the caller of the public function that called `_fit` if validation rows are training rows."""
    if train is not None and validation.keys is not None:
        warn_if_repeated(train, validation.keys, stacklevel=5)


def _fit_ridge(training: Iterator[Rows], stopping: Rows, target: Target) -> FittedMLP:
    """Fit a ridge regression to batches that are not kept. Features are scaled by the stopping rows."""
    scaling = Scaling.fit(stopping.features, stopping.output_width())
    statistics = ridge.init(len(scaling.columns), stopping.features.device)
    unit = mean_label(stopping.labels, target)
    scaled_stopping = scaling.apply(stopping.features)
    distance, distances = Distance.fit(scaled_stopping.scores), list[Tensor]()
    least, greatest, passes = float("inf"), 0.0, stopping.passes
    for rows in training:
        scaled = scaling.apply(rows.features)
        statistics = ridge.update(statistics, scaled.inputs, rows.labels[:, 0] / unit)
        distances.append(distance(scaled.scores))
        least, greatest = min(least, float(rows.labels.min())), max(greatest, float(rows.labels.max()))
        passes = rows.passes
    if statistics.count < 2:
        raise ValueError(f"expected at least 2 training rows, got {statistics.count}; pass thousands of them")
    weights = ridge.fit(statistics, (scaled_stopping.inputs, stopping.labels.mean(dim=1) / unit))
    fitted = mlp.variance(mlp.forward(weights, scaled_stopping.inputs)) * unit
    bounds = estimate_bounds(fitted, torch.tensor([least, greatest], dtype=torch.float32), target)
    distance = distance.limited(torch.cat(distances))
    return FittedMLP(target, scaling, tuple(weights), unit, bounds, distance, passes)


def build_estimator(
    model: nn.Module,
    reader: Reader,
    teacher: Teacher,
    fitted: FittedMLP,
    held_out: Rows,
    subsets: tuple[dict[str, Any], ...] = (),
) -> VariationEstimator:
    """Return the estimator with its quality and conformal residuals on held-out rows.

    Args:
        model: Model that was read.
        reader: Reader of the fitted features.
        teacher: Teacher of the labels.
        fitted: Fitted map from features to the spread.
        held_out: Rows, labeled twice, that were used neither for fitting nor for selection.
        subsets: Rows of the subsets of layers that were tried, as in `Quality.subsets`.
    """
    estimate = fitted(held_out.features)
    measured = held_out.labels.pow(1 / fitted.target.power)
    quality = Quality(
        r_squared(estimate, held_out, fitted.target),
        agreement.log_error(estimate, measured[:, 0], measured[:, 1]),
        subsets,
    )
    residuals = conformal.residuals(measured[:, 0], estimate)
    return VariationEstimator(model, reader, fitted, quality, fingerprint(model), residuals, teacher)
