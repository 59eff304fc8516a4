"""The visible training loop: the sum of the exits' cross-entropies, stochastic gradient descent, two decays.

The paper's recipe (Huang et al. 2018): momentum 0.9, weight decay 1e-4, a learning rate of 0.1 divided by ten
at half and at three quarters of the epochs. Write your own loop where you need another one: nothing else in
the library asks how a network was trained.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from suffice import batches
from suffice.batches import Loader
from suffice.network import ExitNetwork


def train(
    network: ExitNetwork,
    loader: Loader,
    *,
    epochs: int,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train every exit at once, in place; the network is left in training mode.

    Args:
        network: trained from the weights it has; its dropout draws from torch's default generator.
        loader: labelled batches, read once an epoch, so not a generator.
        epochs: passes over the loader.
        learning_rate: of the first half.
        momentum: of the gradient descent.
        weight_decay: of all parameters.
        on_epoch: called after each epoch with its number from 1 and its mean loss.

    Returns:
        Mean loss of each epoch: cross-entropy in nats, summed over the exits.

    Raises:
        ValueError: for an empty loader or labels out of range.
        FloatingPointError: if the loss of an epoch is not finite.
    """
    optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    decays = [epochs // 2, epochs * 3 // 4]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, decays, gamma=0.1)
    history = []
    network.train()
    for epoch in range(1, epochs + 1):
        loss = _epoch(network, loader, optimiser)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"expected a finite loss, got {loss:.3g} in epoch {epoch}; lower the learning rate"
            )
        schedule.step()
        history.append(float(loss))
        if on_epoch is not None:
            on_epoch(epoch, history[-1])
    return history


def _epoch(network: ExitNetwork, loader: Loader, optimiser: torch.optim.Optimizer) -> torch.Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch, labels in batches.read_labelled(loader, network, network.num_classes):
        losses = [cross_entropy(logits, labels) for logits in network(batch.inputs)]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach().double().cpu() * batch.size
        count += batch.size
    return total / count
