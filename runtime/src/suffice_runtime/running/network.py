"""Graphs of a bundle with what is needed around them: checked inputs, coins and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from suffice_runtime.answer import Answer
from suffice_runtime.bundle.graphs import Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import EstimatorGraph, Graph
from suffice_runtime.coin import Floats, hash_to_unit, without_padding
from suffice_runtime.estimate import Estimate
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import AnyPrediction
from suffice_runtime.running import inputs, walk
from suffice_runtime.running.inputs import Array
from suffice_runtime.running.walk import Finished, InFlight


@dataclass(frozen=True)
class Network:
    """Manifest and graphs of a bundle, which do not change.

    Attributes:
        manifest: Manifest of the bundle.
        graphs: Graph of each exit.
        estimator: Graph of the estimator, or None.
    """

    manifest: Manifest
    graphs: Sequence[Graph]
    estimator: EstimatorGraph | None = None

    def enter(self, x: Any, *, coin: bool, start: int = 0) -> tuple[InFlight, int | None]:
        """Return the rows of a batch before the first graph, and its number of tokens.

        Args:
            x: Inputs as for `Runner.run`.
            coin: Whether the rows need coins.
            start: Position of the first row.
        """
        arrays = inputs.prepare(x, self.manifest)
        positions = np.arange(start, start + len(arrays[0]))
        return InFlight(arrays, positions, self._coin(arrays) if coin else None), inputs.tokens(arrays, self.manifest)

    def check_finite(self, rows: InFlight) -> None:
        """Raise a ValueError that names the first example before the first graph with NaN or infinity."""
        inputs.check_finite(rows.carried, self.manifest, rows.positions)

    def answer(self, finished: Sequence[Finished], tokens: int | None, policy: Policy) -> Answer:
        """Return the answer of examples with some number of tokens, in the order of their positions."""
        return walk.in_order(finished, len(self.graphs), self.manifest.costs.at(tokens), policy)

    def no_prediction(self) -> AnyPrediction:
        """Return the prediction of no examples."""
        assert self.manifest.kind is not None
        outputs = {tensor.name: tensor for tensor in self.manifest.stages[-1].outputs}
        return self.manifest.kind(*(_no_rows(outputs[name]) for name in self.manifest.kind.names()))

    def estimate(self, x: Any, start: int = 0) -> Estimate:
        """Return the estimate for a batch as `Runner.estimate` does, without its warning.

        Args:
            x: Inputs as for `Runner.run`.
            start: Position of the first row, for messages.
        """
        if self.estimator is None or self.manifest.estimator is None:
            raise ValueError(
                "expected a bundle with a variation estimator, got one without; export with estimator=…, the result of "
                "suffice.fit_variation"
            )
        arrays = inputs.prepare(x, self.manifest)
        if not len(arrays[0]):
            outputs = self.manifest.estimator.graph.outputs
            return Estimate.of({tensor.name: _no_rows(tensor) for tensor in outputs})
        positions = np.arange(start, start + len(arrays[0]))
        inputs.check_finite(arrays, self.manifest, positions)
        results = self.estimator(arrays)
        for name, array in results.items():
            if name != "distance" and array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = (~np.isfinite(array)).reshape(len(array), -1).max(axis=1)
                raise inputs.not_finite(f"the {name!r} of the estimator", bad, positions)
        return Estimate.of(results)

    def _coin(self, arrays: Sequence[Array]) -> Floats:
        """Hash examples to numbers (N,) in [0, 1), which depend neither on padding nor on the order of the inputs."""
        by_name = {tensor.name: array for tensor, array in zip(self.manifest.inputs, arrays, strict=True)}
        names = sorted(by_name)
        leaves = [by_name[name] for name in names]
        if self.manifest.padding is None:
            return hash_to_unit(leaves)
        return hash_to_unit(without_padding(leaves, names.index(self.manifest.padding)))


def _no_rows(tensor: Tensor) -> Array:
    return np.empty((0, *(size if isinstance(size, int) else 0 for size in tensor.shape[1:])), dtype=tensor.dtype)
