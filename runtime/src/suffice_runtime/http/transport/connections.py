"""Connections of uvicorn with bounds on their number, on the time of a head, and on the time of a client that reads."""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from suffice_runtime.http.errors import body_of
from suffice_runtime.http.transport.limits import Limits


class Connection(H11Protocol):
    """Connection of a client.

    Attributes:
        limits: Limits of the server.
    """

    limits: ClassVar[Limits]

    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._head, self._write = _stopped(self._head), _stopped(self._write)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a client."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._watch_head()
        self._watch_end()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._write = self._write or self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop to wait for a client that reads."""
        super().resume_writing()
        self._write = _stopped(self._write)
        self._watch_end()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP, as the protocol answers errors, unless a response has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = body_of(f"expected a request of HTTP/1.1, got something else: {msg}")
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nothing comes from."""
        super().timeout_keep_alive_handler()
        self._watch_end()

    def _watch_head(self) -> None:
        """Bound the time of a head that is not complete; between requests only once it has begun."""
        if self.conn.their_state is not h11.IDLE or (self.cycle is not None and not self.conn.trailing_data[0]):
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.limits.head_seconds, self.transport.abort)

    def _watch_end(self) -> None:
        """Bound the time in which a client takes the last response of a connection that is closed."""
        if self.transport.is_closing() and self._write is None:
            self._write = self.loop.call_later(self.limits.write_seconds, self.transport.abort)


def protocol(limits: Limits) -> type[Connection]:
    """Return the class of connections with some limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer, if there is one, and return none."""
    if timer is not None:
        timer.cancel()
    return None
