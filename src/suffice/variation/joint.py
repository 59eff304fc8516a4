"""Estimator trained jointly with its model: one step of a small network after each training step of the model.

This is the auxiliary task of Yu et al. 2021 (arXiv 2110.06435). The head reads the model's deterministic forward pass
and learns from a few dropout passes of the current model. No gradient flows from the head into the model, so the model
is the same as without the head. In a training loop:

    head = JointHead(model, teacher=MCDropout(passes=2))
    for x, y in loader:
        ...                       # the training step of the model
        head.step(x)
    estimator = head.finish(val_loader)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suffice.attach.determinism import check_deterministic
from suffice.batches import Loader
from suffice.network import State
from suffice.utils.modes import default_modes
from suffice.variation.estimator import VariationEstimator
from suffice.variation.features.distance import Distance
from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.fitting import build_estimator
from suffice.variation.learning import labels, mlp, rows
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.learning.objective import estimate_bounds
from suffice.variation.learning.rows import Rows
from suffice.variation.learning.target import Target
from suffice.variation.quality import warn_if_poor
from suffice.variation.teachers.dropout import MCDropout

_WINDOW = 100
"""Number of steps that the running moments of the features average over."""


class JointHead:
    """Small network that learns a model's variation while the model is trained.

    Args:
        model: Model in training; its modes and gradients do not change.
        teacher: Dropout teacher. Two passes are enough, since every step has new examples.
        layers: Layers to read, as for `fit_variation`, but not "auto".
        target: Spread to learn, as for `fit_variation`.
        strengths: Kind of strengths, as for `fit_variation`.
        hidden: Widths of the hidden layers.
        learning_rate: Learning rate of the head's own AdamW optimizer.
        generator: Generator of the teacher and the initial weights.

    Example:
        >>> import torch, suffice
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        >>> head = suffice.JointHead(model, teacher=suffice.MCDropout(passes=2))
        >>> losses = [head.step(torch.randn(32, 3)) for _ in range(5)]  # each after a training step of the model
        >>> x = torch.randn(40, 3)
        >>> head.finish([x]).estimate(x).variation.shape
        torch.Size([40])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        teacher: MCDropout,
        layers: str | Sequence[str] | None = None,
        target: str = "std",
        strengths: Kind = "value",
        hidden: Sequence[int] = (64, 64),
        learning_rate: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        labels.check_model_and_teacher(model, teacher)
        self.target = Target(target)
        if layers == "auto":
            raise ValueError("expected named layers, got 'auto', which needs several fits")
        self.model, self.teacher = model, teacher
        rows.check_kind(strengths)
        self.layers, self.strengths = layers, strengths
        self.hidden, self.learning_rate, self.generator = hidden, learning_rate, generator
        # The first batch determines the layers that run, and the shape of their features.
        self._reader: Reader | None = None
        self._learner: _OnlineLearner | None = None

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return 0 if self._learner is None else self._learner.steps

    @default_modes()
    def step(self, x: State) -> float:
        """Learn from one batch on the model's device, and return the QLIKE loss.

        Raises:
            ValueError: For values that are not finite, a first batch whose predictions do not vary, a model that is
                not deterministic in evaluation mode, or anything that `layer_names` rejects.
        """
        if self._reader is None:
            self._reader = self._make_reader(x)
        labeled = labels.label_batches(self.model, [x], self.teacher, self.target, self.generator)
        batch = next(rows.read_rows(self.model, labeled, self._reader))
        if self._learner is None:
            self._learner = _OnlineLearner(batch, self.target, self.hidden, self.learning_rate, self.generator)
        return self._learner.step(batch)

    @default_modes()
    def finish(self, val_loader: Loader, passes: int = 10) -> VariationEstimator:
        """Return the estimator for the current weights of the model; training may continue afterwards.

        Args:
            val_loader: Batches of inputs that were not used in any step. Every other row sets the range of the
                estimates, the rest is for the evaluation.
            passes: Number of passes of the teacher for these inputs; two would be too noisy.

        Raises:
            ValueError: Before the first step, and as `fit_variation`.
        """
        if self._learner is None or self._reader is None:
            raise ValueError("expected at least one step, got none; call step(x) in the training loop")
        teacher = self.teacher.with_passes(passes)
        labeled = labels.label_batches(self.model, val_loader, teacher, self.target, self.generator, runs=2)
        validation = rows.concatenate(rows.read_rows(self.model, labeled, self._reader))
        range_rows, held_out = rows.halves(validation)
        fitted = self._learner.fitted(range_rows, held_out, self.target)
        estimator = build_estimator(self.model, self._reader, teacher, fitted, held_out)
        warn_if_poor(estimator.quality, len(estimator.residuals))
        return estimator

    def _make_reader(self, x: State) -> Reader:
        check_deterministic(self.model, x)
        likelihood = self.teacher.likelihood
        return rows.make_reader(self.model, x, self.teacher, self.layers, self.strengths, False, likelihood)


