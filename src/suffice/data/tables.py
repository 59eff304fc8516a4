"""Tables streamed from StoredParquet: row groups read one after another, encoded, shuffled by block.

A batch is a mapping: `numeric` (N, K) float32, `categorical` (N, F) int64 and `labels` (N,); a table without
columns of a kind yields no such key. Memory holds one block of row groups, whatever the number of rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.data import categories
from suffice.data.categories import Hashed, Vocabulary
from suffice.data.store.dataset import Array, StoredParquet

Batch = dict[str, Tensor]

BLOCK = 16
"""Row groups that are shuffled together."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are for.

    Attributes:
        labels: the column to be predicted.
        numeric: columns of numbers; missing ones are 0.
        categorical: columns of codes, uint32.
        log1p: those numeric columns that are yielded as sign(x)·log(1 + |x|).
        regression: labels are float32 as they are, and not classes.
    """

    labels: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    log1p: tuple[str, ...] = ()
    regression: bool = False

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> "Columns":
        """From a manifest."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in manifest.items()}
        return cls(**values)


@dataclass(frozen=True)
class TableSplit:
    """A split of a table.

    Attributes:
        file: StoredParquet, of a stored set or by itself.
        columns: what they are for.
        encoding: of the categories.
        split: (rows of the file,) uint8, the split of each row.
        which: the split that this is.
        refuse: raise an error for a category that is not in the vocabulary, instead of giving it index 0.
    """

    file: Path | StoredParquet
    columns: Columns
    encoding: Hashed | Vocabulary
    split: Array = field(repr=False)
    which: int
    refuse: bool = False

    def __repr__(self) -> str:
        """One line."""
        columns = f"{len(self.columns.numeric)} numeric, {len(self.columns.categorical)} categorical"
        return f"TableSplit({len(self):,} of {columns}, labels={self.columns.labels!r})"

    def __len__(self) -> int:
        """Number of rows."""
        return int(np.count_nonzero(self.split == self.which))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Indices of each categorical column: the rows that its embedding needs."""
        return self.encoding.sizes

    @property
    def labels(self) -> Tensor:
        """All labels (N,), in memory."""
        return _labels([group[self.columns.labels] for group in self._groups([self.columns.labels])], self.columns)

    def batches(self, size: int = 1024, *, device: torch.device | str = "cpu") -> "TableBatches":
        """Batches in order."""
        return TableBatches(self, size, torch.device(device), None, 1)

    def shuffled(
        self, size: int, *, generator: torch.Generator, block: int = BLOCK, device: torch.device | str = "cpu"
    ) -> "TableBatches":
        """Batches for training: `block` row groups drawn at random are shuffled together, another way each pass."""
        return TableBatches(self, size, torch.device(device), generator, block)

    def unknown(self) -> dict[str, int]:
        """How many values of each categorical column are in the table, but not in the vocabulary."""
        counts = dict.fromkeys(self.columns.categorical, 0)
        for group in replace(self, refuse=False)._groups(list(counts)):
            for place, name in enumerate(counts):
                codes, missing = _codes(group[name])
                counts[name] += int(((self.encoding.index(place, codes, missing) == 0) & ~missing).sum())
        return counts

    def read(self, groups: Sequence[int]) -> Batch:
        """Row groups together, encoded; the rows of this split."""
        columns = self.columns
        names = [columns.labels, *columns.numeric, *columns.categorical]
        parts = list(self._groups(names, groups))
        batch = {"labels": _labels([part[columns.labels] for part in parts], columns)}
        if columns.numeric:
            numeric = np.stack([_joined(parts, name) for name in columns.numeric], axis=1, dtype=np.float32)
            logged = np.isin(columns.numeric, columns.log1p)
            numeric[:, logged] = np.copysign(np.log1p(np.abs(numeric[:, logged])), numeric[:, logged])
            batch["numeric"] = torch.from_numpy(numeric)
        if columns.categorical:
            indices = [self._index(place, parts, name) for place, name in enumerate(columns.categorical)]
            batch["categorical"] = torch.from_numpy(np.stack(indices, axis=1))
        return batch

    def _index(self, place: int, parts: list[dict[str, Any]], name: str) -> Array:
        pairs = [_codes(part[name]) for part in parts]
        codes, missing = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        index = self.encoding.index(place, codes, missing)
        unknown = (index == 0) & ~missing
        if self.refuse and unknown.any():
            raise ValueError(
                f"expected only categories of {name} that were seen in training, got {unknown.sum()} others, the "
                f"first with code {codes[unknown][0]}; load with unknown='zero' to give them index 0"
            )
        return index

    def _groups(self, names: list[str], groups: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Columns of the rows of this split, a row group at a time."""
        with open_parquet(self.file) as file:
            starts = group_starts(file)
            for group in range(file.num_row_groups) if groups is None else groups:
                chosen = self.split[starts[group] : starts[group + 1]] == self.which
                if chosen.any():
                    table = file.read_row_group(group, columns=names)
                    yield {name: (table if chosen.all() else table.filter(chosen))[name] for name in names}


