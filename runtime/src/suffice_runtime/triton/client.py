"""Runner of a bundle whose graphs run on Triton Inference Server, or on any server of the Open Inference Protocol.

The client decides after each graph which examples leave, and sends the others to the model of the next one.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle import manifest
from suffice_runtime.bundle.graphs import GraphFile
from suffice_runtime.bundle.sessions import as_estimator, as_graphs
from suffice_runtime.runner import Runner
from suffice_runtime.running.network import Network
from suffice_runtime.triton.repository import TYPES, models

Array = NDArray[Any]


class TritonRunner(Runner):
    """Network whose graphs run on a server, with the calls and the answers of `Runner`.

    Each thread has a connection of its own. Needs the package tritonclient[http].

    Args:
        url: Host and port of the server's HTTP endpoint, such as "localhost:8000".
        folder: Folder with the manifest: the bundle, or that of its first model in the repository.
        name: Name that the bundle has in the repository.
        connect: Function from the address to a client; `tritonclient.http.InferenceServerClient` by default.

    Raises:
        FileNotFoundError: If the folder has no manifest.
        ImportError: If tritonclient is not installed.
        ValueError: If the manifest is damaged or of a newer format.

    Example:
        >>> from suffice_runtime.triton.client import TritonRunner
        >>> runner = TritonRunner("localhost:8000", "models/digits-stage-0", "digits")  # doctest: +SKIP
        >>> answer = runner.run(images)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        folder: str | os.PathLike[str],
        name: str,
        connect: Callable[[str], Any] | None = None,
    ) -> None:
        try:
            from tritonclient import http
        except ImportError as error:
            raise ImportError(
                "expected the package tritonclient, found none; pip install 'suffice-runtime[triton]'"
            ) from error
        self.manifest = manifest.read(Path(folder))
        connections = _Connections(url, connect or http.InferenceServerClient)
        stages, estimator = models(name, self.manifest)
        graphs = as_graphs(self.manifest, [_Model(connections, *model, http) for model in stages.items()])
        estimators = [as_estimator(graph, _Model(connections, key, graph, http)) for key, graph in estimator.items()]
        self._network = Network(self.manifest, graphs, estimators[0] if estimators else None)


class _Connections(threading.local):
    """Client of each thread, since those of tritonclient are for a single one."""

    def __init__(self, url: str, connect: Callable[[str], Any]) -> None:
        self.client = connect(url)  # runs again in each thread


class _Model:
    """Model on a server, which runs like a session of ONNX Runtime.

    Args:
        connections: Clients.
        name: Name of the model.
        graph: Its graph in the manifest.
        api: Module of tritonclient with the classes of requests.
    """

    def __init__(self, connections: _Connections, name: str, graph: GraphFile, api: Any) -> None:
        self._connections, self._name, self._api = connections, name, api
        self._flat = {tensor.name for tensor in graph.outputs if len(tensor.shape) == 1}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return outputs by name, for inputs by name with one row or more."""
        requested = [self._api.InferRequestedOutput(name, binary_data=True) for name in outputs]
        result = self._connections.client.infer(
            self._name, [self._input(name, array) for name, array in feeds.items()], outputs=requested
        )
        found = {name: result.as_numpy(name) for name in outputs}
        return [array[:, 0] if name in self._flat else array for name, array in found.items()]

    def _input(self, name: str, array: Array) -> Any:
        """Return an input of a request; numbers (N,) have the shape (N, 1)."""
        wide = np.ascontiguousarray(array[:, None] if array.ndim == 1 else array)
        given = self._api.InferInput(name, list(wide.shape), TYPES[wide.dtype.name])
        given.set_data_from_numpy(wide, binary_data=True)
        return given
