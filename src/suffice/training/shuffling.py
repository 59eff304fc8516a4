"""Detection of training data that are not shuffled: labels that are alike within a batch.

    ρ = 1 − (Σ_w Σ_{i∈w} ‖y_i − ȳ_w‖² / (N − W)) / (Σ_i ‖y_i − ȳ‖² / (N − 1))

is the intraclass correlation of the labels (one indicator per class, or the targets) over W windows of consecutive
examples: about 0 in random order, and 1 if each window has one class. A network that meets one class at a time predicts
that class and forgets the others.
"""

import math
import warnings

import torch
from torch import Tensor

_WINDOW = 8
"""Least number of examples in a window; smaller batches are joined."""

_HIGH = 0.1
"""Correlation above which an order is reported, if it is beyond chance too."""

_SIGMAS = 5.0


class LabelOrder:
    """Sums over the labels of one epoch, in the order of training.

    Args:
        classes: Number of classes; None for numeric targets.
    """

    def __init__(self, classes: int | None) -> None:
        self._classes = classes
        self._pending: list[Tensor] = []
        self._origin: Tensor | None = None
        self._examples = self._windows = 0
        self._within = self._total = self._squares = torch.zeros(())

    def add(self, labels: Tensor) -> None:
        """Add the labels (N,) or targets (N, C) of the next batch."""
        self._pending.append(labels)
        if sum(map(len, self._pending)) >= _WINDOW:
            self._close_window(self._values(torch.cat(self._pending)))
            self._pending = []

    @property
    def correlation(self) -> float:
        """Intraclass correlation ρ over all windows; 0 where it is undefined."""
        if self._windows < 2:
            return 0.0
        around_mean = float((self._squares - self._total.square() / self._examples).sum())
        if around_mean <= 0:
            return 0.0
        within = float(self._within) / (self._examples - self._windows)
        return 1 - within / (around_mean / (self._examples - 1))

    @property
    def deviation(self) -> float:
        """Standard deviation of ρ for normal labels in random order, √(2 (W − 1)) / (N − 1); infinite for one."""
        return math.sqrt(2 * (self._windows - 1)) / (self._examples - 1) if self._windows > 1 else math.inf

    def warn_if_sorted(self) -> None:
        """Warn if labels are alike within windows, by more than chance."""
        if self.correlation > max(_HIGH, _SIGMAS * self.deviation):
            kind = "targets" if self._classes is None else "labels"
            warnings.warn(
                f"expected training data in random order, got {kind} that are alike within each batch (intraclass "
                f"correlation {self.correlation:.2f}), as in data that are sorted by class: a network trained on them "
                "forgets one class while it learns the next. Shuffle them: DataLoader(…, shuffle=True), or "
                "data.train.shuffled(64, generator=…)",
                stacklevel=4,
            )

    def _values(self, labels: Tensor) -> Tensor:
        """Return the labels as float64 (N, C), relative to the first window, so that large means do not cancel."""
        if self._classes is not None and not labels.is_floating_point():
            return torch.nn.functional.one_hot(labels.long(), max(2, self._classes)).double()
        values = labels.double().reshape(len(labels), -1)
        if self._origin is None:
            self._origin = values.mean(dim=0)
        return values - self._origin

    def _close_window(self, values: Tensor) -> None:
        self._examples += len(values)
        self._windows += 1
        self._within = self._within.to(values) + (values - values.mean(dim=0)).square().sum()
        self._total = self._total.to(values) + values.sum(dim=0)
        self._squares = self._squares.to(values) + values.square().sum(dim=0)
