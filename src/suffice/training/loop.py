"""The visible training loop: a loss over all exits, stochastic gradient descent, two decays.

The paper's recipe (Huang et al. 2018): the sum of the exits' losses, momentum 0.9, weight decay 1e-4, a
learning rate of 0.1 divided by ten at half and at three quarters of the epochs. Write your own loop where you need
another one: nothing else in the library asks how a network was trained.

A training that writes checkpoints can be killed at any moment: asked for again, it goes on from the last one and
ends with the weights, to the byte, that it would have had (on a processor; a GPU's kernels are not so strict).
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.likelihoods import LIKELIHOODS
from suffice.network import ExitNetwork, State, batch_size
from suffice.training import losses
from suffice.training.checkpoint import Keeper, likeness
from suffice.training.losses import Loss
from suffice.utils import threads
from suffice.utils.nest import tree_map_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Schedule = Callable[[float], float]
"""From the share of the training that is over, in [0, 1), to a factor on the learning rate."""


def steps(done: float) -> float:
    """A tenth from half of the training, a hundredth from three quarters."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine. Loshchilov and Hutter 2017."""
    return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Progress:
    """Where a training is, after a step.

    Attributes:
        epoch: the epoch that is running, from 1.
        epochs: of the whole training.
        step: steps done in it.
        loss: mean of the epoch so far.
        seconds_left: of the whole training, from the time that the steps of this run took; None before its first
            epoch is over, as nothing is asked of a loader.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    seconds_left: float | None


def train(
    network: ExitNetwork,
    loader: Loader,
    *,
    epochs: int,
    likelihood: likelihoods.Name = "classification",
    loss: Loss | None = None,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = False,
    schedule: Schedule = steps,
    exits_only: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
    fabric: "Fabric | None" = None,
    resume: str | os.PathLike[str] | None = None,
    every: float = 60.0,
    generator: torch.Generator | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> list[float]:
    """Train every exit at once, in place; the network is left in training mode.

    Args:
        network: trained from the weights it has; its dropout draws from torch's default generator. Parameters
            that ask for no gradient stay as they are.
        loader: labelled batches, read once an epoch, so not a generator. Data already on the network's device
            stay there.
        epochs: passes over the loader.
        likelihood: what the outputs are, and so how labels are read, as in `calibrate`: "classification", "binary",
            "regression" or "heteroscedastic".
        loss: of the outputs of all exits and the labels as the likelihood reads them; `suffice.training.losses`.
            None for the sum over the exits of the likelihood's own. One that has an attribute `likelihood` is held
            to it.
        learning_rate: before the schedule.
        momentum: of the gradient descent.
        weight_decay: of all trained parameters.
        nesterov: look ahead by the momentum.
        schedule: factor on the learning rate, set before each epoch.
        exits_only: train the exits on stages that stay as they are, in evaluation mode.
        channels_last: keep images and convolutions channels last in memory.
        compiled: run the network through `torch.compile`; a batch of another size than the first, as an epoch's last
            one, is run as it is, for it would be compiled again.
        fabric: a `lightning_fabric.Fabric` for the device, the precision and several processes (extra "train");
            then give a DataLoader, which is shared out: the batch of a step is that of all processes together.
            Without one, the network's own device and type.
        resume: folder of the checkpoint: written to, and gone on from if it is there by the same training; loss and
            schedule are known by their `repr`. One process writes it.
        every: seconds between checkpoints.
        generator: what the loader draws from, if it has a generator of its own; needed to read an interrupted
            epoch again.
        on_epoch: called after each epoch with its number from 1 and its mean loss.
        on_step: called after each step.

    Returns:
        Mean loss of each epoch.

    Raises:
        TypeError: for a network without exits, what is no loss, or a loader that iterates no batches.
        ValueError: for an empty loader, labels or a number of outputs that the likelihood cannot have, a loss of
            another likelihood, or a checkpoint of other settings.
        FloatingPointError: if the loss of an epoch is not finite.
    """
    _check_network(network)
    family = _family(likelihood, network.num_classes)
    if loss is not None:
        losses.check(loss, likelihood)
    minimized = partial(losses.summed, likelihood=likelihood) if loss is None else loss
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = network.exits if exits_only else network
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    settings = {
        "epochs": epochs,
        "likelihood": likelihood,
        "loss": likeness(loss),
        "schedule": likeness(schedule),
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "exits_only": exits_only,
    }
    team = _Alone() if fabric is None else fabric
    with _training_mode(network, exits_only):
        forward: Callable[[State], list[Tensor]] = network
        if fabric is not None:
            forward, optimizer, loader = _shared(fabric, network, optimizer, loader)
        if compiled:
            forward = _compiled(forward)

        def step(inputs: State, labels: Tensor) -> Tensor:
            if channels_last:
                inputs = tree_map_only(Tensor, _channels_last, inputs)
            with threads.one_thread_if_small(threads.largest_layer_work(network, inputs)):
                value = minimized(forward(inputs), labels)
                optimizer.zero_grad()
                team.backward(value)
                optimizer.step()
            return cast(Tensor, team.all_reduce(value.detach().double()))

        keeper = Keeper(resume, network, optimizer, settings, every, generator, team.is_global_zero)
        _pass_over(loader, keeper.position.epoch)
        clock = _Clock(epochs, keeper.position.epoch, on_step)
        while keeper.position.epoch < epochs:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * schedule(keeper.position.epoch / epochs)
            _epoch(likelihoods.read(loader, network, family), step, keeper, clock)
            if on_epoch is not None:
                on_epoch(keeper.position.epoch, keeper.position.history[-1])
        team.barrier()  # so that the checkpoint is there for every process
    return list(keeper.position.history)


def _check_network(network: object) -> None:
    if not isinstance(network, ExitNetwork):
        raise TypeError(
            f"expected a suffice.ExitNetwork, got {type(network).__name__}; give a model exits to be trained by "
            "suffice.attach_exits, or take it as it is, with one exit, by "
            "suffice.attach.plain.as_exit_network(model, x)"
        )


def _family(likelihood: str, outputs: int) -> likelihoods.Likelihood:
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"expected likelihood to be one of {tuple(LIKELIHOODS)}, got {likelihood!r}")
    family = LIKELIHOODS[likelihood]()
    family.check_outputs(outputs)
    return family


class _Alone:
    """One process without a fabric, with those of its verbs that a step needs."""

    is_global_zero = True

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        loss.backward()

    def all_reduce(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        return value

    def barrier(self) -> None:
        """Wait for all processes."""


def _shared(
    fabric: "Fabric", network: ExitNetwork, optimizer: torch.optim.Optimizer, loader: Loader
) -> tuple[Callable[[State], list[Tensor]], torch.optim.Optimizer, Loader]:
    """The network, its optimiser and a DataLoader as each of the fabric's processes needs them."""
    fabric.launch()
    forward, optimizer = fabric.setup(network, optimizer)
    if isinstance(loader, torch.utils.data.DataLoader):
        loader = fabric.setup_dataloaders(loader)
    return forward, optimizer, loader


