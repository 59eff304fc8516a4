"""First and last of what handles a request: its id, its token, its room, its errors, and its line in the log."""

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suffice_runtime.bundle.entries import printable
from suffice_runtime.http.codec.documents import HEADER
from suffice_runtime.http.errors import GoneError, RequestError, as_request_error, response_of
from suffice_runtime.http.transport import tokens
from suffice_runtime.http.transport.limits import COMPUTED, Limits, Room
from suffice_runtime.http.transport.logs import log

GONE = 499
"""Status in the log of a request whose client left, which is nginx's number for it."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_LINGER_SECONDS = 1.0
"""Seconds for which the rest of a body is taken, so that its client reads why it was refused."""


class Edge:
    """Application around another one.

    Args:
        app: Application.
        limits: Limits.
        room: Room for requests.
        token: Token of the server, or None.
        responses: Numbers of responses by status, which are added to.
    """

    def __init__(self, app: ASGIApp, limits: Limits, room: Room, token: bytes | None, responses: Counter[int]) -> None:
        self._app, self._limits, self._room, self._token, self._responses = app, limits, room, token, responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, exchange = time.perf_counter(), _Exchange(scope, receive, send, self._limits)
        entries: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
        fault: Exception | None = None
        try:
            await self._handle(scope, exchange)
        except GoneError:
            exchange.status = GONE
        except asyncio.CancelledError:  # by uvicorn, when the time for accepted requests is over
            await exchange.respond(
                RequestError(503, "expected a server that runs, got one that ended; use another one")
            )
        except Exception as error:
            fault = None if (known := as_request_error(error)) else error
            await exchange.respond(known or RequestError(500, f"internal error in the request {exchange.id}"))
        self._responses[exchange.status] += 1
        log(
            logging.INFO if fault is None else logging.ERROR,
            "request",
            exc_info=fault,
            id=exchange.id,
            method=printable(scope["method"], 16),
            path=printable(scope["path"], 200),
            status=exchange.status,
            seconds=round(time.perf_counter() - start, 6),
            **entries,
        )

    async def _handle(self, scope: Scope, exchange: "_Exchange") -> None:
        """Run the application, if the token is right and there is room."""
        headers = Headers(scope=scope)
        exchange.ends = "transfer-encoding" in headers and "content-length" in headers
        _check_framing(headers)
        authorization = headers.get("authorization")
        given = None if authorization is None else authorization.encode("latin-1")
        if not tokens.allows(self._token, scope["path"], given):
            raise RequestError(
                401, "expected the token of this server, got none or another; send Authorization: Bearer …"
            )
        if not scope["path"].endswith(COMPUTED):  # a full server still shows what it does, and takes a policy
            await self._app(scope, exchange.receive, exchange.send)
            return
        with self._room.request():
            await self._app(scope, exchange.receive, exchange.send)


def _check_framing(headers: Headers) -> None:
    """Raise a RequestError for headers that one server reads in another way than the next, as a proxy before this one.

    RFC 9112, 6.3: a request with two lengths of its body may be an attempt to smuggle another one into it.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        raise RequestError(400, "expected Transfer-Encoding or Content-Length, got both; send one")
    for name in (HEADER, "content-encoding"):
        if len(headers.getlist(name)) > 1:
            raise RequestError(400, f"expected one header {name}, got several; send one")


class _Exchange:
    """Request and its response.

    Attributes:
        id: Id of the request: that of the client if it is a plain one, or a random one.
        status: Status of the response; `GONE` before there is one.
        ends: Whether the connection is closed behind it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.status = GONE
        self._receive, self._send, self._limits = receive, send, limits
        self._read = self._started = self.ends = False

    async def receive(self) -> Message:
        """Return the next message from the client."""
        message = await self._receive()
        self._read = self._read or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, the first one with the id of the request."""
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers["x-request-id"] = self.id
            if not self._read:
                await self._linger()
            if not self._read or self.ends:
                headers["connection"] = "close"
        await self._send(message)

    async def respond(self, error: RequestError) -> None:
        """Send the response of an error, if none has begun."""
        if self._started:
            return
        status, headers, body = response_of(error)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Take the rest of a body that is not read, as much as a body may have, for a moment."""
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._read and taken <= self._limits.body_bytes:
                    taken += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
