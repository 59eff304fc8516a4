"""Loop over the stages of a network with exits, written by hand on LitServe's continuous batching: the strong peer.

Each step runs the latest stage that a full batch waits before, or the one that most examples wait before, until an
example stops. Two habits of LitServe's loop that cost it time are mended: a step without an answer, after which it
sleeps for 10 ms, never happens, and it does not spin while nothing waits.
"""

import argparse
import asyncio
import base64
import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from graphs import Stages  # the folder of this script is on the path
from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus

IDLE = 5e-4
"""Seconds of sleep while nothing waits."""

_BATCHES = 4
"""Batches of examples that are in work at once."""


class Loop(ContinuousBatchingLoop):
    """Continuous batching of LitServe that sleeps while nothing waits."""

    async def run(self, lit_api: litserve.LitAPI, *more: Any, **named: Any) -> None:  # type: ignore[override]
        """Answer what waits, or sleep."""
        if not lit_api.has_active_requests():
            await asyncio.sleep(IDLE)
            return
        await super().run(lit_api, *more, **named)


class Network(litserve.LitAPI):
    """Network with exits.

    Args:
        folder: Bundle.
        more: Settings of LitServe.
    """

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(**more)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Open the graphs."""
        self._network = Stages(self._folder)
        self._waiting = [deque[tuple[str, list[np.ndarray]]]() for _ in range(self._network.count)]
        self._lock, self._active = threading.Lock(), 0

    def add_request(self, uid: str, request: Any) -> None:
        """Add an example before the first stage."""
        x = np.frombuffer(base64.b64decode(request["x"]), dtype=np.float32).reshape(1, *self._network.shape)
        with self._lock:
            self._waiting[0].append((uid, [x]))
            self._active += 1

    def has_active_requests(self) -> bool:
        """Return whether examples are in work."""
        return self._active > 0

    def has_capacity(self) -> bool:
        """Return whether there is room for an example."""
        return self._active < _BATCHES * self.max_batch_size

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Return a request as it came."""
        return request

    def step(self, _: Any) -> list[Output]:
        """Run stages until an example stops."""
        answers = list[Output]()
        while not answers:
            answers = self._run(self._next())
        with self._lock:
            self._active -= len(answers)
        return answers + [Output(answer.uid, None, LitAPIStatus.FINISH_STREAMING) for answer in answers]

    def encode_response(self, output: tuple[int, float, int] | None):  # type: ignore[no-untyped-def]
        """Return the body of one answer; nothing for its end."""
        return "" if output is None else json.dumps(dict(zip(("label", "confidence", "exit"), output, strict=True)))

    def _next(self) -> int:
        """Return the stage to run."""
        counts = [len(waiting) for waiting in self._waiting]
        full = [k for k, count in enumerate(counts) if count >= self.max_batch_size]
        return full[-1] if full else max(range(len(counts)), key=lambda k: (counts[k], k))

    def _run(self, k: int) -> list[Output]:
        """Run stage k on a batch, and return the answers of the examples that stop."""
        with self._lock:
            count = min(self.max_batch_size, len(self._waiting[k]))
            taken = [self._waiting[k].popleft() for _ in range(count)]
        columns = zip(*(carried for _, carried in taken), strict=True)
        stops, label, confidence, carried = self._network(k, [np.concatenate(column) for column in columns])
        answers = list[Output]()
        for i, (uid, _) in enumerate(taken):
            if stops[i]:
                found = int(label[i]), float(confidence[i]), k
                answers.append(Output(uid, found, LitAPIStatus.OK))
                continue
            self._waiting[k + 1].append((uid, [array[i : i + 1] for array in carried]))
        return answers


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=32)
    choices = parser.parse_args()
    network = Network(choices.bundle, max_batch_size=choices.max_batch, stream=True, loop=Loop())
    server = litserve.LitServer(network, accelerator="cpu", timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=choices.port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
