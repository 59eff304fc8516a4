"""The training loop: a loss over all exits, minimized by stochastic gradient descent.

The default recipe is that of Huang et al. 2018 (`suffice.training.config`) with the sum of the exits' losses. Any other
loop can replace this one: the rest of the library does not depend on how a network was trained. Dropout draws from
torch's default generator.

A training with checkpoints can be interrupted at any moment. Started again with the same settings it resumes from the
last checkpoint and ends with the same weights, to the byte on a CPU; GPU kernels are not deterministic to that degree.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.likelihoods import LIKELIHOODS
from suffice.network import ExitNetwork
from suffice.training import losses
from suffice.training.checkpoint import Checkpointer, stable_repr
from suffice.training.config import Checkpointing, Execution, SGDConfig
from suffice.training.losses import Loss
from suffice.training.progress import ProgressReporter, TrainingProgress
from suffice.training.step import TrainingStep


def train(
    network: ExitNetwork,
    loader: Loader,
    *,
    epochs: int,
    likelihood: likelihoods.Name = "classification",
    loss: Loss | None = None,
    optimizer: SGDConfig | None = None,
    exits_only: bool = False,
    execution: Execution | None = None,
    checkpoint: Checkpointing | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[TrainingProgress], None] | None = None,
) -> list[float]:
    """Train all exits of a network at once, in place, and return the mean loss of each epoch.

    Args:
        network: Network to train from its current weights, left in training mode; parameters that require no gradient
            stay unchanged.
        loader: Labeled batches, iterated once per epoch; a generator serves one epoch only.
        epochs: Number of passes over the loader.
        likelihood: Likelihood of outputs and labels, as in `calibrate`.
        loss: Loss of the outputs of all exits (`suffice.training.losses`); None for the sum of the likelihood's own.
        optimizer: Settings of gradient descent; None for `SGDConfig()`.
        exits_only: Train only the exits; the stages stay unchanged and in evaluation mode.
        execution: Memory format, compilation, devices and processes; None for the network as it is.
        checkpoint: Folder of a checkpoint to write and to resume from; None to write none.
        on_epoch: Function to call after each epoch with its number, from 1, and its mean loss.
        on_step: Function to call after each step.

    Raises:
        TypeError: If the network has no exits, the loss takes only one output, or the loader iterates no batches.
        ValueError: If the loader is empty, or labels, outputs, loss or checkpoint do not fit the other arguments.
        FloatingPointError: If the loss of an epoch is not finite.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.tower([10, 10], num_classes=2, hidden=(8, 8), exits_after=(1,))
        >>> ids = torch.arange(100).reshape(50, 2) % 10
        >>> history = suffice.training.train(network, [(ids, ids[:, 0] % 2)], epochs=3)
        >>> len(history)
        3
    """
    family = _likelihood_family(network, likelihood)
    minimized = _loss_function(loss, likelihood)
    sgd = optimizer or SGDConfig()
    trained = (network.exits if exits_only else network).parameters()
    torch_optimizer = sgd.build([parameter for parameter in trained if parameter.requires_grad])
    settings = _settings(epochs, likelihood, loss, sgd, exits_only)
    with _training_mode(network, exits_only):
        step = TrainingStep(network, minimized, torch_optimizer, loader, execution or Execution())
        checkpointer = Checkpointer(checkpoint, network, step.optimizer, settings, step.processes.is_global_zero)
        reporter = ProgressReporter(epochs, checkpointer.position.epoch, on_step, on_epoch)
        step.start_at_epoch(checkpointer.position.epoch)
        while checkpointer.position.epoch < epochs:
            step.set_learning_rate(sgd.learning_rate * sgd.schedule(checkpointer.position.epoch / epochs))
            _run_epoch(likelihoods.read(step.loader, network, family), step, checkpointer, reporter)
        step.processes.barrier()  # so that every process finds the checkpoint complete
    return list(checkpointer.position.history)


def _likelihood_family(network: ExitNetwork, likelihood: str) -> likelihoods.Likelihood:
    if not isinstance(network, ExitNetwork):
        raise TypeError(
            f"expected a suffice.ExitNetwork, got {type(network).__name__}; attach exits to a model with "
            "suffice.attach_exits, or convert it to a network with one exit with "
            "suffice.attach.plain.as_exit_network(model, x)"
        )
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"expected likelihood to be one of {tuple(LIKELIHOODS)}, got {likelihood!r}")
    family = LIKELIHOODS[likelihood]()
    family.check_outputs(network.num_classes)
    return family


def _loss_function(loss: Loss | None, likelihood: likelihoods.Name) -> Loss:
    if loss is None:
        return partial(losses.summed, likelihood=likelihood)
    losses.check(loss, likelihood)
    return loss


def _settings(
    epochs: int, likelihood: likelihoods.Name, loss: Loss | None, sgd: SGDConfig, exits_only: bool
) -> dict[str, Any]:
    """Return the settings that a checkpoint stores, and with which a training resumes from it."""
    return {
        "epochs": epochs,
        "likelihood": likelihood,
        "loss": stable_repr(loss),
        "schedule": stable_repr(sgd.schedule),
        "learning_rate": sgd.learning_rate,
        "momentum": sgd.momentum,
        "weight_decay": sgd.weight_decay,
        "nesterov": sgd.nesterov,
        "exits_only": exits_only,
    }


def _run_epoch(
    examples: Iterator[tuple[batches.Batch, Tensor]],
    step: TrainingStep,
    checkpointer: Checkpointer,
    reporter: ProgressReporter,
) -> None:
    """Train for the rest of the current epoch; batches of finished steps are read again and skipped."""
    start = checkpointer.begin_epoch()
    total, count = torch.tensor(start.total, dtype=torch.float64), start.count
    for number, (batch, labels) in enumerate(examples, start=1):
        if number <= start.step:
            checkpointer.skip_step(number)
            continue
        value = step(batch.inputs, labels)
        total = total.to(value.device) + value * batch.size
        count += batch.size
        reporter.after_step(start.epoch, number, total, count)
        checkpointer.after_step(number, total, count)
    mean = float(total / count)
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"expected a finite loss, got {mean:.3g} in epoch {start.epoch + 1}; lower the learning rate"
        )
    checkpointer.end_epoch(mean)
    reporter.after_epoch(start.epoch, mean)


@contextmanager
def _training_mode(network: ExitNetwork, exits_only: bool) -> Iterator[None]:
    """Set training mode; with `exits_only` the stages stay in evaluation mode without gradients in the body."""
    network.train()
    if not exits_only:
        yield
        return
    frozen = [parameter for parameter in network.stages.parameters() if parameter.requires_grad]
    network.stages.eval()
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        network.stages.train()
        for parameter in frozen:
            parameter.requires_grad_(True)
