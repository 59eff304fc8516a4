"""Graphs of a runner that are watched, or that fail for one example."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Watched:
    graph: object
    k: int
    sizes: list

    def __call__(self, arrays):
        self.sizes.append((self.k, len(arrays[0])))
        return self.graph(arrays)


@dataclass(frozen=True)
class Poisoned:
    """Graph that returns NaN, or raises if `what` is "failure", where its first array has a row close to `row`."""

    graph: object
    row: np.ndarray
    what: str

    def __call__(self, arrays):
        result, bad = self.graph(arrays), np.isclose(arrays[0], self.row, atol=1e-5).all(axis=1)
        if self.what == "failure" and bad.any():
            raise ArithmeticError("a graph that fails for this example")
        if self.what == "scores":
            return result._replace(scores=np.where(bad, np.nan, result.scores))
        first, *others = (getattr(result.prediction, name) for name in result.prediction.names())
        return result._replace(prediction=type(result.prediction)(np.where(bad[:, None], np.nan, first), *others))


def watch(runner):
    """Return a list to which every run of a graph appends (stage, number of rows)."""
    sizes = []
    graphs = [Watched(graph, k, sizes) for k, graph in enumerate(runner._network.graphs)]
    runner._network = replace(runner._network, graphs=graphs)
    return sizes


def poison(runner, row, k, what="predictions"):
    """Let graph k fail for one example, whose first array before this graph is `row`."""
    graphs = list(runner._network.graphs)
    graphs[k] = Poisoned(graphs[k], row, what)
    runner._network = replace(runner._network, graphs=graphs)
