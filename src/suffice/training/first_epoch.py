"""The first epoch of a training: what is measured before its first step, and what is warned of after its last one."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.likelihoods import Name
from suffice.network import ExitNetwork, select
from suffice.training import losses, start
from suffice.training.shuffling import LabelOrder

Examples = Iterator[tuple[Batch, Tensor]]

_MEASURED = 256
"""Number of examples of the first batch that the network is measured on, at most."""


class FirstEpoch:
    """Measurements of a first epoch.

    Args:
        network: Network in training.
        likelihood: Likelihood of its outputs.

    Attributes:
        start: Measurement of the network before its training, after `measure`.
    """

    start: start.Start

    def __init__(self, network: ExitNetwork, likelihood: Name) -> None:
        self._network, self._likelihood = network, likelihood
        self._order = LabelOrder(None if losses.is_numeric(likelihood) else network.num_classes)

    def measure(self, examples: Examples) -> Examples:
        """Read the first batch and measure the network on it; return an iterator over all batches, it included.

        Raises:
            ValueError: If there are no examples, or the first ones are invalid.
        """
        batch, labels = next(examples)
        rows = torch.arange(min(batch.size, _MEASURED))
        self._measured = select(batch.inputs, rows), labels[rows.to(labels.device)]
        self.start = start.measure(self._network, *self._measured, self._likelihood)
        return self._recorded(chain([(batch, labels)], examples))

    def warn(self) -> None:
        """Warn if the network got worse, or if the labels were not in random order."""
        start.warn_if_worse(self._network, self.start, *self._measured, self._likelihood)
        self._order.warn_if_sorted()

    def _recorded(self, examples: Examples) -> Examples:
        for batch, labels in examples:
            self._order.add(labels)
            yield batch, labels
