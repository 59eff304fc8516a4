"""LitServe with dynamic batching, on a network of one graph.

It runs with the queue that LitServe recommends above a hundred requests per second, and takes inputs as base64. Bodies
have no annotations, as LitServe would check them by these.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from graphs import Whole  # the folder of this script is on the path


class Network(litserve.LitAPI):
    """Network of one graph.

    Args:
        folder: Bundle.
        more: Settings of LitServe.
    """

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(**more)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Open the graph."""
        self._network = Whole(self._folder)

    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Return one example."""
        return np.frombuffer(base64.b64decode(request["x"]), dtype=np.float32).reshape(self._network.shape)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the examples together."""
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> list[tuple[int, float]]:
        """Return label and confidence of each example."""
        label, confidence = self._network(x)
        return list(zip(label.tolist(), confidence.tolist(), strict=True))

    def unbatch(self, output: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: tuple[int, float]):  # type: ignore[no-untyped-def]
        """Return the body of one answer."""
        return {"label": output[0], "confidence": output[1], "exit": 0}


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--wait-ms", type=float, default=10)
    choices = parser.parse_args()
    network = Network(choices.bundle, max_batch_size=choices.max_batch, batch_timeout=choices.wait_ms / 1000)
    server = litserve.LitServer(network, accelerator="cpu", timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=choices.port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
