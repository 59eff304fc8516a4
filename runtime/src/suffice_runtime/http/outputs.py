"""Outputs of a model: the columns of its answers by name, which are those of the files of `suffice-runtime run`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime import saving
from suffice_runtime.answer import Answer
from suffice_runtime.bundle.graphs import GraphFile
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import datatype_of, shown
from suffice_runtime.policy import Policy
from suffice_runtime.running import walk
from suffice_runtime.running.network import Network
from suffice_runtime.running.walk import Finished
from suffice_runtime.scheduling.requests import Outcome

Array = NDArray[Any]

ESTIMATED = ("variation", "distance")
"""Outputs of the variation estimator, a graph of its own that is run only if one of them is requested by name."""

CLASS_NAME = "class_name"
"""Output with the name of the most probable class, as a string."""


@dataclass(frozen=True)
class Described:
    """Output of a model.

    Attributes:
        name: Its name.
        datatype: Its datatype in the protocol.
        shape: Its shape, −1 for the number of examples.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def described(manifest: Manifest, policy: Policy, estimates: bool) -> dict[str, Described]:
    """Return the outputs of a model by name.

    Args:
        manifest: Description of its bundle.
        policy: Policy in force, whose rule makes the prediction sets.
        estimates: Whether there is a variation estimator.
    """
    columns = _columns(_no_answer(manifest, policy), manifest)
    columns |= {"late": np.empty(0, dtype=np.bool_), "capped": np.empty(0, dtype=np.bool_)}
    if estimates and manifest.estimator is not None:
        columns |= _no_estimates(manifest.estimator.graph)
    return {
        name: Described(name, datatype_of(column.dtype), (-1, *column.shape[1:])) for name, column in columns.items()
    }


def select(names: list[str] | None, known: Mapping[str, Described]) -> list[str]:
    """Return the names of the outputs to compute: the requested ones, or all but those of the estimator.

    Raises:
        ProtocolError: For a name that is not known.
    """
    if names is None:
        return [name for name in known if name not in ESTIMATED]
    for name in names:
        if name not in known:
            raise ProtocolError(
                f"expected outputs among {', '.join(known)}, got {shown(name)}; see the model's metadata"
            )
    return names


def compute(outcome: Outcome, manifest: Manifest) -> dict[str, Array]:
    """Return the outputs of a request, all of whose examples were answered, without those of the estimator."""
    assert outcome.answer is not None
    return {**_columns(outcome.answer, manifest), "late": outcome.late, "capped": outcome.capped}


def _columns(answer: Answer, manifest: Manifest) -> dict[str, Array]:
    """Return the columns of an answer, with the name of each label if the classes have names."""
    columns = saving.columns(answer)
    if manifest.class_names is not None and answer.prediction.kind == "classification":
        columns[CLASS_NAME] = np.array(manifest.class_names, dtype=object)[answer.label]
    return columns


def _no_answer(manifest: Manifest, policy: Policy) -> Answer:
    """Return the answer of no examples, whose columns have the types and shapes of any."""
    nothing, positions = Network(manifest, ()).no_prediction(), np.empty(0, dtype=np.int64)
    finished = Finished(positions, 0, nothing, (), np.empty(0))
    return walk.in_order([finished], len(manifest.stages), manifest.costs.macs, policy)


def _no_estimates(graph: GraphFile) -> dict[str, Array]:
    """Return the estimates of no examples."""
    return {tensor.name: np.empty(0, dtype=tensor.dtype) for tensor in graph.outputs if tensor.name in ESTIMATED}
