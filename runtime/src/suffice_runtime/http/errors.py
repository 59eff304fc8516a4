"""Errors of requests, and the responses that they become."""

import math
from typing import Any

from suffice_runtime.http.codec.documents import dump
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.scheduling.requests import RefusedError


class RequestError(Exception):
    """Request that is not answered.

    Attributes:
        status: Status of the HTTP response.
        retry_after: Seconds after which to try again, or None.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class GoneError(Exception):
    """Client that left before its request was answered."""


def as_request_error(error: Exception) -> RequestError | None:
    """Return the error of a request that an exception is, or None if it is a fault of the server."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ProtocolError):
        return RequestError(error.status, str(error))
    if isinstance(error, RefusedError):
        closing = error.retry_after is None
        return RequestError(503 if closing else 429, str(error), 1.0 if closing else error.retry_after)
    return None


def response_of(error: RequestError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the response to a request that is not answered."""
    headers = {"content-type": "application/json"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return error.status, headers, body_of(str(error))


def body_of(message: Any) -> bytes:
    """Return the body of an error, which all clients of the protocol read."""
    return dump({"error": str(message)})