def _compiled(forward: Callable[[State], list[Tensor]]) -> Callable[[State], list[Tensor]]:
    """The network compiled for the size of the first batch, and as it is for others."""
    fast, first = torch.compile(forward), 0

    def run(inputs: State) -> list[Tensor]:
        nonlocal first
        size = batch_size(inputs)
        first = first or size
        return fast(inputs) if size == first else forward(inputs)

    return run


def _pass_over(loader: Any, epochs: int) -> None:
    """As if a fabric's loader had been read so often before: for several processes it shuffles by its own count."""
    if hasattr(loader, "_num_iter_calls"):
        loader._num_iter_calls = epochs


def _epoch(
    examples: Iterator[tuple[batches.Batch, Tensor]],
    step: Callable[[State, Tensor], Tensor],
    keeper: Keeper,
    clock: "_Clock",
) -> None:
    """The rest of the epoch at the keeper's position; what was done of it is read again and passed over."""
    start = keeper.begin_epoch()
    total, count = torch.tensor(start.total, dtype=torch.float64), start.count
    for number, (batch, labels) in enumerate(examples, start=1):
        if number <= start.step:
            keeper.passed_over(number)
            continue
        value = step(batch.inputs, labels)
        total = total.to(value.device) + value * batch.size
        count += batch.size
        clock.tick(start.epoch, number, total, count)
        keeper.after_step(number, total, count)
    mean = float(total / count)
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"expected a finite loss, got {mean:.3g} in epoch {start.epoch + 1}; lower the learning rate"
        )
    keeper.end_epoch(mean)


@dataclass(frozen=True)
class _Clock:
    """Reports steps, with the time that is left judged by the epochs of this run."""

    epochs: int
    first: int
    report: Callable[[Progress], None] | None
    started: float = field(default_factory=time.monotonic)

    def tick(self, epoch: int, step: int, total: Tensor, count: int) -> None:
        if self.report is not None:
            over, left = epoch - self.first, self.epochs - epoch
            seconds = (time.monotonic() - self.started) / over * left if over else None
            self.report(Progress(epoch + 1, self.epochs, step, float(total / count), seconds))


@contextmanager
def _training_mode(network: ExitNetwork, exits_only: bool) -> Iterator[None]:
    """Training mode; with `exits_only` the stages are in evaluation mode and ask for no gradient meanwhile."""
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


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
