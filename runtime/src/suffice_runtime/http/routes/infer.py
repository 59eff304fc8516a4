"""Inference in the Open Inference Protocol."""

import asyncio
from typing import Any

from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http import answering, outputs, parameters, texts
from suffice_runtime.http.codec import compression, requests, responses
from suffice_runtime.http.codec.documents import HEADER, header_length, join
from suffice_runtime.http.codec.errors import ProtocolError, TooLargeError
from suffice_runtime.http.codec.requests import InferenceRequest
from suffice_runtime.http.codec.tensors import shown
from suffice_runtime.http.outputs import ESTIMATED
from suffice_runtime.http.routes.documents import BINARY, JSON, content, operation, refer
from suffice_runtime.http.service import engine_of, service_of
from suffice_runtime.http.transport import bodies
from suffice_runtime.http.transport.limits import Held, Limits
from suffice_runtime.scheduling.requests import Outcome
from suffice_runtime.serving.engine import Engine

Array = NDArray[Any]

router = APIRouter()

SHORT = 1 << 16
"""Bytes of JSON, or of a response to compress, above which a thread of its own works on them."""

_FEW = 1 << 12
"""Numbers in the JSON of a response, above which a thread of its own writes them."""

_WORTH = 1 << 10
"""Bytes of a response from which it is compressed."""

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_LENGTH: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "description": "Number of bytes of JSON before the tensors, if there are any behind it",
    "schema": {"type": "integer", "minimum": 0},
}


def _documented(*path: str) -> dict[str, Any]:
    """Return what OpenAPI states of an inference."""
    return operation(
        "Predictions of examples, each computed up to the exit where it stops",
        {**content("InferenceResponse"), BINARY: _BYTES},
        (400, 408, 413, 415, 429, 504),
        path=path,
        body={JSON: {"schema": refer("InferenceRequest")}, BINARY: _BYTES},
        parameters=(_LENGTH,),
    )


@router.post("/v2/models/{model}/infer", **_documented("model"))
@router.post("/v2/models/{model}/versions/{version}/infer", **_documented("model", "version"))
async def infer(request: Request) -> Response:
    """Return the predictions of the examples of a request."""
    service, engine = service_of(request), engine_of(request)
    with service.room.body() as held:
        wanted = await _read(request, service.limits, held)
        if wanted.model_name and wanted.model_name != engine.name:
            raise ProtocolError(
                f"expected model_name as {shown(engine.name)}, that of the path, got {shown(wanted.model_name)}; "
                "correct one"
            )
        seconds, version = service.limits.answer_seconds, engine.policy_version
        terms = parameters.read(wanted.parameters, engine)
        asked = None if wanted.outputs is None else [output.name for output in wanted.outputs]
        outputs.select(asked, service.outputs(engine, terms.policy))  # refuses before anything is computed
        x = await texts.to_arrays(engine, wanted.inputs)
        outcome = await answering.answer(request, engine, x, terms, seconds)
        found = outputs.compute(outcome, engine.manifest)
        names = outputs.select(asked, service.outputs(engine, outcome.policy))  # it may have been replaced meanwhile
        if any(name in ESTIMATED for name in names):
            found |= await answering.estimate(request, engine, x, seconds)
        request.state.log.update(examples=outcome.ticket.examples)
        # A policy that was replaced meanwhile may be the one of this request or not.
        sure = terms.policy is None and version == engine.policy_version
        entries = _entries(wanted, engine, outcome, version if sure else None)
        return await _respond(request, entries, _named(wanted, names, found))


async def _read(request: Request, limits: Limits, held: Held) -> InferenceRequest:
    """Return the inference request in the body of a request."""
    header = request.headers.get(HEADER)
    header_length(header)
    chunks = await bodies.read(request, limits, held)
    total = sum(map(len, chunks))
    length = header_length(header, total)
    size = total if length is None else length
    if size > limits.json_bytes:
        raise TooLargeError(
            f"expected at most {limits.json_bytes:,} bytes of JSON, got {size:,}; send tensors as bytes behind it"
        )
    body = join(chunks, length)
    return requests.decode(body, length) if size <= SHORT else await asyncio.to_thread(requests.decode, body, length)


def _named(wanted: InferenceRequest, names: list[str], found: dict[str, Array]) -> list[tuple[str, Array, bool]]:
    """Return name and array of each output, and whether it is returned as bytes."""
    as_bytes = {} if wanted.outputs is None else {output.name: output.binary for output in wanted.outputs}
    listed = []
    for name in names:
        if name in found:
            listed.append((name, found[name], as_bytes.get(name, wanted.binary)))
        elif wanted.outputs is not None:
            raise ProtocolError(
                f"expected outputs that the bundle has for these inputs, got {name!r}, which it has not; leave it out, "
                "or export the bundle again with an example of this length"
            )
    return listed


def _entries(wanted: InferenceRequest, engine: Engine, outcome: Outcome, version: int | None) -> dict[str, Any]:
    """Return the entries of a response besides the outputs."""
    policy = outcome.policy
    used: dict[str, Any] = {"policy_expected": policy.expected, "policy_unit": policy.unit}
    if version is not None:
        used["policy_version"] = version
    entries: dict[str, Any] = {} if wanted.id is None else {"id": wanted.id}
    return {**entries, "model_name": engine.name, "model_version": engine.version, "parameters": used}


async def _respond(request: Request, entries: dict[str, Any], listed: list[tuple[str, Array, bool]]) -> Response:
    """Return the response, compressed if its client takes that."""
    written = sum(array.size for _, array, as_bytes in listed if not as_bytes)
    if written <= _FEW:
        body, length = responses.encode(entries, listed)
    else:
        body, length = await asyncio.to_thread(responses.encode, entries, listed)
    headers = {"vary": "accept-encoding"}
    if length is not None:
        headers[HEADER] = str(length)
    encoding = compression.accepted(request.headers.get("accept-encoding"))
    if encoding is not None and len(body) >= _WORTH:
        headers["content-encoding"] = encoding
        if len(body) <= SHORT:
            body = compression.compress(body, encoding)
        else:
            body = await asyncio.to_thread(compression.compress, body, encoding)
    return Response(body, headers=headers, media_type=JSON if length is None else BINARY)
