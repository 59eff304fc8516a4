"""An estimator trained along with its model: one step of its own after each step of the model's.

The auxiliary task of Yu et al. 2021 (arXiv 2110.06435). The head reads the model's ordinary pass and is taught by a
few dropout passes of the model as it is then; no gradient flows from it into the model, so the model is what it would
be without. In a training loop:

    head = JointHead(model, teacher=MCDropout(passes=2))
    for x, y in loader:
        ...                       # the model's own step
        head.step(x)
    estimator = head.finish(val_loader)
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from suffice.batches import Loader
from suffice.network import State
from suffice.utils.modes import default_modes
from suffice.variation.estimator import VariationEstimator
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import Kind
from suffice.variation.fitting import judged
from suffice.variation.learning import labels, mlp, rows
from suffice.variation.learning.fit import Fit
from suffice.variation.learning.objective import bounds_of, limit_of
from suffice.variation.learning.rows import Rows
from suffice.variation.teachers import spreads
from suffice.variation.teachers.dropout import MCDropout

_MEMORY = 100
"""Steps that the running scale of the features looks back on."""


class JointHead:
    """A small network that learns a model's variation while the model is trained.

    Args:
        model: being trained; its modes and gradients are left alone.
        teacher: two passes are enough, as every step has new examples.
        layers: as for `fit_variation`, but for "auto".
        target: as for `fit_variation`.
        strengths: as for `fit_variation`.
        hidden: widths of the hidden layers.
        learning_rate: of its own AdamW.
        generator: randomness of teacher and start.
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
        labels.check_asked(model, teacher)
        spreads.power(target)
        if layers == "auto":
            raise ValueError("expected layers that are named, got 'auto', which has to fit more than once")
        self.model, self.teacher, self.target = model, teacher, target
        self.reader = rows.reader(model, teacher, layers, strengths, False, teacher.likelihood)
        self.hidden, self.learning_rate, self.generator = hidden, learning_rate, generator
        self.steps, self.unit = 0, 0.0
        self.weights: list[Tensor] = []

    @default_modes()
    def step(self, x: State) -> float:
        """Learn from one batch, on the model's device; returns the loss, QLIKE.

        Raises:
            ValueError: for what is not finite, or a first batch that does not vary.
        """
        asked = labels.each(self.model, [x], self.teacher, self.target, self.generator)
        seen = next(rows.batchwise(self.model, asked, self.reader))
        if not self.steps:
            self._start(seen)
        self.steps += 1
        share = max(1 / self.steps, 1 / _MEMORY)
        self.mean.lerp_(seen.features.double().mean(dim=0), share)
        self.square.lerp_(seen.features.double().square().mean(dim=0), share)
        inputs = self._scaling().apply(seen.features).inputs
        self.optimizer.zero_grad()
        loss = mlp.qlike(mlp.forward(self.weights, inputs), seen.labels[:, 0] / self.unit)
        loss.backward()
        self.optimizer.step()
        for mean, weight in zip(self.average, self.weights, strict=True):
            mean.lerp_(weight.detach(), 10 / (self.steps + 10))
        return float(loss.detach())

    @default_modes()
    def finish(self, val_loader: Loader, passes: int = 10) -> VariationEstimator:
        """The estimator of the model as it is now.

        Args:
            val_loader: inputs that no step has seen; every other row gives the range of the answers, the rest judges.
            passes: of the teacher to judge by; two would be too noisy.

        Raises:
            ValueError: before the first step, and as `fit_variation`.
        """
        if not self.steps:
            raise ValueError("expected at least one step, got none; call step(x) in the training loop")
        judge = replace(self.teacher, passes=passes)
        asked = labels.each(self.model, val_loader, judge, self.target, self.generator, runs=2)
        known, judging = rows.halves(rows.collected(rows.batchwise(self.model, asked, self.reader)))
        scaling = self._scaling()
        scaled = scaling.apply(known.features)
        fitted = mlp.variance(mlp.forward(self.average, scaled.inputs)) * self.unit
        bounds = bounds_of(fitted, known.labels, self.target)
        weights = tuple(mean.clone() for mean in self.average)  # which later steps go on changing
        fit = Fit(self.target, scaling, weights, self.unit, bounds, limit_of(scaled), known.passes)
        return judged(self.model, self.reader, judge, fit, judging)

    def _start(self, seen: Rows) -> None:
        self.unit, self.outputs = rows.mean_label(seen.labels, self.target), seen.widths[0]
        self.mean = seen.features.double().mean(dim=0)
        self.square = seen.features.double().square().mean(dim=0)
        self.weights = mlp.initial(seen.features.shape[1], self.hidden, 1, seen.features.device, self.generator)
        self.average = [weight.clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW([w.requires_grad_() for w in self.weights], lr=self.learning_rate)

    def _scaling(self) -> Scaling:
        """Of all columns, by the running moments; one that has not varied yet is left at zero."""
        deviation = (self.square - self.mean.square()).clamp_min(0).sqrt()
        still = deviation <= 1e-6 * self.square.sqrt()
        scale = torch.where(still, torch.inf, deviation)
        columns = torch.arange(len(scale), device=scale.device)
        return Scaling(columns, self.mean.float(), scale.float(), Scaling.weights(columns, self.outputs))
