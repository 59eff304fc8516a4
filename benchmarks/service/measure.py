"""Measurement: rounds over the servers, in each of which a fresh process of each takes every load.

The capacity of a server is the number of requests per second that it answers while `AT_ONCE` are waiting, measured once
before the rounds; its loads are multiples of it, or of that of the full network behind this server. The peers' settings
are chosen before, too: those with the greatest goodput. Every result is kept as soon as it is there, and a measurement
that was cut short goes on where it stopped.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.service import servers
from benchmarks.service.bundles import EXAMPLES, HALF
from benchmarks.service.goodput import Curve, goodput
from benchmarks.service.load import ANSWERED, FAILED, REFUSED
from benchmarks.service.servers import OURS_FULL, OURS_HALF, Server

LOADS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 2.0)
"""Loads as multiples of the capacity of the server."""

COMMON = (0.5, 2.0)
"""Loads as multiples of the capacity of the full network behind this server, for the servers of the runtime."""

TUNED = (0.6, 0.8, 0.95)
"""Loads by which settings of a peer are compared."""

AT_ONCE, ROWS = 64, 32
"""Requests that wait while the capacity is measured, and examples of a large request."""

_MOST = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement, which must be the same when it goes on.

    Attributes:
        seconds: Seconds of each load.
        rounds: Number of rounds.
        limit_ms: Bound on p99 in milliseconds that goodput is stated for.
        server_core: Core of the servers.
        load_core: Core of the load generator.
    """

    seconds: float = 8.0
    rounds: int = 5
    limit_ms: float = 100.0
    server_core: int = 1
    load_core: int = 0


