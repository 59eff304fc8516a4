"""Inputs that a traced graph is right for: ranges of ids and numbers of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.export import ExportedProgram

from suffice.deploy.graphs import lengths, ranges
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.lengths import Lengths
from suffice.deploy.graphs.ranges import Ranges


@dataclass(frozen=True)
class Limits:
    """Inputs that a graph is right for, and gives no error for others.

    Attributes:
        ranges: Ranges of the integers in the inputs that have one, by the name of the input.
        lengths: Numbers of tokens.
    """

    ranges: Ranges
    lengths: Lengths = lengths.ANY

    @classmethod
    def of(cls, program: ExportedProgram, graph: Graph) -> "Limits":
        """Return the limits of a traced graph.

        Raises:
            ValueError: If it depends on the number of tokens in another way than by a least and a greatest one.
        """
        return cls(ranges.index_ranges(program, list(graph.before.first)), lengths.admitted(program, graph))

    @classmethod
    def joined(cls, parts: Sequence["Limits"]) -> "Limits":
        """Return the limits by which inputs are right for each of several graphs."""
        return cls(ranges.joined([part.ranges for part in parts]), lengths.shared([part.lengths for part in parts]))
