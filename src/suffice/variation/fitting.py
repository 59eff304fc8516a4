"""Learn what a teacher would say about a prediction's variation, from one ordinary pass.

A teacher gives each training row the variance s² of its prediction over T passes, with divisor T − 1. A small
network predicts log v from the model's output and its activation strengths, and minimises

    QLIKE    log v + s²/v

whose minimiser is the true variance, however few the passes (T ≥ 2), so that many rows with few passes teach
more than few rows with many.

The answer stays in the range that the labels of the training rows and the values fitted to them have in common:
the labels' alone is too wide by the noise of T passes, the fitted values may overshoot it.

Yu et al. 2021 (arXiv 2110.06435), after Chen et al. 2021 (arXiv 2008.07032); the loss is that of Patton 2011.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from suffice import cost
from suffice.batches import Loader
from suffice.storage.fingerprint import fingerprint
from suffice.utils.modes import default_modes
from suffice.variation import conformal
from suffice.variation.estimator import Quality, VariationEstimator
from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.learning import agreement, mlp, ridge, rows
from suffice.variation.learning.fit import Fit
from suffice.variation.learning.labels import Labels, label
from suffice.variation.learning.layer_selection import smallest
from suffice.variation.learning.objective import Problem, bounds_of, drawn_seed, limit_of, r_squared
from suffice.variation.learning.rows import Rows
from suffice.variation.teachers import spreads
from suffice.variation.teachers.teacher import Teacher

Method = Literal["network", "ridge"]


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
    """Learn what `teacher` says about a trained model, so that one pass can say it.

    Args:
        model: answers as its teacher's likelihood says.
        train_loader: batches of inputs as they will be met in use, hard ones too; read once. No labels are
            needed: the teacher gives them. Prefer many rows to many passes, about 10 passes are enough; take more
            where they cost little, as with dropout near the end of the model.
        val_loader: other inputs, labelled twice; read once. Every other row stops and selects, the rest judges.
        teacher: `MCDropout(…)`, or any other.
        layers: names or patterns of the layers whose strengths are read; None or "all" for every activation module,
            "last" for the last, an empty list for the output alone; "auto" for the fewest within 1 % of all.
        target: a spread of the teacher that few passes estimate without bias: "std", another deviation or
            "disagreement".
        strengths: values, whether they are above zero ("on"), or "both".
        delta: whether the delta rule's estimate is one more feature; it costs a backward pass at each answer.
        method: "network", or "ridge" in closed form, for which training rows are not kept.
        hidden: widths of the small network's hidden layers.
        epochs: at most so many passes over the training rows.
        generator: randomness of teacher and fit; the same state gives the same bytes.

    Raises:
        TypeError: for what is no model, no teacher (its class, say) or no batches.
        ValueError: for another target, fewer than two training or four validation rows, labels or features that
            are not finite or labels that are all zero, an empty loader, or what `layer_names` and the teacher refuse.
    """
    labels = label(model, train_loader, val_loader, teacher=teacher, target=target, generator=generator)
    return fit_labels(
        model,
        labels,
        layers=layers,
        strengths=strengths,
        delta=delta,
        method=method,
        hidden=hidden,
        epochs=epochs,
        generator=generator,
    )


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
    """As `fit_variation`, from what a teacher has said already.

    Fits to the same `labels.kept()` from the same state of the generator differ in nothing but their choices.
    """
    if method not in ("network", "ridge") or (method == "ridge" and layers == "auto"):
        raise ValueError(f"expected method='network', or 'ridge' with layers that are named, got {method!r}, {layers=}")
    teacher, target = labels.teacher, labels.target
    reader = rows.reader(model, teacher, layers, strengths, delta, labels.likelihood)
    asked = iter(labels.train)
    first = next(asked)
    training = rows.batchwise(model, chain([first], asked), reader)
    seen = rows.collected(training) if method == "network" else None
    unit = None if seen is None else rows.mean_label(seen.labels, target)
    stopping, judging = rows.halves(rows.collected(rows.batchwise(model, labels.validation, reader)))
    subsets: tuple[dict[str, Any], ...] = ()
    if seen is None:
        fit = _streamed(training, stopping, target)
    else:
        assert unit is not None
        problem = Problem(seen, stopping, unit, target, hidden, epochs, drawn_seed(generator))
        if layers == "auto":
            fit, chosen, subsets = smallest(problem, reader, cost.macs(model, first.batch.inputs))
            reader = replace(reader, layers=tuple(reader.layers[i] for i in chosen))
            judging = replace(judging, features=judging.features[:, judging.columns(chosen)])
        else:
            fit = problem.fit(range(len(reader.layers)))
    return judged(model, reader, teacher, fit, judging, subsets)


def _streamed(training: Any, unseen: Rows, target: str) -> Fit:
    """Ridge over batches that are not kept; features are scaled as those of the validation rows."""
    scaling = Scaling.fit(unseen.features, unseen.widths[0])
    statistics = ridge.init(len(scaling.columns), unseen.features.device)
    unit = rows.mean_label(unseen.labels, target)
    new = scaling.apply(unseen.features)
    least, greatest, passes, limit = float("inf"), 0.0, unseen.passes, limit_of(new)
    for part in training:
        known = scaling.apply(part.features)
        statistics = ridge.update(statistics, known.inputs, part.labels[:, 0] / unit)
        limit = max(limit, limit_of(known))
        least, greatest = min(least, float(part.labels.min())), max(greatest, float(part.labels.max()))
        passes = part.passes
    if statistics.count < 2:
        raise ValueError(f"expected at least 2 training rows, got {statistics.count}; pass thousands of them")
    weights = ridge.fit(statistics, (new.inputs, unseen.labels.mean(dim=1) / unit))
    fitted = mlp.variance(mlp.forward(weights, new.inputs)) * unit
    bounds = bounds_of(fitted, torch.tensor([least, greatest], dtype=torch.float32), target)
    return Fit(target, scaling, tuple(weights), unit, bounds, limit, passes)


def judged(
    model: nn.Module,
    reader: Reader,
    teacher: Teacher,
    fit: Fit,
    judging: Rows,
    subsets: tuple[dict[str, Any], ...] = (),
) -> VariationEstimator:
    """The estimator, with what it is worth on rows that it has not seen in any way."""
    estimate = fit(judging.features)
    measured = judging.labels.pow(1 / spreads.power(fit.target))
    quality = Quality(
        r_squared(estimate, judging, fit.target),
        agreement.log_error(estimate, measured[:, 0], measured[:, 1]),
        subsets,
    )
    residuals = conformal.residuals(measured[:, 0], estimate)
    return VariationEstimator(model, reader, fit, quality, fingerprint(model), residuals, teacher)
