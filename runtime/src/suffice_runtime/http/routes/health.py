"""Health of the server and of its models, and the document about it."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import metadata
from suffice_runtime.http.routes.documents import content, operation, respond
from suffice_runtime.http.service import engine_of, service_of

router = APIRouter()

_NOT = "expected a model that is ready, got one that closes or has stopped; try another server"


@router.get("/v2/health/live", **operation("Whether the server lives", content("Live")))
async def live(request: Request) -> Response:
    """Return that the server lives."""
    return respond({"live": True})


@router.get("/v2/health/ready", **operation("Whether all models are ready", content("Ready")))
async def ready(request: Request) -> Response:
    """Return whether all models are ready; the status is 503 if they are not."""
    models = service_of(request).models
    found = all(models.ready(*key) for key in models)
    return respond({"ready": True}) if found else respond({"ready": False, "error": _NOT}, 503)


@router.get("/v2", **operation("Name, version and extensions of the server", content("Server")))
async def server(request: Request) -> Response:
    """Return the document about the server."""
    return respond(metadata.server())


@router.get("/v2/models/{model}/ready", **operation("Whether a model is ready", content("Ready"), path=("model",)))
@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    **operation("Whether a version of a model is ready", content("Ready"), path=("model", "version")),
)
async def model_ready(request: Request) -> Response:
    """Return whether a model is ready; the status is 503 if it is not."""
    engine = engine_of(request)
    found = service_of(request).models.ready(engine.name, engine.version)
    entries = {"name": engine.name, "ready": found}
    return respond(entries) if found else respond({**entries, "error": _NOT}, 503)
