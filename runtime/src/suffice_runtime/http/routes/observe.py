"""Metrics of the server."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import metrics
from suffice_runtime.http.errors import RequestError
from suffice_runtime.http.routes.documents import operation
from suffice_runtime.http.service import service_of

router = APIRouter()


@router.get("/metrics", **operation("Metrics of Prometheus", {"text/plain": {"schema": {"type": "string"}}}, (409,)))
async def prometheus(request: Request) -> Response:
    """Return the metrics of all models."""
    service = service_of(request)
    if service.is_replica:
        raise RequestError(
            409,
            "expected metrics of all replicas, got a request that reaches one of them; fetch those of Ray from the "
            "metrics port of each node",
        )
    return Response(metrics.render(service), media_type=metrics.CONTENT_TYPE)
