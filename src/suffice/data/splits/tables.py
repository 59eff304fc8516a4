"""Tables streamed from Parquet: row groups are read one after another, encoded and shuffled by block.

A batch is a mapping with `numeric` (N, K) float32, `categorical` (N, F) int64 and `labels` (N,); the key of a kind
without columns is absent. Memory holds one block of row groups, independent of the number of rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from suffice.data.splits import categories, order
from suffice.data.splits.assignment import TRAIN
from suffice.data.splits.categories import Hashed, Vocabulary
from suffice.data.store.dataset import Array, StoredParquet

Batch = dict[str, Tensor]

BLOCK = 16
"""Number of row groups that are shuffled together."""


@dataclass(frozen=True)
class Columns:
    """Roles of the columns of a table.

    Attributes:
        labels: Name of the target column.
        numeric: Names of the numeric columns; missing values become 0.
        categorical: Names of the columns of codes, uint32.
        log1p: Names of the numeric columns that are transformed to sign(x)·log(1 + |x|).
        regression: Labels are float32 targets instead of classes.
    """

    labels: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    log1p: tuple[str, ...] = ()
    regression: bool = False

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> "Columns":
        """Return the roles stored as `columns` in a manifest."""
        roles: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in manifest.items()}
        return cls(**roles)


@dataclass(frozen=True)
class TableSplit:
    """Split of a table.

    Attributes:
        file: Parquet file, of a stored data set or by path.
        columns: Roles of the columns.
        encoding: Encoding of the categorical columns.
        split: Split of each row of the file, (rows,) uint8.
        which: Number of this split: 0 train, 1 validation, 2 test.
        refuse: Raise for a category that is not in the vocabulary, instead of encoding it as 0.
    """

    file: Path | StoredParquet
    columns: Columns
    encoding: Hashed | Vocabulary
    split: Array = field(repr=False)
    which: int
    refuse: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        columns = f"{len(self.columns.numeric)} numeric, {len(self.columns.categorical)} categorical"
        return f"TableSplit({len(self):,} of {columns}, labels={self.columns.labels!r})"

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(np.count_nonzero(self.split == self.which))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of indices of each categorical column, which is the size of its embedding."""
        return self.encoding.sizes

    @property
    def labels(self) -> Tensor:
        """Labels (N,), in memory."""
        return _labels([group[self.columns.labels] for group in self._groups([self.columns.labels])], self.columns)

    def batches(
        self, size: int = 1024, *, shuffle: bool | None = None, device: torch.device | str = "cpu"
    ) -> "TableBatches":
        """Return batches; they can be iterated repeatedly.

        Args:
            size: Rows in a batch; the last batch may be smaller.
            shuffle: Return one fixed random order instead of the stored one, which is that of `labels`; None: for a
                training split only.
            device: Device of the batches.
        """
        if shuffle is None:
            shuffle = self.which == TRAIN
        return TableBatches(self, size, torch.device(device), "fixed" if shuffle else None, BLOCK if shuffle else 1)

    def shuffled(
        self, size: int, *, generator: torch.Generator, block: int = BLOCK, device: torch.device | str = "cpu"
    ) -> "TableBatches":
        """Return batches for training: in each epoch, `block` random row groups at a time are shuffled together."""
        return TableBatches(self, size, torch.device(device), generator, block)

    def unknown(self) -> dict[str, int]:
        """Return, for each categorical column, the number of values that are not in the vocabulary."""
        counts = dict.fromkeys(self.columns.categorical, 0)
        for group in replace(self, refuse=False)._groups(list(counts)):
            for field_number, name in enumerate(counts):
                codes, missing = _codes(group[name])
                counts[name] += int(((self.encoding.index(field_number, codes, missing) == 0) & ~missing).sum())
        return counts

    def read(self, groups: Sequence[int]) -> Batch:
        """Return the rows of this split in some row groups, encoded, as one batch."""
        columns = self.columns
        names = [columns.labels, *columns.numeric, *columns.categorical]
        parts = list(self._groups(names, groups))
        batch = {"labels": _labels([part[columns.labels] for part in parts], columns)}
        if columns.numeric:
            numeric = np.stack([_concatenate(parts, name) for name in columns.numeric], axis=1, dtype=np.float32)
            logged = np.isin(columns.numeric, columns.log1p)
            numeric[:, logged] = np.copysign(np.log1p(np.abs(numeric[:, logged])), numeric[:, logged])
            batch["numeric"] = torch.from_numpy(numeric)
        if columns.categorical:
            indices = [self._index(number, parts, name) for number, name in enumerate(columns.categorical)]
            batch["categorical"] = torch.from_numpy(np.stack(indices, axis=1))
        return batch

    def _index(self, number: int, parts: list[dict[str, Any]], name: str) -> Array:
        pairs = [_codes(part[name]) for part in parts]
        codes, missing = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        index = self.encoding.index(number, codes, missing)
        unknown = (index == 0) & ~missing
        if self.refuse and unknown.any():
            raise ValueError(
                f"expected only categories of {name} that occur in the training rows, got {unknown.sum()} others, the "
                f"first with code {codes[unknown][0]}; load with unknown='zero' to encode them as 0"
            )
        return index

    def _groups(self, names: list[str], groups: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the columns of the rows of this split, one row group at a time."""
        with open_parquet(self.file) as file:
            starts = group_starts(file)
            for group in range(file.num_row_groups) if groups is None else groups:
                chosen = self.split[starts[group] : starts[group + 1]] == self.which
                if chosen.any():
                    table = file.read_row_group(group, columns=names)
                    yield {name: (table if chosen.all() else table.filter(chosen))[name] for name in names}


@dataclass(frozen=True)
class TableBatches:
    """Batches of a split of a table.

    Attributes:
        table: The split.
        size: Rows in a batch.
        device: Device of the batches.
        generator: Randomness of the order, new in each pass; "fixed" for the same order in each pass
            (`suffice.data.splits.order`); None: in order.
        block: Number of row groups that are shuffled together.
    """

    table: TableSplit
    size: int
    device: torch.device
    generator: torch.Generator | Literal["fixed"] | None
    block: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.table) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the split once."""
        generator = order.generator() if self.generator == "fixed" else self.generator
        rest: Batch = {}
        for groups in self._blocks(generator):
            block = self.table.read(groups)
            if generator is not None:
                rows = torch.randperm(len(block["labels"]), generator=generator)
                block = {key: value[rows] for key, value in block.items()}
            joined = {key: torch.cat([rest[key], value]) if rest else value for key, value in block.items()}
            whole = len(joined["labels"]) // self.size * self.size
            for start in range(0, whole, self.size):
                yield {key: value[start : start + self.size].to(self.device) for key, value in joined.items()}
            rest = {key: value[whole:] for key, value in joined.items()}
        if rest and len(rest["labels"]):
            yield {key: value.to(self.device) for key, value in rest.items()}

    def _blocks(self, generator: torch.Generator | None) -> list[list[int]]:
        """Return blocks of the row groups that contain rows of the split."""
        with open_parquet(self.table.file) as file:
            starts = group_starts(file)
        in_split = self.table.split == self.table.which
        groups = torch.tensor([g for g in range(len(starts) - 1) if in_split[starts[g] : starts[g + 1]].any()])
        if generator is not None:
            groups = groups[torch.randperm(len(groups), generator=generator)]
        return [chunk.tolist() for chunk in groups.split(self.block)] if len(groups) else []


def learn_vocabulary(table: TableSplit, min_frequency: int) -> Vocabulary:
    """Return the codes of every categorical column that occur at least `min_frequency` times in a split."""

    def blocks(name: str) -> Iterator[Array]:
        for group in table._groups([name]):
            codes, missing = _codes(group[name])
            yield codes[~missing]

    names = table.columns.categorical
    return Vocabulary(tuple(categories.frequent_codes(blocks(name), min_frequency) for name in names))


def open_parquet(file: Path | StoredParquet) -> AbstractContextManager[Any]:
    """Return a `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet as pq

    if isinstance(file, StoredParquet):
        return file.open()
    parquet: AbstractContextManager[Any] = pq.ParquetFile(file)
    return parquet


def group_starts(file: Any) -> Array:
    """Return the first row of each row group of an open Parquet file, followed by the number of rows."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _codes(column: Any) -> tuple[Array, Array]:
    """Return codes (N,) uint32, 0 where missing, and the mask (N,) bool of missing values."""
    missing = column.is_null().to_numpy()
    return column.fill_null(0).to_numpy().astype(np.uint32), missing


def _concatenate(parts: list[dict[str, Any]], name: str) -> Array:
    return np.concatenate([part[name].cast("float32", safe=False).fill_null(0).to_numpy() for part in parts])


def _labels(parts: list[Any], columns: Columns) -> Tensor:
    """Return the labels (N,) of row groups.

    Raises:
        ValueError: If labels are missing or not numbers, which an import excludes.
    """
    kind = np.float32 if columns.regression else np.int64
    if any(part.null_count for part in parts):
        raise ValueError(
            f"expected a label in each row of {columns.labels!r}, found missing ones; import the set again"
        )
    labels = np.concatenate([part.to_numpy() for part in parts] or [np.empty(0, kind)])
    if not np.isfinite(labels).all() or not (columns.regression or (labels >= 0).all()):
        raise ValueError(f"expected labels that are numbers in {columns.labels!r}, got others; import the set again")
    return torch.from_numpy(labels.astype(kind))
