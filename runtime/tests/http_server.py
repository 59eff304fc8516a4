"""A server in a thread of its own on a free port, and requests written byte by byte."""

import contextlib
import json
import socket
import threading
import time

from suffice_runtime.http import run
from suffice_runtime.http.service import Service
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.models import Models

SECONDS = 20
"""Time after which a test that waits fails."""


def until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def started(*runners, names=("net",), options=None, engines=None, **entries):
    """Yield a server of some bundles, or of some engines."""
    names = names if runners else ()
    engines = engines or [Engine(runner, options, name=name) for runner, name in zip(runners, names, strict=True)]
    estimators = {
        (name, "1"): runner
        for runner, name in zip(runners, names, strict=True)
        if runner.manifest.estimator is not None
    }
    if options is not None:
        entries["options"] = options
    service = Service(Models(engines), estimators=estimators, **entries)
    server = Server(service)
    try:
        yield server
    finally:
        server.stop()


class Server:
    """Server in a thread.

    Args:
        service: Service.
    """

    def __init__(self, service):
        self.service = service
        self._socket = run.bind("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.server = run.server(service)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]})
        self.thread.start()
        until(lambda: self.server.started or not self.thread.is_alive())
        assert self.thread.is_alive()

    @property
    def url(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        self._socket.close()

    def engine(self, name="net"):
        return self.service.models.get(name)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def raw(self, payload):
        """Send bytes on a connection of their own, and return status, headers and body of the response."""
        with self.connect() as opened:
            opened.sendall(payload)
            return read_response(opened)

    def send(self, method, path, body=b"", **headers):
        """Send a request, and return status, headers and body of the response."""
        return self.raw(written(method, path, body, **headers))

    def json(self, method, path, document=None, **headers):
        """Send a document, and return status and document of the response."""
        body = b"" if document is None else json.dumps(document).encode()
        status, _, payload = self.send(method, path, body, **headers)
        return status, json.loads(payload)


def written(method, path, body=b"", **headers):
    """Return the bytes of a request; names of headers have "_" for "-"."""
    entries = {"host": "test", "content-length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in entries.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_response(opened):
    """Return status, headers and body of a response."""
    stream = opened.makefile("rb")
    first = stream.readline().split(b" ", 2)
    if len(first) < 2:
        return None, {}, b""
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return int(first[1]), headers, stream.read(int(headers.get("content-length", 0)))
