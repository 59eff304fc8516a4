"""Splits of map-style PyTorch datasets, with the same methods as the library's own splits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from suffice.data.splits import assignment, order
from suffice.data.splits.assignment import TEST, TRAIN, VALIDATION, DataSet, Size
from suffice.data.store.dataset import Array


@dataclass(frozen=True)
class Examples:
    """Split of a map-style dataset; items are collated as in `DataLoader`.

    Attributes:
        dataset: Dataset of pairs (x, y), or of mappings with a key "labels".
        rows: Indices of the items of the split.
        workers: Number of processes that load items; 0: this process.
        training: Whether the split is for training, so that `batches` are in random order by default.
    """

    dataset: Dataset[Any]
    rows: Sequence[int]
    workers: int = 0
    training: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Examples({len(self):,} of {type(self.dataset).__name__}, workers={self.workers})"

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.rows)

    def batches(self, size: int = 256, *, shuffle: bool | None = None) -> Iterable[Any]:
        """Return batches; they can be iterated repeatedly.

        Args:
            size: Examples in a batch; the last batch may be smaller.
            shuffle: Return one fixed random order instead of the stored one, which is that of `rows`; None: for a
                training split only.
        """
        shuffle = self.training if shuffle is None else shuffle
        rows = [self.rows[position] for position in order.positions(len(self), shuffle).tolist()]
        return DataLoader(Subset(self.dataset, rows), batch_size=size, num_workers=self.workers)

    def shuffled(self, size: int, *, generator: torch.Generator) -> Iterable[Any]:
        """Return batches in a new random order in each epoch."""
        subset = Subset(self.dataset, self.rows)
        return DataLoader(subset, batch_size=size, shuffle=True, generator=generator, num_workers=self.workers)


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    labels: Tensor | Array | Sequence[Any] | None = None,
    validation: Size = 0.1,
    test_size: Size | None = None,
    seed: int = 0,
    workers: int = 0,
) -> DataSet[Examples]:
    """Split map-style datasets into train, validation and test.

    Args:
        train: Dataset of the training and validation examples and, if `test` is None, of the test examples.
        test: Dataset of the test examples.
        labels: Classes (N,) of `train`, numbers or text, to stratify the splits by; None: not stratified.
        validation: Size of the validation split, a number (int) or fraction (float) of `train`.
        test_size: Size of the test split, likewise (default: 0.1); None if `test` is given.
        seed: Seed of the split.
        workers: Number of processes that load items; 0: this process.

    Raises:
        ValueError: If no examples are left for training, both `test` and `test_size` are given, or the labels are not
            one class for each example.

    Example:
        >>> import suffice
        >>> import torch
        >>> x, y = torch.randn(100, 3), torch.arange(100) % 2
        >>> dataset = torch.utils.data.TensorDataset(x, y)
        >>> data = suffice.data.from_torch(dataset, labels=y, validation=20, test_size=10)
        >>> len(data.train), len(data.validation), len(data.test)
        (70, 20, 10)
        >>> x, y = next(iter(data.test.batches(10)))
        >>> x.shape, y.sum()
        (torch.Size([10, 3]), tensor(5))
    """
    if test is not None and test_size is not None:
        raise ValueError(f"expected test_size=None with a test dataset, got {test_size}; leave one of them out")
    held_out = 0 if test is not None else 0.1 if test_size is None else test_size
    count = len(train)  # type: ignore[arg-type]
    classes = None if labels is None else _classes(labels, count)
    split = assignment.random_split(classes, count, validation, held_out, seed)

    def select(which: int) -> Examples:
        return Examples(train, np.flatnonzero(split == which).tolist(), workers, training=which == TRAIN)

    tested = select(TEST) if test is None else Examples(test, range(len(test)), workers)  # type: ignore[arg-type]
    return DataSet("torch", select(TRAIN), select(VALIDATION), tested, (), assignment.fingerprint(split))


def _classes(labels: Tensor | Array | Sequence[Any], count: int) -> Array:
    """Return labels as an array (N,), or raise a ValueError unless each of `count` examples has one."""
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,):
        raise ValueError(f"expected labels of shape ({count},), one for each example, got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"expected a class for each example, got {array[position]} at position {position}")
    if array.dtype.kind == "O":
        raise ValueError(
            f"expected labels of one type, numbers or text, got {sorted({type(v).__name__ for v in array})}"
        )
    return array
