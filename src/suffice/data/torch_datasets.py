"""PyTorch data sets as they are: cut into splits that have the same verbs as the library's own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from suffice.data import splits
from suffice.data.splits import TEST, TRAIN, VALIDATION, DataSet, Size


@dataclass(frozen=True)
class Examples:
    """A split of a map-style data set; its items are collated as `DataLoader` does.

    Attributes:
        dataset: of pairs (x, y) or mappings with a key "labels".
        rows: which of its items belong to the split.
        workers: processes that fetch items; 0: this one.
    """

    dataset: Dataset[Any]
    rows: Sequence[int]
    workers: int = 0

    def __repr__(self) -> str:
        """One line."""
        return f"Examples({len(self):,} of {type(self.dataset).__name__}, workers={self.workers})"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.rows)

    def batches(self, size: int = 256) -> Iterable[Any]:
        """Batches in order."""
        return DataLoader(Subset(self.dataset, self.rows), batch_size=size, num_workers=self.workers)

    def shuffled(self, size: int, *, generator: torch.Generator) -> Iterable[Any]:
        """Batches in another order at each pass."""
        subset = Subset(self.dataset, self.rows)
        return DataLoader(subset, batch_size=size, shuffle=True, generator=generator, num_workers=self.workers)


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    labels: Tensor | None = None,
    validation: Size = 0.1,
    judged: Size = 0.1,
    seed: int = 0,
    workers: int = 0,
) -> DataSet[Examples]:
    """Splits of map-style data sets.

    Args:
        train: what training and validation examples, and test examples if there is no `test`, are drawn from.
        test: examples for judging.
        labels: (N,) classes of `train`, for splits in their proportions; None: without regard to any.
        validation: how many or which share to hold out for calibration.
        judged: how many or which share to hold out for judging, where there is no `test`.
        seed: of the split.
        workers: processes that fetch items; 0: this one.
    """
    count = len(train)  # type: ignore[arg-type]
    known = None if labels is None else labels.numpy()
    split = splits.random_split(known, count, validation, 0 if test is not None else judged, seed)

    def part(which: int) -> Examples:
        return Examples(train, np.flatnonzero(split == which).tolist(), workers)

    given = part(TEST) if test is None else Examples(test, range(len(test)), workers)  # type: ignore[arg-type]
    return DataSet("torch", part(TRAIN), part(VALIDATION), given, (), splits.fingerprint(split))
