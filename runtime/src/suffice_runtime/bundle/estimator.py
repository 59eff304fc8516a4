"""Estimator of a bundle as its manifest describes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from suffice_runtime.bundle.entries import Entries
from suffice_runtime.bundle.graphs import BATCH, GraphFile, Tensor

OUTPUT = "output"
"""Name of the model's output; if that is a nest, the names of its arrays are this, a dot and the place."""

FIELDS = ("variation", "clipped", "distance")
"""Names of the other outputs of the graph, (N,) each."""


@dataclass(frozen=True)
class EstimatorFile:
    """Estimator of the variation of a model's output.

    Attributes:
        graph: Graph of the model and its estimator.
        target: Name of the spread that is estimated.
        teacher: Name of the class of what measured the spreads of fitting; None if it is not known.
        r_squared: Noise-corrected R² on held-out data; NaN if it is not known.
    """

    graph: GraphFile
    target: str
    teacher: str | None
    r_squared: float

    @classmethod
    def from_entries(cls, entries: Entries, inputs: Sequence[Tensor]) -> "EstimatorFile":
        """Read the estimator of a manifest, for a network with some inputs.

        Raises:
            ValueError: If an entry is missing or wrong, or the graph does not take these inputs.
        """
        graph = GraphFile.from_entries(entries, "estimator.onnx")
        if graph.inputs != tuple(inputs):
            raise entries.refuse("inputs", f"as {[str(tensor) for tensor in inputs]}", [*map(str, graph.inputs)])
        outputs = {tensor.name: tensor for tensor in graph.outputs}
        for name in FIELDS:
            if name not in outputs or outputs[name].shape != (BATCH,):
                raise entries.refuse("outputs", f"with {name!r} of shape ({BATCH},)", [*map(str, graph.outputs)])
        if not any(name == OUTPUT or name.startswith(f"{OUTPUT}.") for name in outputs):
            raise entries.refuse("outputs", f"with {OUTPUT!r}", [*map(str, graph.outputs)])
        quality = entries.inner("quality")
        return cls(
            graph,
            entries.text("target"),
            None if entries.none("teacher") else entries.inner("teacher").text("name"),
            math.nan if quality.none("r_squared") else quality.number("r_squared"),
        )
