"""Sessions of ONNX Runtime, one for each graph of a bundle, checked against the manifest before the first use."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import printable
from suffice_runtime.bundle.graphs import GraphFile, Tensor
from suffice_runtime.bundle.manifest import NEXT, SCORE, Manifest
from suffice_runtime.prediction import AnyPrediction

Array = NDArray[Any]

_TYPES = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Types of NumPy by the names that ONNX Runtime gives them."""


class Result(NamedTuple):
    """Outputs of a graph for N rows.

    Attributes:
        prediction: Prediction of its exit.
        scores: Scores (N,) of the policy; None at the last exit and without a policy.
        carried: Inputs of the next graph, in its order; none behind the last exit.
    """

    prediction: AnyPrediction
    scores: Array | None
    carried: Sequence[Array]


class Session(Protocol):
    """What runs a graph, such as a session of ONNX Runtime."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]:
        """Return outputs by name, for inputs by name."""


def _run(session: Session, outputs: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
    """Run a graph.

    Raises:
        ValueError: If ONNX Runtime cannot compute it for these inputs.
    """
    try:
        return session.run(outputs, feeds)
    except Exception as error:  # ONNX Runtime has a class of its own for each status
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise ValueError(
            f"expected inputs that the graph can compute, got {printable(shapes, 200)}, for which ONNX Runtime raised: "
            f"{printable(str(error).strip(), 300)}; a number may be out of range, or a text longer than the network "
            "takes"
        ) from error


@dataclass(frozen=True)
class Graph:
    """Stage of the network with its exit, ready to run; may be called from several threads at once.

    Attributes:
        session: Session that runs it.
        kind: Class of the predictions.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs to compute: the fields of the prediction, the score, the next graph's inputs.
        scored: Whether there is a score among them.
    """

    session: Session
    kind: type[AnyPrediction]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scored: bool

    def __call__(self, arrays: Sequence[Array]) -> Result:
        """Run the graph on arrays in the order of its inputs, with one row or more."""
        results = _run(self.session, self.outputs, dict(zip(self.inputs, arrays, strict=True)))
        fields = len(self.kind.names())
        prediction = self.kind(*results[:fields])
        if not self.scored:
            return Result(prediction, None, results[fields:])
        return Result(prediction, results[fields], results[fields + 1 :])


@dataclass(frozen=True)
class EstimatorGraph:
    """Model with its estimator, ready to run; may be called from several threads at once.

    Attributes:
        session: Session that runs it.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs.
    """

    session: Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """Run the graph on arrays in the order of its inputs, with one row or more; return its outputs by name."""
        results = _run(self.session, self.outputs, dict(zip(self.inputs, arrays, strict=True)))
        return dict(zip(self.outputs, results, strict=True))


@dataclass(frozen=True)
class Loader:
    """Loader of the graphs of a bundle.

    Attributes:
        folder: Folder of the bundle.
        manifest: Manifest of the bundle.
        threads: Number of threads on which an operator runs.
        providers: Names of execution providers, the preferred one first.
        check: Whether to compare the files with their checksums.

    Raises:
        ValueError: If a provider is missing.
    """

    folder: Path
    manifest: Manifest
    threads: int
    providers: Sequence[str]
    check: bool

    def __post_init__(self) -> None:
        _check_providers(self.providers)

    def stages(self) -> list[Graph]:
        """Load the graphs of the stages.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, cannot be loaded, or differs from the manifest.
        """
        return as_graphs(self.manifest, [self._open(stage) for stage in self.manifest.stages])

    def estimator(self) -> EstimatorGraph | None:
        """Load the graph of the estimator, if there is one; errors are those of `stages`."""
        entry = self.manifest.estimator
        return None if entry is None else as_estimator(entry.graph, self._open(entry.graph))

    def _open(self, graph: GraphFile) -> onnxruntime.InferenceSession:
        """Load one graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 4  # neither errors, which are raised, nor warnings of the optimizer
        # Stages run one after the other; threads of one that wait busily would slow down the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        payload = read_graph(self.folder, graph, self.check)
        session = _session(payload, graph, self.manifest.opset, options, self.providers)
        _check_tensors(graph, "inputs", graph.inputs, session.get_inputs())
        _check_tensors(graph, "outputs", graph.outputs, session.get_outputs())
        return session


