"""Responses with documents, and what OpenAPI states of every route."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from suffice_runtime.http.codec.documents import dump

JSON = "application/json"

BINARY = "application/octet-stream"

_ERRORS = {
    400: "The request is not one of the protocol, or not one of the model",
    401: "The token is missing or another one",
    403: "The server has no token",
    404: "There is no such model, or version",
    408: "The body did not come in time",
    409: "The server is one of several replicas, of which a request reaches one",
    413: "The body is too large",
    415: "The body is compressed in a way that is not read",
    429: "The queues of the model are full; the header Retry-After states when to try again",
    500: "The server failed",
    503: "The server is full, or closes; the header Retry-After states when to try again",
    504: "There was no answer in time",
}
"""Meaning of each status of an error."""

_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "Name of the model",
    "schema": {"type": "string"},
}
_VERSION = {**_MODEL, "name": "version", "description": "Version of the model"}


def respond(document: Any, status: int = 200) -> Response:
    """Return a response with a document."""
    return Response(dump(document), status, media_type=JSON)


def refer(name: str) -> dict[str, Any]:
    """Return a reference to one of the schemas of `schemas.SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def content(name: str) -> dict[str, Any]:
    """Return the content of a JSON body of a schema."""
    return {JSON: {"schema": refer(name)}}


def operation(
    summary: str,
    returns: Mapping[str, Any],
    errors: tuple[int, ...] = (),
    *,
    path: tuple[str, ...] = (),
    body: Mapping[str, Any] | None = None,
    parameters: tuple[Mapping[str, Any], ...] = (),
) -> dict[str, Any]:
    """Return what OpenAPI states of an operation, as arguments of a route.

    Args:
        summary: Summary.
        returns: Content of the response.
        errors: Statuses of errors besides 401 and 500.
        path: Names of the parameters in the path.
        body: Content of the request, if it has a body.
        parameters: Other parameters.
    """
    named = {"model": _MODEL, "version": _VERSION}
    extra: dict[str, Any] = {"parameters": [*(named[name] for name in path), *parameters]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    statuses = sorted({*errors, 401, 500, 503, *((404,) if path else ())})
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _ERRORS[status], "content": content("Error")} for status in statuses
    }
    responses[200] = {"description": "Done", "content": returns}
    return {"summary": summary, "openapi_extra": extra, "responses": responses, "response_class": Response}