class _OnlineLearner:
    """Small network, its optimizer, and running moments of its features, started at the first batch.

    Args:
        first: Rows of the first batch. Their mean label is the unit of all labels.
        target: Spread to learn.
        hidden: Widths of the hidden layers.
        learning_rate: Learning rate of AdamW.
        generator: Generator of the initial weights.

    Raises:
        ValueError: For fewer than two rows, or labels that are all zero.
    """

    def __init__(
        self,
        first: Rows,
        target: Target,
        hidden: Sequence[int],
        learning_rate: float,
        generator: torch.Generator | None,
    ) -> None:
        self.steps, self.unit, self.output_width = 0, rows.mean_label(first.labels, target), first.output_width()
        self.mean = first.features.double().mean(dim=0)
        self.square = first.features.double().square().mean(dim=0)
        self.weights = mlp.initial(first.features.shape[1], hidden, 1, first.features.device, generator)
        self.average = [weight.clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW([w.requires_grad_() for w in self.weights], lr=learning_rate)

    def step(self, batch: Rows) -> float:
        """Update the running moments and the weights, and return the QLIKE loss."""
        self.steps += 1
        share = max(1 / self.steps, 1 / _WINDOW)
        self.mean.lerp_(batch.features.double().mean(dim=0), share)
        self.square.lerp_(batch.features.double().square().mean(dim=0), share)
        inputs = self._scaling().apply(batch.features).inputs
        self.optimizer.zero_grad()
        loss = mlp.qlike(mlp.forward(self.weights, inputs), batch.labels[:, 0] / self.unit)
        loss.backward()
        self.optimizer.step()
        for mean, weight in zip(self.average, self.weights, strict=True):
            mean.lerp_(weight.detach(), 10 / (self.steps + 10))
        return float(loss.detach())

    def fitted(self, range_rows: Rows, held_out: Rows, target: Target) -> FittedMLP:
        """Return the average network, with the range of its estimates from `range_rows`, and the limit from both."""
        scaling = self._scaling()
        scaled = scaling.apply(range_rows.features)
        values = mlp.variance(mlp.forward(self.average, scaled.inputs)) * self.unit
        bounds = estimate_bounds(values, range_rows.labels, target)
        weights: tuple[Tensor, ...] = tuple(mean.clone() for mean in self.average)  # later steps change the average
        distance = Distance.fit(scaled.scores, scaling.apply(held_out.features).scores)
        return FittedMLP(target, scaling, weights, self.unit, bounds, distance, range_rows.passes)

    def _scaling(self) -> Scaling:
        """Return the scaling of all columns by the running moments; a column that has not varied yet becomes zero."""
        deviation = (self.square - self.mean.square()).clamp_min(0).sqrt()
        constant = deviation <= 1e-6 * self.square.sqrt()
        scale = torch.where(constant, torch.inf, deviation)
        columns = torch.arange(len(scale), device=scale.device)
        return Scaling(columns, self.mean.float(), scale.float(), Scaling.weights(columns, self.output_width))
