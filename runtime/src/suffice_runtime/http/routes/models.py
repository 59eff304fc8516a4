"""Documents about models: metadata, configuration, statistics, and the index of all."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import metadata
from suffice_runtime.http.codec.documents import check_names, parse
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.http.routes.documents import content, operation, respond
from suffice_runtime.http.service import engine_of, service_of
from suffice_runtime.http.transport import bodies

router = APIRouter()


@router.get("/v2/models/stats", **operation("Statistics of all models", content("Document")))
async def all_statistics(request: Request) -> Response:
    """Return the statistics of all models."""
    return respond({"model_stats": [metadata.statistics(each) for each in service_of(request).engines]})


@router.get("/v2/models/{model}", **operation("Inputs and outputs of a model", content("Model"), path=("model",)))
@router.get(
    "/v2/models/{model}/versions/{version}",
    **operation("Inputs and outputs of a version of a model", content("Model"), path=("model", "version")),
)
async def model(request: Request) -> Response:
    """Return the document about a model."""
    engine, service = engine_of(request), service_of(request)
    versions = service.models.versions(engine.name)
    return respond(metadata.model(engine, versions, service.outputs(engine)))


@router.get("/v2/models/{model}/config", **operation("Configuration of a model", content("Document"), path=("model",)))
@router.get(
    "/v2/models/{model}/versions/{version}/config",
    **operation("Configuration of a version of a model", content("Document"), path=("model", "version")),
)
async def configuration(request: Request) -> Response:
    """Return the configuration of a model as Triton has it."""
    engine, service = engine_of(request), service_of(request)
    most = service.options.max_rows
    return respond(metadata.configuration(engine, service.outputs(engine), most))


@router.get("/v2/models/{model}/stats", **operation("Statistics of a model", content("Document"), path=("model",)))
@router.get(
    "/v2/models/{model}/versions/{version}/stats",
    **operation("Statistics of a version of a model", content("Document"), path=("model", "version")),
)
async def statistics(request: Request) -> Response:
    """Return the statistics of a model as Triton has them."""
    return respond({"model_stats": [metadata.statistics(engine_of(request))]})


@router.post(
    "/v2/repository/index",
    **operation("Names, versions and states of all models", content("Index"), (400, 408, 413, 415)),
)
async def index(request: Request) -> Response:
    """Return the index of all models, or of those that are ready if the body is {"ready": true}."""
    service = service_of(request)
    with service.room.body() as held:
        payload = b"".join(await bodies.read(request, service.limits, held))
    entries = parse(payload) if payload else {}
    check_names(entries, ("ready",), "the request")
    if not isinstance(entries.get("ready", False), bool):
        raise ProtocolError(f"expected ready as true or false, got {shown(entries['ready'])}; correct it")
    listed = []
    for name, version in service.models:
        is_ready = service.models.ready(name, version)
        if is_ready or not entries.get("ready", False):
            state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "the engine has stopped")
            listed.append({"name": name, "version": version, "state": state, "reason": reason})
    return respond(listed)
