"""One optimization step of a network, in one process or in several, compiled or not."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from suffice.batches import Loader
from suffice.network import ExitNetwork, State, batch_size
from suffice.training.config import Execution
from suffice.training.losses import Loss
from suffice.training.units import TargetUnits
from suffice.utils import threads
from suffice.utils.nest import tree_map_only

Forward = Callable[[State], list[Tensor]]


class Processes(Protocol):
    """Processes of a training, with the methods of a `lightning_fabric.Fabric` that a step needs."""

    is_global_zero: bool

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""

    def broadcast(self, value: Any) -> Any:
        """Return the value of the first process."""

    def barrier(self) -> None:
        """Wait for all processes."""


class SingleProcess:
    """One process without a fabric."""

    is_global_zero = True

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        loss.backward()

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the value, which is the mean over one process."""
        return value

    def broadcast(self, value: Any) -> Any:
        """Return the value, as there is one process."""
        return value

    def barrier(self) -> None:
        """Return at once, as no other process is running."""


class TrainingStep:
    """Forward pass, gradients and update of the weights for one batch.

    Args:
        network: Network to train, converted in place to the memory format, and moved to the device of the fabric.
        loss: Loss to minimize.
        loader: Loader of the training.
        execution: Memory format, compilation and processes.

    Attributes:
        loader: Loader, as the fabric distributes it over the processes.
        processes: Fabric, or a single process.
        optimizer: Optimizer, as the fabric wraps it, once `use` was called.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, network: ExitNetwork, loss: Loss, loader: Loader, execution: Execution) -> None:
        self.loader = loader
        self.processes: Processes = SingleProcess()
        self._network, self._loss, self._execution = network, loss, execution
        self._forward: Forward = network
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if execution.fabric is not None:
            self.processes = cast(Processes, execution.fabric)
            execution.fabric.launch()
            execution.fabric.to_device(network)
            if isinstance(loader, torch.utils.data.DataLoader):
                self.loader = execution.fabric.setup_dataloaders(loader)

    def use(self, optimizer: torch.optim.Optimizer, units: TargetUnits) -> None:
        """Set the optimizer of the trained parameters, and their units."""
        self.optimizer, self._units = optimizer, units
        if self._execution.fabric is not None:
            self._forward, self.optimizer = self._execution.fabric.setup(self._network, optimizer)
            units.reload()  # processes start from the weights of the first one
        if self._execution.compiled:
            self._forward = _compile_first_size(self._forward)

    def __call__(self, inputs: State, labels: Tensor) -> Tensor:
        """Update the weights and return the mean loss of the batch over all processes, float64."""
        if self._execution.channels_last:
            inputs = tree_map_only(Tensor, _to_channels_last, inputs)
        with threads.one_thread_if_small(threads.largest_layer_work(self._network, inputs)):
            loss = self._loss(self._forward(inputs), labels)
            self.optimizer.zero_grad()
            self._units.zero_grad()
            self.processes.backward(loss / self._units.loss_unit if self._units.loss_unit != 1 else loss)
            with self._units.step():
                self.optimizer.step()
        return self.processes.all_reduce(loss.detach().double())

    def start_at_epoch(self, epoch: int) -> None:
        """Set the epoch of a loader that a fabric distributes, as its shuffling depends on a count of epochs."""
        loader: Any = self.loader
        if hasattr(loader, "_num_iter_calls"):
            loader._num_iter_calls = epoch


def _compile_first_size(forward: Forward) -> Forward:
    """Compile a network for the size of the first batch; batches of another size run uncompiled."""
    compiled, first_size = torch.compile(forward), 0

    def run(inputs: State) -> list[Tensor]:
        nonlocal first_size
        size = batch_size(inputs)
        first_size = first_size or size
        return compiled(inputs) if size == first_size else forward(inputs)

    return run


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
