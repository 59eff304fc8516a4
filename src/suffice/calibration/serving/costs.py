"""Multiply-adds of a network for inputs of any shape, counted once for each shape.

They depend on the shapes in an input and not on its values: an image of twice the size or a text of twice the length
costs more, and all texts that are padded to the same length cost the same. A network whose work depends on values too
is found where two examples differ, and a warning says so.
"""

import warnings
from collections.abc import Hashable
from typing import Any

import torch

from suffice import cost
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, batch_size, select, signature

MOST_SHAPES = 4096
"""Number of shapes whose costs are kept, after which all are forgotten."""


class CostsByShape:
    """Costs of a network by the signature of its input (`suffice.network.signature`), for any number of threads.

    Args:
        network: Network, in which multiply-adds are counted.
        costs: Costs with uncertainty, which is the same for every shape as features have one width. If they are fixed,
            they are those of every input.
    """

    def __init__(self, network: ExitNetwork, costs: Costs) -> None:
        self._network, self._costs = network, costs
        self._counted: dict[Hashable, Costs] = {}

    def of(self, x: State) -> Costs:
        """Return the costs of an input like those in batch x, counted for the first of them if its shape is new.

        Raises:
            RuntimeError: If the network fails for a single example.

        Warns:
            UserWarning: If the first and the last example of the batch differ in their multiply-adds.
        """
        if self._costs.fixed or not batch_size(x):
            return self._costs
        key = signature(x)
        return self._counted.get(key) or self._count(key, x)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which counts anew."""
        return {**vars(self), "_counted": {}}

    def _count(self, key: Hashable, x: State) -> Costs:
        try:
            counted = cost.count(self._network, x)
            other = cost.count(self._network, select(x, torch.tensor([batch_size(x) - 1])))
        except Exception as error:  # a network of the user may raise anything
            raise RuntimeError(
                f"expected to count the multiply-adds of one example by itself, got {type(error).__name__}: {error}; "
                "pass costs=… to suffice.calibrate for costs that hold for all inputs"
            ) from error
        if other != counted:
            warnings.warn(
                f"expected equal multiply-adds for two examples of one shape, got {counted.network[-1]:,} and "
                f"{other.network[-1]:,}: the work depends on the values of the inputs, as with packed sequences; costs "
                "and budgets take those of the first example of each shape",
                stacklevel=2,
            )
        if len(self._counted) >= MOST_SHAPES:
            self._counted.clear()
        self._counted[key] = costs = counted.with_uncertainty(self._costs.uncertainty)
        return costs