@dataclass(frozen=True)
class TableBatches:
    """A split of a table, in order or, with a generator, shuffled by block."""

    table: TableSplit
    size: int
    device: torch.device
    generator: torch.Generator | None
    block: int

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.table) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""
        left: Batch = {}
        for groups in self._order():
            block = self.table.read(groups)
            if self.generator is not None:
                order = torch.randperm(len(block["labels"]), generator=self.generator)
                block = {key: value[order] for key, value in block.items()}
            joined = {key: torch.cat([left[key], value]) if left else value for key, value in block.items()}
            whole = len(joined["labels"]) // self.size * self.size
            for start in range(0, whole, self.size):
                yield {key: value[start : start + self.size].to(self.device) for key, value in joined.items()}
            left = {key: value[whole:] for key, value in joined.items()}
        if left and len(left["labels"]):
            yield {key: value.to(self.device) for key, value in left.items()}

    def _order(self) -> list[list[int]]:
        """Blocks of row groups that hold rows of the split."""
        with open_parquet(self.table.file) as file:
            starts = group_starts(file)
        mine = self.table.split == self.table.which
        groups = torch.tensor([g for g in range(len(starts) - 1) if mine[starts[g] : starts[g + 1]].any()])
        if self.generator is not None:
            groups = groups[torch.randperm(len(groups), generator=self.generator)]
        return [chunk.tolist() for chunk in groups.split(self.block)] if len(groups) else []


def learn_vocabulary(table: TableSplit, least: int) -> Vocabulary:
    """The codes that occur at least `least` times in the rows of a table, for each categorical column."""

    def blocks(name: str) -> Iterator[Array]:
        for group in table._groups([name]):
            codes, missing = _codes(group[name])
            yield codes[~missing]

    return Vocabulary(tuple(categories.frequent_codes(blocks(name), least) for name in table.columns.categorical))


def open_parquet(file: Path | StoredParquet) -> AbstractContextManager[Any]:
    """A `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet as pq

    if isinstance(file, StoredParquet):
        return file.open()
    alone: AbstractContextManager[Any] = pq.ParquetFile(file)
    return alone


def group_starts(file: Any) -> Array:
    """First row of each row group of an open StoredParquet file, and the number of rows."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _codes(column: Any) -> tuple[Array, Array]:
    """Codes (N,) uint32, 0 where missing, and where that is (N,) bool."""
    missing = column.is_null().to_numpy()
    return column.fill_null(0).to_numpy().astype(np.uint32), missing


def _joined(parts: list[dict[str, Any]], name: str) -> Array:
    return np.concatenate([part[name].cast("float32", safe=False).fill_null(0).to_numpy() for part in parts])


def _labels(parts: list[Any], columns: Columns) -> Tensor:
    """Labels (N,) of row groups.

    Raises:
        ValueError: if some are missing or no numbers: tables are imported without such.
    """
    kind = np.float32 if columns.regression else np.int64
    if any(part.null_count for part in parts):
        raise ValueError(f"expected a label in each row as {columns.labels!r}, found rows without; import it again")
    found = np.concatenate([part.to_numpy() for part in parts] or [np.empty(0, kind)])
    if not np.isfinite(found).all() or not (columns.regression or (found >= 0).all()):
        raise ValueError(f"expected labels that are numbers in {columns.labels!r}, got others; import the set again")
    return torch.from_numpy(found.astype(kind))
