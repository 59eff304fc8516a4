"""Clients of the servers: `tritonclient` for the Open Inference Protocol, and its twin for plain JSON.

Both send float32 as bytes: behind the JSON, or as base64 within it, which is the cheapest way of plain JSON by far.
They ask for label, confidence and exit of each example. What can be prepared before a request is prepared.
"""

import base64
import json
from typing import Any, Protocol

import aiohttp
import numpy as np
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

MODEL, INPUT, OUTPUTS = "net", "input", ("label", "confidence", "exit")

_MANY = 1 << 16
"""Connections of a client, more than there ever are."""

_BUSY = (429, 503)

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Label, confidence and exit (rows,) of the examples of a request."""


class RefusedError(Exception):
    """A server had no room for a request."""


class Client(Protocol):
    """Client of one server."""

    async def infer(self, rows: np.ndarray) -> Found:
        """Return the answer for some examples.

        Raises:
            RefusedError: If the server has no room.
        """


class TritonClient:
    """Client of the Open Inference Protocol.

    Args:
        port: Port of the server.
        x: Examples.
    """

    def __init__(self, port: int, x: np.ndarray) -> None:
        self._client = aio.InferenceServerClient(f"127.0.0.1:{port}", conn_limit=_MANY)
        self._x, self._inputs = x, dict[bytes, list[aio.InferInput]]()
        self._outputs = [aio.InferRequestedOutput(name, binary_data=True) for name in OUTPUTS]

    async def __aenter__(self) -> "TritonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def infer(self, rows: np.ndarray) -> Found:
        """Return the answer for some examples."""
        key = rows.tobytes()
        if key not in self._inputs:
            tensor = aio.InferInput(INPUT, [len(rows), *self._x.shape[1:]], "FP32")
            tensor.set_data_from_numpy(self._x[rows], binary_data=True)
            self._inputs[key] = [tensor]
        try:
            result = await self._client.infer(MODEL, self._inputs[key], outputs=self._outputs)
        except InferenceServerException as error:
            if error.status() in map(str, _BUSY):
                raise RefusedError from error
            raise
        label, confidence, exit_ = (result.as_numpy(name) for name in OUTPUTS)
        return label.reshape(-1), confidence.reshape(-1), exit_.reshape(-1)


class JsonClient:
    """Client of plain JSON: one example a request, `{"x": base64}`.

    Args:
        port: Port of the server.
        x: Examples.
    """

    def __init__(self, port: int, x: np.ndarray) -> None:
        self._url, self._x, self._bodies = f"http://127.0.0.1:{port}/predict", x, dict[int, bytes]()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_MANY),
            headers={"content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=600),
        )

    async def __aenter__(self) -> "JsonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def infer(self, rows: np.ndarray) -> Found:
        """Return the answer for one example."""
        (row,) = rows.tolist()
        if row not in self._bodies:
            self._bodies[row] = json.dumps({"x": base64.b64encode(self._x[row].tobytes()).decode()}).encode()
        async with self._session.post(self._url, data=self._bodies[row]) as response:
            payload = await response.read()
            if response.status in _BUSY:
                raise RefusedError
            response.raise_for_status()
        found = json.loads(payload)
        return tuple(np.array([found[name]]) for name in OUTPUTS)  # type: ignore[return-value]


CLIENTS: dict[str, Any] = {"open inference": TritonClient, "json": JsonClient}
"""Clients by protocol."""
