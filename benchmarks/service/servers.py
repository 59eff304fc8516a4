"""Servers to measure, each a process on one core, and what they are started with."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.service.bundles import FULL, HALF
from benchmarks.service.clients import MODEL

PEERS = Path(__file__).parent / "peers"
STARTS, ENDS = 180, 20
"""Seconds for a server to start, and to end."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Server:
    """Server to measure.

    Attributes:
        name: Its name in the results.
        command: Command line, in which `{bundles}` is the folder of the bundles and `{port}` the port.
        protocol: Protocol, a key of `clients.CLIENTS`.
        ready: Path that answers with 200 once requests are served.
        what: What it is, for the report.
        environment: Variables of its environment.
    """

    name: str
    command: tuple[str, ...]
    protocol: str
    ready: str
    what: str
    environment: Mapping[str, str] = field(default_factory=dict)


def ours(name: str, bundle: str, what: str) -> Server:
    """Return the server of the runtime for one bundle, with the defaults of its command."""
    serve = (sys.executable, "-m", "suffice_runtime", "serve", f"{{bundles}}/{bundle}")
    command = (*serve, "--name", MODEL, "--port", "{port}")
    return Server(name, command, "open inference", f"/v2/models/{MODEL}/ready", what)


def litserve(python: str, name: str, script: str, bundle: str, what: str, **settings: object) -> Server:
    """Return a server of LitServe, with another Python."""
    more = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    command = (python, str(PEERS / script), f"{{bundles}}/{bundle}", "--port", "{port}", *more)
    return Server(name, command, "json", "/health", what)


def triton(python: str) -> Server:
    """Return the server of Triton, with another Python, whose library its models must be run by."""
    command = (python, str(PEERS / "triton_batches.py"), f"{{bundles}}/{FULL}", "--port", "{port}")
    program = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    library = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    environment = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, (library, os.environ.get("LD_LIBRARY_PATH"))))}
    ready, what = f"/v2/models/{MODEL}/ready", "Triton, dynamic batching, last exit alone"
    return Server(TRITON, command, "open inference", ready, what, environment)


OURS_HALF, OURS_FULL = "suffice half", "suffice full"
BATCHES, STAGES, TRITON = "litserve full", "litserve stages", "triton full"


def own() -> list[Server]:
    """Return the servers of the runtime."""
    return [
        ours(OURS_HALF, HALF, "suffice-runtime serve, half the cost"),
        ours(OURS_FULL, FULL, "suffice-runtime serve, last exit alone"),
    ]


def variants(python: str, name: str) -> dict[str, Server]:
    """Return the settings of a peer among which the best is chosen."""
    if name == BATCHES:
        settings = [{"max_batch": size, "wait_ms": wait} for size in (8, 32) for wait in (2, 10)]
        return {
            f"batches of {one['max_batch']}, {one['wait_ms']} ms": litserve(
                python, name, "litserve_batches.py", FULL, "LitServe, dynamic batching, last exit alone", **one
            )
            for one in settings
        }
    return {
        f"batches of {size}": litserve(
            python, name, "litserve_stages.py", HALF, "LitServe, loop over stages, half the cost", max_batch=size
        )
        for size in (8, 16, 32)
    }


@contextlib.contextmanager
def started(server: Server, bundles: Path, core: int, log: Path) -> Iterator[int]:
    """Start a server on a core, yield its port once it is ready, and end it.

    Raises:
        RuntimeError: If it ends, or does not become ready.
    """
    port = _free_port()
    command = [part.format(bundles=bundles, port=port) for part in server.command]
    with log.open("ab") as out:
        environment = {**os.environ, **_ONE_THREAD, **server.environment}
        process = subprocess.Popen(
            pinned(core, command), stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{server.ready}", log)
        yield port
    finally:
        _end(process)


def pinned(core: int, command: list[str]) -> list[str]:
    """Return a command that runs on one core.

    Raises:
        RuntimeError: Without `taskset`.
    """
    taskset = shutil.which("taskset")
    if taskset is None:
        raise RuntimeError("expected taskset, which keeps a process on one core, found none; install util-linux")
    return [taskset, "--cpu-list", str(core), *command]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait until a server is ready."""
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"expected a server, got exit status {process.returncode}; see {log}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"expected a server that is ready within {STARTS} s, got none; see {log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and the processes that it started, which are a group of their own."""
    for number, seconds in ((signal.SIGTERM, ENDS), (signal.SIGKILL, ENDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlive their parent
