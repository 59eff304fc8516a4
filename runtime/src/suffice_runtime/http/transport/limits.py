"""Limits of a server, and the room that requests take while they are handled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from suffice_runtime.http.errors import RequestError

COMPUTED = ("/infer", "/predict")
"""Ends of the paths of requests that graphs run for."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: Greatest size of a body, also when it is decompressed.
        json_bytes: Greatest size of the JSON in a body, which takes many times as much memory when it is read.
        held_bytes: Greatest size of all bodies that are held at once.
        requests: Greatest number of requests for inference that are handled at once; others have room by the number of
            connections.
        connections: Greatest number of open connections.
        head_seconds: Seconds in which the head of a request must come.
        body_seconds: Seconds in which the body must come.
        answer_seconds: Seconds in which a request must be answered.
        write_seconds: Seconds in which a client must take something of a response that waits for it.
        idle_seconds: Seconds for which a connection is kept without a request.
        close_seconds: Seconds for which accepted requests are answered after the server was told to end.

    Raises:
        ValueError: If one is not above 0.
    """

    body_bytes: int = 64 << 20
    json_bytes: int = 16 << 20
    held_bytes: int = 512 << 20
    requests: int = 256
    connections: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 300.0
    write_seconds: float = 30.0
    idle_seconds: int = 60
    close_seconds: int = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"expected {field.name} above 0, got {getattr(self, field.name)}")


class Room:
    """Numbers of requests and bytes that are handled at once, from one event loop.

    Args:
        limits: Limits.

    Attributes:
        requests: Number of requests.
        held: Number of bytes.
    """

    RETRY = 1.0
    """Seconds after which to try again."""

    def __init__(self, limits: Limits) -> None:
        self.requests = self.held = 0
        self._limits = limits

    @contextmanager
    def request(self) -> Iterator[None]:
        """Take room for one request while it is handled.

        Raises:
            RequestError: If there is none.
        """
        if self.requests >= self._limits.requests:
            raise RequestError(
                503, f"expected at most {self._limits.requests} requests at once, got one more; try again", self.RETRY
            )
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def body(self) -> Iterator["Held"]:
        """Take room for the bytes of one body while it is handled."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.size

    def add(self, size: int) -> None:
        """Take room for some bytes.

        Raises:
            RequestError: If there is none.
        """
        if self.held + size > self._limits.held_bytes:
            raise RequestError(
                503,
                f"expected at most {self._limits.held_bytes:,} bytes of bodies at once, got {size:,} more than there "
                "is room for; try again",
                self.RETRY,
            )
        self.held += size


class Held:
    """Bytes that one request takes room for."""

    def __init__(self, room: Room) -> None:
        self.size = 0
        self._room = room

    def add(self, size: int) -> None:
        """Take room for more bytes."""
        self._room.add(size)
        self.size += size
