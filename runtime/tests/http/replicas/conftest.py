"""An application of Ray Serve with two replicas, which tests share."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

SECONDS = 300

if find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    with warnings.catch_warnings(action="ignore"):  # of Ray itself
        import ray.serve  # noqa: F401


class Proxy:
    """Ray's proxy in front of the replicas.

    Args:
        port: Its port.
        metrics: Port of Ray's metrics.
        token: Token of the service.
        process: Process that takes commands.
        options: Options of the application by name.
    """

    def __init__(self, port, metrics, token, process, options):
        self.port, self.metrics, self.token, self.process, self.options = port, metrics, token, process, options

    def run(self, name, value):
        """Run a command of the process."""
        print(json.dumps([name, value], default=str), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def send(self, path, document=None, token=True):
        """Send a request, and return status, id of the replica and document of the response."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        if token:
            request.add_header("authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return response.status, response.headers["x-suffice-replica"], json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["x-suffice-replica"], error.read()

    def replicas(self):
        """Return the ids of two replicas that answer, as soon as there are two."""
        found, end = set(), time.monotonic() + SECONDS
        while len(found) < 2:
            assert time.monotonic() < end
            status, replica, _ = self.send("/v2/health/ready")
            found |= {replica} if status == 200 else set()
            time.sleep(0.02)
        return found


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def port():
    return free_port()


@pytest.fixture(scope="module")
def proxy(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    (folder / "token").write_text("secret")
    options = {"bundle": written(), "name": "net", "max-wait-ms": 1, "token-file": folder / "token"}
    port, metrics = free_port(), free_port()
    line = [sys.executable, Path(__file__).with_name("deployer.py"), port, metrics]
    patient = {"RAY_raylet_start_wait_time_s": "300"}  # as processors may be busy
    environment = os.environ | patient | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        (folder / "errors").open("w") as errors,
        subprocess.Popen(
            list(map(str, line)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            bufsize=1,
        ) as process,
    ):
        found = Proxy(port, metrics, "secret", process, options)
        found.run("deploy", [options, {"num_replicas": 2}])
        yield found
        process.stdin.close()
        assert process.wait(SECONDS) == 0
