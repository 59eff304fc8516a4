"""One optimization step of a network, in one process or in several, compiled or not."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from suffice.batches import Loader
from suffice.network import ExitNetwork, State, batch_size
from suffice.training.config import Execution
from suffice.training.losses import Loss
from suffice.utils import threads
from suffice.utils.nest import tree_map_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Forward = Callable[[State], list[Tensor]]


class Processes(Protocol):
    """Processes of a training, with the methods of a `lightning_fabric.Fabric` that a step needs."""

    is_global_zero: bool

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""

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

    def barrier(self) -> None:
        """Return at once, as no other process is running."""


class TrainingStep:
    """Forward pass, gradients and update of the weights for one batch.

    Args:
        network: Network to train, converted in place to the memory format.
        loss: Loss to minimize.
        optimizer: Optimizer of the trained parameters.
        loader: Loader of the training.
        execution: Memory format, compilation and processes.

    Attributes:
        optimizer: Optimizer, as the fabric wraps it.
        loader: Loader, as the fabric distributes it over the processes.
        processes: Fabric, or a single process.
    """

    def __init__(
        self,
        network: ExitNetwork,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        loader: Loader,
        execution: Execution,
    ) -> None:
        self.optimizer, self.loader = optimizer, loader
        self.processes: Processes = SingleProcess()
        self._network, self._loss, self._channels_last = network, loss, execution.channels_last
        self._forward: Forward = network
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if execution.fabric is not None:
            self.processes = cast(Processes, execution.fabric)
            self._distribute(execution.fabric)
        if execution.compiled:
            self._forward = _compile_first_size(self._forward)

    def __call__(self, inputs: State, labels: Tensor) -> Tensor:
        """Update the weights and return the mean loss of the batch over all processes, float64."""
        if self._channels_last:
            inputs = tree_map_only(Tensor, _to_channels_last, inputs)
        with threads.one_thread_if_small(threads.largest_layer_work(self._network, inputs)):
            loss = self._loss(self._forward(inputs), labels)
            self.optimizer.zero_grad()
            self.processes.backward(loss)
            self.optimizer.step()
        return self.processes.all_reduce(loss.detach().double())

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of all parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def start_at_epoch(self, epoch: int) -> None:
        """Set the epoch of a loader that a fabric distributes, as its shuffling depends on a count of epochs."""
        loader: Any = self.loader
        if hasattr(loader, "_num_iter_calls"):
            loader._num_iter_calls = epoch

    def _distribute(self, fabric: "Fabric") -> None:
        fabric.launch()
        self._forward, self.optimizer = fabric.setup(self._network, self.optimizer)
        if isinstance(self.loader, torch.utils.data.DataLoader):
            self.loader = fabric.setup_dataloaders(self.loader)


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
