"""Metrics of the server."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import metrics
from suffice_runtime.http.routes.documents import operation
from suffice_runtime.http.service import service_of

router = APIRouter()


@router.get("/metrics", **operation("Metrics of Prometheus", {"text/plain": {"schema": {"type": "string"}}}))
async def prometheus(request: Request) -> Response:
    """Return the metrics of all models."""
    return Response(metrics.render(service_of(request)), media_type=metrics.CONTENT_TYPE)
