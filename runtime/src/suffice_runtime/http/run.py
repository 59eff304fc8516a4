"""Server: an application on a socket, until a signal ends it."""

import contextlib
import ipaddress
import logging
import logging.config
import signal
import socket
from collections.abc import Iterator

import uvicorn

from suffice_runtime.bundle.entries import printable
from suffice_runtime.http import app
from suffice_runtime.http.service import Service
from suffice_runtime.http.transport import logs
from suffice_runtime.http.transport.connections import protocol

_BACKLOG = 2048
"""Number of clients that may wait to be accepted, which is that of uvicorn."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens, whose clients wait until a server accepts them.

    Raises:
        OSError: If the address is taken, or is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        opened = socket.socket(family, kind, number)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(_BACKLOG)
        except BaseException:
            opened.close()
            raise
    except OSError as error:
        raise OSError(
            f"expected a free address, got {printable(host)} port {port}: {error.strerror}; choose another --port"
        ) from error
    return opened


def server(service: Service) -> uvicorn.Server:
    """Return the server of a service, which `run(sockets=[…])` starts."""
    limits = service.limits
    config = uvicorn.Config(
        app.create(service),
        http=protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=limits.close_seconds,
    )
    return uvicorn.Server(config)


def run(service: Service, host: str, port: int) -> None:
    """Serve until a signal ends it; accepted requests are answered first.

    Raises:
        OSError: If the address is taken, or is none of this machine.
    """
    with contextlib.closing(bind(host, port)) as opened:
        logging.config.dictConfig(logs.configuration())
        address = opened.getsockname()
        names = [f"{name}/{version}" for name, version in service.models]
        if service.token is None and not _is_local(address[0]):
            logs.log(logging.WARNING, "served to other machines without a token", host=address[0])
        logs.log(logging.INFO, "served", host=address[0], port=address[1], models=names)
        with _signals_ignored():
            server(service).run(sockets=[opened])
    logs.log(logging.INFO, "ended", models=names)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let the signals that end a server do nothing else: uvicorn raises them again when it has ended."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_local(host: str) -> bool:
    """Return whether an address is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