def as_graphs(manifest: Manifest, sessions: Sequence[Session]) -> list[Graph]:
    """Return the graphs of the stages of a bundle that run in some sessions, one for each."""
    kind, graphs = manifest.kind, list[Graph]()
    for k, (stage, session) in enumerate(zip(manifest.stages, sessions, strict=True)):
        assert kind is not None
        later = manifest.stages[k + 1].inputs if k + 1 < len(manifest.stages) else ()
        scored = manifest.policy is not None and k + 1 < len(manifest.stages)
        names = (*kind.names(), *((SCORE,) if scored else ()), *(f"{NEXT}{tensor.name}" for tensor in later))
        graphs.append(Graph(session, kind, tuple(tensor.name for tensor in stage.inputs), names, scored))
    return graphs


def as_estimator(graph: GraphFile, session: Session) -> EstimatorGraph:
    """Return the graph of an estimator that runs in a session."""
    inputs, outputs = (tuple(tensor.name for tensor in tensors) for tensors in (graph.inputs, graph.outputs))
    return EstimatorGraph(session, inputs, outputs)


def _check_providers(providers: Sequence[str]) -> None:
    """Raise an error unless ONNX Runtime has all execution providers."""
    if isinstance(providers, str) or not providers:
        raise TypeError(f"expected providers as a list of names, such as ['CPUExecutionProvider'], got {providers!r}")
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing:
        raise ValueError(
            f"expected execution providers of this ONNX Runtime, {available}, got {missing[0]!r}; install the build of "
            "onnxruntime that has it, such as onnxruntime-gpu"
        )


def read_graph(folder: Path, graph: GraphFile, check: bool = True) -> bytes:
    """Return the bytes of a graph, compared with the manifest if `check`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged.
    """
    file = folder / graph.file
    try:
        payload = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"expected the graph {graph.file} of the bundle at {printable(folder, 200)}, found none; copy the whole "
            "folder, or export again"
        ) from error
    if check and (len(payload) != graph.bytes or hashlib.sha256(payload).hexdigest() != graph.sha256):
        raise ValueError(
            f"expected {graph.file} of {graph.bytes:,} bytes with checksum {printable(graph.sha256[:12])}…, got "
            f"{len(payload):,} bytes with {hashlib.sha256(payload).hexdigest()[:12]}…; the file is damaged or of "
            "another bundle: copy the whole folder again"
        )
    return payload


def _session(
    payload: bytes, graph: GraphFile, opset: int, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Load a graph.

    Raises:
        ValueError: If ONNX Runtime cannot load it.
    """
    try:
        return onnxruntime.InferenceSession(payload, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime has a class of its own for each status
        reason = printable(str(error).strip(), 300)
        raise ValueError(
            f"expected a graph that ONNX Runtime {onnxruntime.__version__} can load, got {graph.file} with operators "
            f"of version {opset}, for which it raised: {reason}; upgrade onnxruntime, or export with an "
            "earlier opset"
        ) from error


def _check_tensors(graph: GraphFile, what: str, stated: Sequence[Tensor], found: Sequence[Any]) -> None:
    """Raise a ValueError unless the inputs or outputs of a graph are those of the manifest."""
    names = [tensor.name for tensor in stated]
    got = [node.name for node in found]
    if (names != got) if what == "inputs" else (set(names) != set(got)):
        raise ValueError(
            f"expected {graph.file} with the {what} {printable(names, 200)} of the manifest, got "
            f"{printable(got, 200)}; export the bundle again"
        )
    nodes: Mapping[str, Any] = {node.name: node for node in found}
    for tensor in stated:
        node = nodes[tensor.name]
        dtype = _TYPES.get(node.type)
        if dtype is None or np.dtype(dtype) != tensor.dtype or not _fits(tensor.shape, node.shape):
            raise ValueError(
                f"expected {tensor} among the {what} of {graph.file}, as in the manifest, got {printable(node.type)} "
                f"({', '.join(map(str, node.shape))}); export the bundle again"
            )


def _fits(stated: Sequence[int | str], found: Sequence[Any]) -> bool:
    """Return whether a shape in a graph, in which sizes may be unknown, agrees with that of the manifest."""
    if len(stated) != len(found):
        return False
    return all(not isinstance(got, int) or got == size for size, got in zip(stated, found, strict=True))
