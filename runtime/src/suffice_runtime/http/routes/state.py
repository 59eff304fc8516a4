"""State of a model for the page and for machines, with its history."""

import math
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import state
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.http.errors import RequestError
from suffice_runtime.http.routes.documents import content, operation, respond
from suffice_runtime.http.service import engine_of, service_of

router = APIRouter()

POINTS = 300
"""Number of points of the history that are returned at most, unless a request states another one."""

_MOST_POINTS = 2000

_PARAMETERS: tuple[dict[str, Any], ...] = (
    {
        "name": "since",
        "in": "query",
        "description": "Time in seconds since 1970 after which points of the history are returned; 0 without it",
        "schema": {"type": "number", "minimum": 0},
    },
    {
        "name": "points",
        "in": "query",
        "description": f"Number of points of the history at most, spread evenly; {POINTS} without it",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MOST_POINTS},
    },
)


def _documented(*path: str) -> dict[str, Any]:
    """Return what OpenAPI states of the state of a model."""
    summary = "Statistics, live promise, policies and history of a model"
    return operation(summary, content("State"), (400, 409), path=path, parameters=_PARAMETERS)


@router.get("/v1/models/{model}/state", **_documented("model"))
@router.get("/v1/models/{model}/versions/{version}/state", **_documented("model", "version"))
async def model_state(request: Request) -> Response:
    """Return the state of a model."""
    engine, service = engine_of(request), service_of(request)
    if service.is_replica:
        raise RequestError(
            409,
            "expected the state of all replicas, got a request that reaches one of them; see Ray's dashboard, and its "
            "metrics on the metrics port of each node",
        )
    since, most = _number(request, "since", 0.0), _number(request, "points", float(POINTS))
    if since < 0 or not most.is_integer() or not 1 <= most <= _MOST_POINTS:
        raise ProtocolError(
            f"expected since of at least 0 and points as a whole number from 1 to {_MOST_POINTS}, got {since:g} and "
            f"{most:g}; correct them"
        )
    response = respond(state.of(service, engine, since, int(most)))
    response.headers["cache-control"] = "no-store"
    return response


def _number(request: Request, name: str, default: float) -> float:
    """Return a parameter that is a finite number."""
    given = request.query_params.get(name)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProtocolError(f"expected {name} as a finite number, got {shown(given)}; correct it")
    return value
