"""The training loop: a loss over all exits, minimized by gradient descent.

The default loss is the sum of the exits' losses; the default optimizer depends on what is trained
(`suffice.training.optimizers`). Any other loop can replace this one: the rest of the library does not depend on how a
network was trained. Dropout draws from torch's default generator.

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
from suffice.training import losses, optimizers
from suffice.training.checkpoint import Checkpointer
from suffice.training.config import Checkpointing, Execution, check_settings, stable_repr
from suffice.training.first_epoch import FirstEpoch
from suffice.training.losses import Loss
from suffice.training.optimizers import Choice, Optimizer
from suffice.training.progress import ProgressReporter, TrainingProgress
from suffice.training.start import Start
from suffice.training.step import TrainingStep


def train(
    network: ExitNetwork,
    loader: Loader,
    *,
    epochs: int,
    likelihood: likelihoods.Name = "classification",
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
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
        optimizer: `SGDConfig(…)` or `AdamWConfig(…)`; or an optimizer of torch's for parameters of the network, whose
            learning rates are yours to set (a scheduler steps in `on_step` or `on_epoch`); or a function from a list of
            parameters to one. None for the default: AdamW with a warm-up for exits on a trained backbone, which
            itself gets a hundredth of their learning rate; for a network that is trained from scratch `SGDConfig()`,
            or `AdamWConfig()` if its targets are numbers.
        exits_only: Train only the exits; the stages stay unchanged and in evaluation mode.
        execution: Memory format, compilation, devices and processes; None for the network as it is.
        checkpoint: Folder of a checkpoint to write and to resume from; None to write none.
        on_epoch: Function to call after each epoch with its number, from 1, and its mean loss.
        on_step: Function to call after each step.

    Raises:
        TypeError: If the network has no exits, the loss takes only one output, the optimizer is none, or the loader
            iterates no batches.
        ValueError: If the loader is empty, or labels, outputs, loss, optimizer or checkpoint do not fit the other
            arguments.
        FloatingPointError: If the loss of an epoch or a weight at its end is not finite.

    Warns:
        UserWarning: If the last exit, trained before, is worse after the first epoch, or if the first epoch's labels
            are not in random order.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.tower([10, 10], num_classes=2, hidden=(8, 8), exits_after=(1,))
        >>> ids = torch.arange(100).reshape(50, 2) % 10
        >>> history = suffice.training.train(network, [(ids, ids[:, 0] % 2)], epochs=3)
        >>> len(history)
        3
    """
    check_settings(epochs, execution, checkpoint)
    family = _likelihood_family(network, likelihood)
    minimized = _loss_function(loss, likelihood)
    trained = (network.exits if exits_only else network).parameters()
    parameters = [parameter for parameter in trained if parameter.requires_grad]
    with _training_mode(network, exits_only):
        step = TrainingStep(network, minimized, loader, execution or Execution())
        checkpointer = Checkpointer(checkpoint, network, epochs, step.processes.is_global_zero)
        first_epoch = FirstEpoch(network, likelihood) if checkpointer.start is None and epochs > 0 else None
        examples = None
        if first_epoch is not None:
            examples = first_epoch.measure(_read_epoch(step, checkpointer, network, family))
            checkpointer.start = step.processes.broadcast(first_epoch.start)
        start = checkpointer.start or Start()
        choice = optimizers.choose(optimizer, network, parameters, likelihood=likelihood, start=start)
        step.use(choice.optimizer, choice.units)
        settings = _settings(epochs, likelihood, loss, exits_only) | choice.settings
        checkpointer.resume(step.optimizer, settings, own_rates=choice.config is None)
        choice.units.reload()
        reporter = ProgressReporter(epochs, checkpointer.position.epoch, on_step, on_epoch)
        while checkpointer.position.epoch < epochs:
            if examples is None:
                examples = _read_epoch(step, checkpointer, network, family)
            _run_epoch(examples, step, choice, checkpointer, reporter)
            if first_epoch is not None and step.processes.is_global_zero:
                first_epoch.warn()
            examples, first_epoch = None, None
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


def _settings(epochs: int, likelihood: likelihoods.Name, loss: Loss | None, exits_only: bool) -> dict[str, Any]:
    """Return the settings that a checkpoint stores besides the optimizer's, and with which a training resumes."""
    return {"epochs": epochs, "likelihood": likelihood, "loss": stable_repr(loss), "exits_only": exits_only}


def _read_epoch(
    step: TrainingStep, checkpointer: Checkpointer, network: ExitNetwork, family: likelihoods.Likelihood
) -> Iterator[tuple[batches.Batch, Tensor]]:
    """Return an iterator over the examples of the current epoch, in the order that this epoch has in any process."""
    checkpointer.begin_epoch()
    step.start_at_epoch(checkpointer.position.epoch)
    return likelihoods.read(step.loader, network, family)


def _run_epoch(
    examples: Iterator[tuple[batches.Batch, Tensor]],
    step: TrainingStep,
    choice: Choice,
    checkpointer: Checkpointer,
    reporter: ProgressReporter,
) -> None:
    """Train for the rest of the current epoch; batches of finished steps are read again and skipped."""
    start = checkpointer.position
    total, count, number = torch.tensor(start.total, dtype=torch.float64), start.count, 0
    for number, (batch, labels) in enumerate(examples, start=1):
        if number <= start.step:
            checkpointer.skip_step(number)
            continue
        choice.set_rates(start.epoch / reporter.epochs, start.steps - start.step + number - 1)
        value = step(batch.inputs, labels)
        total = total.to(value.device) + value * batch.size
        count += batch.size
        reporter.after_step(start.epoch, number, total, count)
        checkpointer.after_step(number, total, count)
    mean = float(total / count)
    weights = (parameter for group in choice.optimizer.param_groups for parameter in group["params"])
    if not math.isfinite(mean) or not all(bool(weight.isfinite().all()) for weight in weights):
        raise FloatingPointError(
            f"expected a finite loss and finite weights, got a loss of {mean:.3g} in epoch {start.epoch + 1}; lower "
            "the learning rate"
        )
    checkpointer.end_epoch(mean, number)
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
