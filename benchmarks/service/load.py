"""Load generator, a process of its own: requests at times that were drawn beforehand, or a fixed number at once.

An open loop sends each request at its time, whether earlier ones were answered or not, and a latency counts from that
time. So a server that stalls is charged for the requests that came meanwhile, and a generator that is late is charged,
too. `python -m benchmarks.service.load EXAMPLES` reads one JSON object per line, runs that load, writes the answers to
its `out`, and prints one line.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.service.clients import CLIENTS, Client, RefusedError

ANSWERED, REFUSED, FAILED = 0, 1, 2
"""Statuses of requests."""

_NEAR = 2e-3
"""Seconds before a time from which the loop does not sleep, as sleeping is exact to a millisecond only."""


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Draw the times of a Poisson process, in seconds from its start."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(rate * seconds * 1.5) + 50)
    times = gaps.cumsum()
    return times[times < seconds]


class Answers:
    """What became of each of n requests.

    Args:
        n: Number of requests.
        rows: Number of examples of a request.
        first: Position of the example that the first request starts with.
        examples: Number of examples, after which they repeat.
    """

    def __init__(self, n: int, rows: int, first: int, examples: int) -> None:
        self.status = np.full(n, FAILED)
        self.due, self.sent, self.ended = (np.full(n, np.nan) for _ in range(3))
        self.example = (first + np.arange(n * rows).reshape(n, rows)) % examples
        self.label, self.exit = np.full((n, rows), -1), np.full((n, rows), -1)
        self.confidence = np.full((n, rows), np.nan)
        self.error = ""

    async def ask(self, i: int, client: Client, due: float | None = None) -> None:
        """Send request i, and keep its answer."""
        self.sent[i] = time.perf_counter()
        self.due[i] = self.sent[i] if due is None else due
        try:
            found = await client.infer(self.example[i])
            self.label[i], self.confidence[i], self.exit[i] = found
            self.status[i] = ANSWERED
        except RefusedError:
            self.status[i] = REFUSED
        except Exception as error:
            self.error = self.error or repr(error)
        self.ended[i] = time.perf_counter()

    def write(self, file: Path, start: float, count: int) -> None:
        """Write the first requests, with times from the start."""
        arrays = {name: value[:count] for name, value in vars(self).items() if name != "error"}
        times = {name: arrays[name] - start for name in ("due", "sent", "ended")}
        np.savez(file, **{**arrays, **times})


async def open_loop(client: Client, times: np.ndarray, answers: Answers) -> tuple[float, int]:
    """Send request i at time i, and return the start and the number of requests when all are answered."""
    start, running = time.perf_counter() + 0.05, set[asyncio.Task[None]]()
    for i, at in enumerate(times.tolist()):
        due = start + at
        await _until(due)
        task = asyncio.create_task(answers.ask(i, client, due))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    return start, len(times)


async def closed_loop(client: Client, at_once: int, seconds: float, answers: Answers) -> tuple[float, int]:
    """Keep a number of requests waiting for some seconds, and return the start and their number."""
    start, sent = time.perf_counter(), 0

    async def repeat() -> None:
        nonlocal sent
        while time.perf_counter() < start + seconds and sent < len(answers.status):
            sent += 1
            await answers.ask(sent - 1, client)

    await asyncio.gather(*(repeat() for _ in range(at_once)))
    return start, sent


async def _until(due: float) -> None:
    """Wait until a time, with the event loop running."""
    while (left := due - time.perf_counter()) > 0:
        await asyncio.sleep(left - _NEAR if left > _NEAR else 0)


async def run(load: dict[str, Any], x: np.ndarray) -> str:
    """Run one load, and return the first error, or nothing."""
    rows, seconds = load.get("rows", 1), load["seconds"]
    times = arrivals(load["rate"], seconds, load["seed"]) if "rate" in load else None
    most = len(times) if times is not None else int(load["most"])
    answers = Answers(most, rows, load["first"], len(x))
    async with CLIENTS[load["protocol"]](load["port"], x) as client:
        done: Awaitable[tuple[float, int]]
        if times is not None:
            done = open_loop(client, times, answers)
        else:
            done = closed_loop(client, load["at_once"], seconds, answers)
        start, count = await done
    answers.write(Path(load["out"]), start, count)
    return answers.error


def main(arguments: list[str], read: Callable[[], str] = sys.stdin.readline) -> None:
    """Run loads as they come, until there are no more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each request that waits
    with np.load(arguments[0]) as found:
        x = found["x"]
    while line := read():
        print(json.dumps({"error": asyncio.run(run(json.loads(line), x))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
