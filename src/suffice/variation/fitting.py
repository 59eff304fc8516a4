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
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from suffice import batches
from suffice.batches import Loader
from suffice.network import call, fingerprint, inference, select
from suffice.variation import band, judgement, regressor, ridge, rows, spreads
from suffice.variation.estimator import Fitted, VariationEstimator
from suffice.variation.features import Reader
from suffice.variation.fit import Fit
from suffice.variation.rows import Rows
from suffice.variation.scaling import Scaled, Scaling
from suffice.variation.strengths import Kind
from suffice.variation.teachers import Teacher

Method = Literal["network", "ridge"]

_WITHIN = 0.01
"""How much of the R² of all layers a subset may cost."""
_FAR = 2.0
"""How many times farther than any known row an input has to be to be called outside."""


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
            needed: the teacher gives them. Prefer many rows to many passes, about 10 passes are enough.
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
        ValueError: for another target, fewer than two training or four validation rows, labels or features that
            are not finite or labels that are all zero, an empty loader, or what `layer_names` and the teacher refuse.
    """
    spreads.power(target)
    if method not in ("network", "ridge") or (method == "ridge" and layers == "auto"):
        raise ValueError(f"expected method='network', or 'ridge' with layers that are named, got {method!r}, {layers=}")
    likelihood, train_loader = rows.likelihood_of(model, train_loader, teacher)
    reader = rows.reader(model, teacher, layers, strengths, delta, likelihood)
    example, train_loader = batches.peek(train_loader, model)
    training = rows.batchwise(model, train_loader, reader, teacher, target, generator)
    seen = rows.collected(training) if method == "network" else None
    unit = None if seen is None else rows.mean_label(seen.labels, target)
    unseen = rows.collected(rows.batchwise(model, val_loader, reader, teacher, target, generator, runs=2))
    stopping, judging = rows.halves(unseen)
    subsets: tuple[dict[str, Any], ...] = ()
    if seen is None:
        fit = _streamed(training, stopping, target)
    else:
        assert unit is not None
        problem = _Problem(seen, stopping, unit, target, hidden, epochs, generator)
        if layers == "auto":
            fit, chosen, subsets = _smallest(problem, reader, _macs(model, example))
            reader = replace(reader, layers=tuple(reader.layers[i] for i in chosen))
            judging = replace(judging, features=judging.features[:, judging.columns(chosen)])
        else:
            fit = problem.fit(range(len(reader.layers)))
    return judged(model, reader, teacher, target, fit, judging, subsets)


@dataclass(frozen=True)
class _Problem:
    """Rows to fit and to stop on, labels in units of `unit`, and how to fit."""

    seen: Rows
    unseen: Rows
    unit: float
    target: str
    hidden: Sequence[int]
    epochs: int
    generator: torch.Generator | None

    def fit(self, layers: Sequence[int]) -> Fit:
        """The network that sees the output and these layers."""
        columns = self.seen.columns(layers)
        features, unseen = self.seen.features[:, columns], self.unseen.features[:, columns]
        scaling = Scaling.fit(features, self.seen.widths[0])
        known, new = scaling.apply(features), scaling.apply(unseen)
        inputs = known.inputs
        labels, unseen_labels = self.seen.labels[:, 0] / self.unit, self.unseen.labels.mean(dim=1) / self.unit
        weights = regressor.initial(inputs.shape[1], self.hidden, 1, inputs.device, self.generator)
        validation = new.inputs, unseen_labels
        weights = regressor.train(weights, (inputs, labels), validation, regressor.qlike, self.epochs, self.generator)
        fitted = regressor.variance(regressor.forward(weights, inputs)) * self.unit
        bounds = bounds_of(fitted, self.seen.labels, self.target)
        return Fit(scaling, weights, self.unit, bounds, limit_of(known, new), self.seen.passes)

    def quality(self, estimate: Tensor) -> float:
        """Noise-corrected R² of an estimate (M,) of the rows to stop on."""
        return r_squared(estimate, self.unseen, self.target)


def fit_rows(
    seen: Rows, stopping: Rows, target: str, hidden: Sequence[int], epochs: int, generator: torch.Generator | None
) -> Fit:
    """The small network that sees all features of training rows, stopped on others; arguments as `fit_variation`.

    Raises:
        ValueError: for fewer than two training rows, or labels that are all zero.
    """
    problem = _Problem(seen, stopping, rows.mean_label(seen.labels, target), target, hidden, epochs, generator)
    return problem.fit(range(len(seen.widths) - 1))


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
    fitted = regressor.variance(regressor.forward(weights, new.inputs)) * unit
    bounds = bounds_of(fitted, torch.tensor([least, greatest]), target)
    return Fit(scaling, weights, unit, bounds, limit, passes)


def _smallest(problem: _Problem, reader: Reader, macs: int) -> tuple[Fit, list[int], tuple[dict[str, Any], ...]]:
    """The fit on the fewest layers within 1 % of all, which those are, and the table of what was tried."""

    def tried(layers: Sequence[int]) -> tuple[Fit, float, dict[str, Any]]:
        fit = problem.fit(layers)
        quality = problem.quality(
            fit.estimate(problem.unseen.features[:, problem.unseen.columns(layers)], problem.target)
        )
        own = regressor.macs(fit.weights)
        row = {
            "layers": [reader.layers[i] for i in layers],
            "strengths": sum(problem.seen.widths[1 + i] for i in layers),
            "macs": own,
            "cost": own / max(macs, 1),
            "r_squared": quality,
        }
        return fit, quality, row

    order = _greedy(problem, len(reader.layers))
    fit, everything, row = tried(sorted(order))
    table = [row]
    for size in range(len(order)):
        layers = sorted(order[:size])
        found, quality, row = tried(layers)
        table.insert(size, row)
        if quality >= everything - _WITHIN * abs(everything):
            return found, layers, tuple(table)
    return fit, sorted(order), tuple(table)


def _greedy(problem: _Problem, count: int) -> list[int]:
    """All layers in the order in which each, added to those before, helps ridge regression most."""
    scaling = Scaling.fit(problem.seen.features, problem.seen.widths[0])
    group = torch.repeat_interleave(torch.arange(count + 1), torch.tensor(problem.seen.widths))[scaling.columns.cpu()]
    inputs, unseen = (scaling.apply(part.features).inputs for part in (problem.seen, problem.unseen))
    statistics = ridge.init(inputs.shape[1], inputs.device)
    for x, y in zip(inputs.split(4096), problem.seen.labels[:, 0].split(4096), strict=True):
        statistics = ridge.update(statistics, x, y / problem.unit)
    labels = problem.unseen.labels.mean(dim=1) / problem.unit

    def loss(layers: list[int]) -> float:
        wanted = torch.tensor([0, *(layer + 1 for layer in layers)])
        columns = torch.isin(group, wanted).nonzero()[:, 0].to(inputs.device)
        if not len(columns):
            return float("inf")
        weights = ridge.fit(ridge.select(statistics, columns), (unseen[:, columns], labels))
        return float(regressor.qlike(regressor.forward(weights, unseen[:, columns]), labels))

    order: list[int] = []
    while len(order) < count:
        order.append(min((i for i in range(count) if i not in order), key=lambda i: loss([*order, i])))
    return order


def judged(
    model: nn.Module,
    reader: Reader,
    teacher: Teacher,
    target: str,
    fit: Fit,
    judging: Rows,
    subsets: tuple[dict[str, Any], ...],
) -> VariationEstimator:
    """The estimator, with what it is worth on rows that it has not seen in any way."""
    estimate = fit.estimate(judging.features, target)
    measured = judging.labels.pow(1 / spreads.power(target))
    fitted = Fitted(
        target,
        fit.passes,
        fit.unit,
        fit.bounds,
        fit.limit,
        r_squared(estimate, judging, target),
        judgement.log_error(estimate, measured[:, 0], measured[:, 1]),
        subsets,
    )
    residuals = band.residuals(measured[:, 0], estimate)
    weights = tuple(weight.detach() for weight in fit.weights)
    return VariationEstimator(model, reader, fitted, fingerprint(model), fit.scaling, weights, residuals, teacher)


def r_squared(estimate: Tensor, judging: Rows, target: str) -> float:
    """Noise-corrected R² of an estimate (N,) of rows labelled twice."""
    a, b = judging.labels.double().pow(1 / spreads.power(target)).unbind(dim=1)
    if spreads.power(target) == 2.0:
        a, b = (judgement.unbiased(part, judging.passes) for part in (a, b))
    return judgement.r_squared(estimate, a, b)


def bounds_of(fitted: Tensor, labels: Tensor, target: str) -> tuple[float, float]:
    """Least and greatest answer within the range both of fitted values and of labels (N, …)."""
    least, greatest = max(float(fitted.min()), float(labels.min())), min(float(fitted.max()), float(labels.max()))
    power = spreads.power(target)
    return least ** (1 / power), greatest ** (1 / power)


def limit_of(*known: Scaled) -> float:
    """The distance beyond which an input is outside, from rows like those of fitting."""
    return _FAR * max(float(rows.distance.max()) for rows in known)


def _macs(model: nn.Module, example: batches.Batch) -> int:
    """Multiply-adds of the model for one example."""
    with inference(model), FlopCounterMode(display=False) as counter:
        call(model, select(example.inputs, torch.zeros(1, dtype=torch.long)))
    return int(counter.get_total_flops() // 2)
