"""Application of a service: its routes inside its edge, and the end of its engines with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime._version import __version__
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.http.errors import body_of
from suffice_runtime.http.recording import recorded
from suffice_runtime.http.routes import health, infer, models, observe, page, policies, predict, state
from suffice_runtime.http.routes.documents import JSON
from suffice_runtime.http.routes.schemas import SCHEMAS
from suffice_runtime.http.service import Service
from suffice_runtime.http.transport.edge import Edge

ROUTERS = (infer, predict, health, models, policies, observe, state, page)
"""Modules of the routes, which are matched in turn: those of most requests first."""


def create(service: Service) -> FastAPI:
    """Return the application of a service.

    Its engines are closed with it: they refuse new requests, and answer those that they accepted.

    Example:
        >>> from suffice_runtime.http import app
        >>> from suffice_runtime.http.service import Service
        >>> application = app.create(Service(models))  # doctest: +SKIP
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with recorded(service):
            yield
        await asyncio.to_thread(service.models.close, service.limits.close_seconds)
        service.threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="suffice-runtime",
        version=__version__,
        summary="Open Inference Protocol v2 for networks with early exits",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},
    )
    app.state.service = service
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_middleware(Edge, limits=service.limits, room=service.room, token=service.token, responses=service.responses)
    if service.tracer is not None:
        from suffice_runtime.http.tracing import Traced

        app.add_middleware(Traced, tracer=service.tracer)
    _describe(app, service.token is not None)
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """Return the response to a path or a method that there is none of."""
    assert isinstance(error, HTTPException)
    what = {404: "expected one of the paths that /openapi.json lists", 405: "expected a method that this path has"}
    message = f"{what.get(error.status_code, error.detail)}, got {request.method} {shown(request.url.path)}"
    return Response(body_of(message), error.status_code, headers=error.headers, media_type=JSON)


def _describe(app: FastAPI, has_token: bool) -> None:
    """Add schemas, and the token if there is one, to what OpenAPI states."""
    build = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = build()
            components = schema.setdefault("components", {})
            components["schemas"] = {**components.get("schemas", {}), **SCHEMAS}
            if has_token:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                schema["security"] = [{"token": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
