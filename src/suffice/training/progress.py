"""Progress reports of a training, with an estimate of the remaining time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training after a step.

    Attributes:
        epoch: Number of the current epoch, from 1.
        epochs: Number of epochs of the whole training.
        step: Number of finished steps in the current epoch.
        loss: Mean loss of the current epoch so far.
        seconds_left: Estimated seconds until the end of the training; None during the first epoch of this run, as a
            loader may have no length.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    seconds_left: float | None


@dataclass(frozen=True)
class ProgressReporter:
    """Reporter of steps and epochs that estimates the remaining time from the finished epochs of this run.

    Attributes:
        epochs: Number of epochs of the whole training.
        first: Index of the first epoch of this run, from 0.
        on_step: Function to call after each step, or None.
        on_epoch: Function to call after each epoch with its number, from 1, and its mean loss, or None.
        started: Time at which this run started, in seconds of the monotonic clock.
    """

    epochs: int
    first: int
    on_step: Callable[[TrainingProgress], None] | None
    on_epoch: Callable[[int, float], None] | None
    started: float = field(default_factory=time.monotonic)

    def after_step(self, epoch: int, step: int, total: Tensor, count: int) -> None:
        """Report a step.

        Args:
            epoch: Index of the epoch, from 0.
            step: Number of finished steps in the epoch.
            total: Sum of the loss over the examples of the epoch so far.
            count: Number of those examples.
        """
        if self.on_step is not None:
            finished, left = epoch - self.first, self.epochs - epoch
            seconds = (time.monotonic() - self.started) / finished * left if finished else None
            self.on_step(TrainingProgress(epoch + 1, self.epochs, step, float(total / count), seconds))

    def after_epoch(self, epoch: int, mean: float) -> None:
        """Report an epoch, given its index from 0 and its mean loss."""
        if self.on_epoch is not None:
            self.on_epoch(epoch + 1, mean)
