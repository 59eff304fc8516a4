"""Costs of examples at each exit, which differ where their inputs differ in shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.budget import scores as scoring
from suffice.budget.scores import AnyScore
from suffice.calibration.calibrated import Calibrated
from suffice.network import State


def price(calibrated: Calibrated, x: State, score: str | AnyScore) -> tuple[int, ...]:
    """Return the multiply-adds of an example like those in batch x at each of K exits, cumulative, score included."""
    return scoring.priced(calibrated.costs_for(x).cumulative, score)


@dataclass(frozen=True)
class Prices:
    """Costs of N examples at each of K exits, in multiply-adds.

    Attributes:
        table: Costs (S, K) of S groups of examples, float64; the examples of a group cost the same.
        group: Group (N,) of each example, int64, on the CPU.
    """

    table: Tensor
    group: Tensor

    @classmethod
    def of_batches(cls, costs: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> "Prices":
        """Collect the costs (K) of an example in each batch, and the sizes of the batches."""
        rows = {row: group for group, row in enumerate(dict.fromkeys(costs))}
        group = torch.tensor([rows[row] for row in costs]).repeat_interleave(torch.tensor(sizes))
        return cls(torch.tensor(list(rows), dtype=torch.float64), group)

    def mean(self, exit_index: Tensor) -> float:
        """Return the mean cost of the examples if they stop at exits (N,)."""
        groups, exits = self.table.shape
        counts = torch.bincount(self.group * exits + exit_index.cpu(), minlength=groups * exits)
        return float(counts.double() / len(self.group) @ self.table.flatten())

    def per_example(self) -> Tensor:
        """Return the cost (K, N) of each example at each exit, float64."""
        return self.table.T[:, self.group]
