"""Bundles of programs of torch, and a loop that runs them: what leaves one program is what the next one takes."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffice.network import State
from suffice.utils.nest import dotted_leaves

NEXT = "next."

LOADERS = {
    "torch": lambda path: torch.export.load(path).module(),
    "inductor": lambda path: torch._inductor.aoti_load_package(path),
}
"""Function from a file to a callable, for each format."""


@dataclass(frozen=True)
class ProgramBundle:
    """Folder with programs of torch."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Entries of all programs, that of the estimator last."""
        estimator = self.manifest["estimator"]
        return [*self.manifest["stages"], *([] if estimator is None else [estimator])]

    @cached_property
    def programs(self) -> list[Any]:
        load = LOADERS[self.manifest["graph_format"]]
        return [load(str(self.folder / entry["file"])) for entry in self.entries]

    @torch.inference_mode()
    def call(self, i: int, fed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run a program with inputs by name, and return its outputs by name."""
        entry = self.entries[i]
        results = self.programs[i](*(fed[value["name"]] for value in entry["inputs"]))
        assert isinstance(results, tuple)
        named = dict(zip([value["name"] for value in entry["outputs"]], results, strict=True))
        for value in entry["outputs"]:
            check(value, named[value["name"]])
        return named

    def passes(self, x: State) -> Iterator[dict[str, Tensor]]:
        """Run the programs of the stages one after the other, and yield the outputs of each by name."""
        fed = inputs(x)
        for k in range(len(self.manifest["stages"])):
            results = self.call(k, fed)
            yield results
            fed = {name.removeprefix(NEXT): values for name, values in results.items() if name.startswith(NEXT)}

    def estimate(self, x: State) -> dict[str, Tensor]:
        """Run the program of the estimator."""
        return self.call(-1, inputs(x))


def inputs(x: State) -> dict[str, Tensor]:
    """Return the tensors of a batch by their names."""
    return {name or "input": leaf for name, leaf in dotted_leaves(x) if isinstance(leaf, Tensor)}


def check(value: dict[str, Any], tensor: Tensor) -> None:
    """Check a tensor against its entry in a manifest."""
    assert str(tensor.dtype) == f"torch.{value['dtype']}"
    assert tensor.ndim == len(value["shape"])
    assert all(isinstance(size, str) or size == got for size, got in zip(value["shape"], tensor.shape, strict=True))


def prediction_of(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a program that make up a prediction."""
    return {name: values for name, values in results.items() if not name.startswith(NEXT) and name != "score"}


def members(file: Path) -> dict[str, bytes]:
    """Return the members of a file by name, none of which is compressed."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def occurrences(file: Path, pattern: bytes) -> list[bytes]:
    """Return what in the members of a file matches a pattern."""
    return [found for payload in members(file).values() for found in re.findall(pattern, payload)]
