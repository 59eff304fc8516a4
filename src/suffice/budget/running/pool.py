"""Rows in flight of several batches that wait before one stage.

Only rows with the same shapes, types and plain values can run as one batch (`suffice.network.signature`). Rows of
inputs that differ in length or size wait in groups of their own, unless an earlier stage has made them alike.
"""

from collections.abc import Hashable

import torch

from suffice.budget import walk
from suffice.budget.walk import InFlight
from suffice.network import signature


class Pool:
    """Groups of rows that can be joined, each in the order in which its rows were added."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, list[InFlight]] = {}

    def add(self, rows: InFlight) -> None:
        """Add rows to the group of those like them."""
        self._groups.setdefault(signature(rows.state), []).append(rows)

    def take_full(self, size: int) -> InFlight | None:
        """Remove and return the first `size` rows of a group that has as many, or None if there is no such group."""
        for key, parts in self._groups.items():
            if sum(map(len, parts)) >= size:
                return self._take(key, size)
        return None

    def take_due(self, size: int, before: int) -> InFlight | None:
        """Remove and return rows of a group with a position below `before`, or None if there is no such group.

        They are the first `size` rows of the group, or all if there are fewer.
        """
        for key, parts in self._groups.items():
            if any(int(part.positions.min()) < before for part in parts):
                return self._take(key, size)
        return None

    def _take(self, key: Hashable, size: int) -> InFlight:
        rows = walk.join_rows(self._groups.pop(key))
        if len(rows) <= size:
            return rows
        index = torch.arange(len(rows), device=rows.positions.device)
        self._groups[key] = [rows.take(index[size:])]
        return rows.take(index[:size])
