"""Graph before it is traced: a module from tensors to tensors, and its inputs and outputs by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import EXAMPLES, Value, tensors_of
from suffice.network import State

Tensors = Mapping[str, Tensor]
"""Tensors by name, in order."""


class GraphModule(nn.Module):
    """Base class of modules from tensors to tensors in evaluation mode, which note what they return.

    Attributes:
        names: Names of the outputs in the last pass.
    """

    def __init__(self, before: Template) -> None:
        super().__init__()
        self._after, self.names = before, list[str]()
        self.training = False

    def note(self, after: State, results: Tensors) -> tuple[Tensor, ...]:
        """Note the nest behind the module and the names of the outputs, and return the outputs."""
        self._after, self.names = Template.of(after), list(results)
        return tuple(results.values())

    @torch.no_grad()
    def run_twice(self, before: "Probe", where: str) -> tuple[Template, Tensors, Tensors]:
        """Return the nest behind the module, without its tensors, and the outputs of two passes by name.

        Args:
            before: Values before the module.
            where: What is behind it, for messages.

        Raises:
            ValueError: If the nest behind it depends on the inputs.
        """
        first = self(*before.first.values())
        after, names = self._after, self.names
        second = self(*before.second.values())
        joined = after.joined(self._after, where)
        return joined, dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))


@dataclass(frozen=True)
class Probe:
    """Values before a graph in two passes, which have different numbers of examples and of tokens.

    Attributes:
        template: Nest of the state, without its tensors.
        first: Tensors of the first pass: those of the state, of the ensemble and of the streak.
        second: Tensors of the second pass.
        sizes: Sizes of the named axes in both passes.
    """

    template: Template
    first: Tensors
    second: Tensors
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def of_inputs(
        cls, names: Sequence[str], first: State, second: State, sizes: Mapping[str, tuple[int, int]]
    ) -> "Probe":
        """Return the inputs of a network."""
        by_name = [dict(zip(names, tensors_of(x), strict=True)) for x in (first, second)]
        return cls(Template.of(first), by_name[0], by_name[1], sizes)

    @property
    def values(self) -> list[Value]:
        """Names, types and shapes of the tensors."""
        return self.values_of(self.first, self.second)

    @property
    def running(self) -> int:
        """Number of tensors of the ensemble."""
        return sum(name.startswith("running.") for name in self.first)

    def values_of(self, first: Tensors, second: Tensors) -> list[Value]:
        """Return the names, types and shapes of what two passes return for these values.

        Raises:
            ValueError: If a tensor has not one row for each example.
        """
        values = [Value.between(name, first[name], second[name], self.sizes) for name in first]
        assert all(value.shape[0] == EXAMPLES for value in values)
        return values


@dataclass(frozen=True)
class Graph:
    """Graph that is ready to be traced.

    Attributes:
        what: Name in messages, such as "stage 0".
        file: Name of its file, without the suffix, which follows from the format.
        module: Module from tensors to tensors.
        before: Values before it.
        outputs: Names, types and shapes of its outputs.
        after: Nest behind the module, without its tensors.
    """

    what: str
    file: str
    module: GraphModule
    before: Probe
    outputs: list[Value]
    after: Template