class Generator:
    """Process that sends the requests, on a core of its own.

    Args:
        bundles: Folder of the bundles.
        core: Its core.
    """

    def __init__(self, bundles: Path, core: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._first = self._seed = 0
        with np.load(bundles / EXAMPLES) as found:
            self.labels = found["labels"]
        command = [sys.executable, "-m", "benchmarks.service.load", str(bundles / EXAMPLES)]
        self._process = subprocess.Popen(
            servers.pinned(core, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def run(self, server: Server, port: int, **load: Any) -> dict[str, np.ndarray]:
        """Run a load, and return its answers.

        Raises:
            RuntimeError: If a request failed for another reason than a lack of room.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, self._seed = Path(self._folder.name) / "answers.npz", self._seed + 1
        entries = {"protocol": server.protocol, "port": port, "first": self._first, "seed": self._seed, "out": str(out)}
        self._process.stdin.write(json.dumps({**entries, **load}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        error = json.loads(line)["error"] if line else "the load generator ended"
        if error:
            raise RuntimeError(f"expected answers of {server.name}, got {error}")
        with np.load(out) as found:
            answers = dict(found)
        self._first = (self._first + answers["example"].size) % len(self.labels)
        return answers


@dataclass(frozen=True)
class Point:
    """What a server did under one load.

    Attributes:
        offered: Requests per second that were sent.
        answered: Requests per second that were answered, over the time until the last answer.
        refused: Fraction of the requests that were refused.
        p50, p99: Quantiles of the milliseconds from the intended time of a request to its answer, of those answered.
        late: 99 % quantile of the milliseconds by which the generator sent requests later than intended.
        accuracy: Fraction of the answered examples whose label is right.
        exits: Mean exit of the answered examples, counted from 0.
    """

    offered: float
    answered: float
    refused: float
    p50: float
    p99: float
    late: float
    accuracy: float
    exits: float


def summarize(answers: dict[str, np.ndarray], labels: np.ndarray, seconds: float) -> Point:
    """Return what a server did."""
    status, due = answers["status"], answers["due"]
    done = status == ANSWERED
    assert not (status == FAILED).any()
    latency = 1e3 * (answers["ended"] - due)[done]
    p50, p99 = (float(np.quantile(latency, share)) for share in (0.5, 0.99)) if done.any() else (np.nan, np.nan)
    hits = answers["label"][done] == labels[answers["example"][done]]
    return Point(
        offered=len(status) / seconds,
        answered=float(done.sum() / max(seconds, answers["ended"][done].max())) if done.any() else 0.0,
        refused=float((status == REFUSED).mean()),
        p50=p50,
        p99=p99,
        late=float(np.quantile(1e3 * (answers["sent"] - due), 0.99)),
        accuracy=float(hits.mean()),
        exits=float(answers["exit"][done].mean()),
    )


class Book:
    """Results in a JSON file, each of which is made once.

    Args:
        file: The file.
        head: Entries that must be the same when a measurement goes on.
        more: Other entries, kept from the first time.

    Raises:
        ValueError: If the file has results of other settings.
    """

    def __init__(self, file: Path, head: dict[str, Any], more: dict[str, Any]) -> None:
        self._file = file
        self.entries: dict[str, Any] = {**head, **more, "results": {}}
        if file.exists():
            found = json.loads(file.read_text())
            if different := [name for name, value in head.items() if found.get(name) != value]:
                raise ValueError(f"expected {file} with the same {different[0]}, got another; choose another --out")
            self.entries = found

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return a result, made if it is not there yet."""
        if key not in self.entries["results"]:
            self.entries["results"][key] = make()
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(self.entries, indent=1))
            part.replace(self._file)
        return self.entries["results"][key]


class Measurement:
    """Measurement of some servers.

    Args:
        settings: Settings.
        bundles: Folder of the bundles.
        book: Results.
        generator: Load generator.
        log: File that the servers write to.
        say: Function that shows progress.
    """

    def __init__(
        self, settings: Settings, bundles: Path, book: Book, generator: Generator, log: Path, say: Callable[[str], None]
    ) -> None:
        self._settings, self._bundles, self._book, self._log = settings, bundles, book, log
        self._generator, self._say = generator, say

    def tune(self, name: str, variants: dict[str, Server]) -> Server:
        """Return the variant of a peer with the greatest goodput."""
        found = {key: self._book.once(f"tuning/{name}/{key}", lambda v=v: self._try(v)) for key, v in variants.items()}
        best = max(found, key=lambda key: found[key]["goodput"])
        shown = ", ".join(f"{key}: {one['goodput']:.0f}/s" for key, one in found.items())
        self._say(f"{name}: {best}, of {shown}")
        return variants[best]

    def capacity(self, server: Server) -> float:
        """Return the capacity of a server in requests per second."""

        def measured() -> float:
            with self._started(server) as port:
                self._warm(server, port)
                return self._saturated(server, port)

        found = float(self._book.once(f"capacity/{server.name}", measured))
        self._say(f"{server.name}: {found:.0f} requests/s")
        return found

    def round(self, i: int, server: Server, capacity: float, common: float | None) -> None:
        """Measure a server once."""
        self._book.once(f"round/{i}/{server.name}", lambda: self._measure(i, server, capacity, common))
        self._say(f"round {i + 1}: {server.name}")

    def runner(self, i: int) -> None:
        """Measure the Runner alone on the core of the servers."""
        command = [sys.executable, "-m", "benchmarks.service.alone", str(self._bundles / HALF), str(ROWS)]
        command += [str(self._bundles / EXAMPLES), str(self._settings.seconds)]

        def measured() -> float:
            pinned = servers.pinned(self._settings.server_core, command)
            return float(subprocess.run(pinned, check=True, capture_output=True, text=True).stdout)

        self._book.once(f"runner/{i}", measured)

    def _started(self, server: Server) -> Any:
        return servers.started(server, self._bundles, self._settings.server_core, self._log)

    def _warm(self, server: Server, port: int) -> None:
        """Let a server measure its stages, and open connections."""
        seconds = min(2.0, self._settings.seconds)
        self._generator.run(server, port, at_once=AT_ONCE, seconds=seconds, most=_MOST // 10)

    def _saturated(self, server: Server, port: int) -> float:
        """Return the requests per second while a number of them wait."""
        answers = self._generator.run(server, port, at_once=AT_ONCE, seconds=self._settings.seconds, most=_MOST // 10)
        return float((answers["status"] == ANSWERED).sum() / answers["ended"].max())

    def _open(self, server: Server, port: int, rate: float) -> tuple[Point, dict[str, np.ndarray]]:
        seconds = self._settings.seconds
        answers = self._generator.run(server, port, rate=rate, seconds=seconds)
        return summarize(answers, self._generator.labels, seconds), answers

    def _try(self, server: Server) -> dict[str, Any]:
        """Return capacity and goodput of one variant."""
        with self._started(server) as port:
            self._warm(server, port)
            capacity = self._saturated(server, port)
            points = [self._open(server, port, load * capacity)[0] for load in TUNED]
        curve = Curve([load * capacity for load in TUNED], [point.p99 for point in points])
        return {"capacity": capacity, "goodput": goodput(curve, self._settings.limit_ms)}

    def _measure(self, i: int, server: Server, capacity: float, common: float | None) -> dict[str, Any]:
        """Return the points of one server, what its answers are worth, and its large requests."""
        rates = {f"own {load:g}": load * capacity for load in LOADS}
        if common is not None and server.name in (OURS_HALF, OURS_FULL):
            rates |= {f"common {load:g}": load * common for load in COMMON}
        points, confidence = dict[str, Any](), np.full(len(self._generator.labels), np.nan)
        label = np.full(len(confidence), -1)
        with self._started(server) as port:
            self._warm(server, port)
            for name, rate in rates.items():
                point, answers = self._open(server, port, rate)
                points[name] = asdict(point)
                done = answers["status"] == ANSWERED
                where = answers["example"][done]
                label[where], confidence[where] = answers["label"][done], answers["confidence"][done]
            large = self._large(server, port) if server.name == OURS_HALF else None
        return {"points": points, "quality": self._quality(label, confidence), "large": large}

    def _large(self, server: Server, port: int) -> dict[str, float]:
        """Return the median milliseconds of requests of 32 examples: one after another, and two at once."""
        found = {}
        for name, at_once in (("one", 1), ("two", 2)):
            answers = self._generator.run(
                server, port, at_once=at_once, seconds=self._settings.seconds, rows=ROWS, most=10_000
            )
            took = 1e3 * (answers["ended"] - answers["sent"])
            found[name] = float(np.median(took)) / at_once
        return found

    def _quality(self, label: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
        """Return accuracy and calibration error of the examples that were answered."""
        import torch

        from suffice.calibration_error import reliability

        known = label >= 0
        hits = torch.from_numpy(label[known] == self._generator.labels[known])
        table = reliability(torch.from_numpy(confidence[known]), hits)
        ece = float((table[:, 1] - table[:, 2]).abs().sum() / len(hits))
        return {"examples": len(hits), "accuracy": float(hits.double().mean()), "ece": ece}
