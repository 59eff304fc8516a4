"""Predictions as plain JSON, for requests that are written by hand."""

import asyncio
from typing import Any

from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime import saving
from suffice_runtime.bundle.graphs import Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.http import answering, outputs, parameters, texts
from suffice_runtime.http.codec import listed
from suffice_runtime.http.codec.documents import check_names, dump, parse
from suffice_runtime.http.codec.errors import ProtocolError, TooLargeError
from suffice_runtime.http.codec.tensors import BYTES, MAX_AXES, datatype_of, shown
from suffice_runtime.http.routes.documents import JSON, content, operation
from suffice_runtime.http.routes.infer import SHORT
from suffice_runtime.http.service import engine_of, service_of
from suffice_runtime.http.transport import bodies

Array = NDArray[Any]

router = APIRouter()

_SHORTENED = {
    "classification": ("label", outputs.CLASS_NAME, "confidence"),
    "multilabel": ("label", "probs", "confidence"),
    "regression": ("mean", "variance"),
}
"""Columns of a record, by the kind of the predictions."""

_ALWAYS = ("set", "set_low", "set_high", "exit", "late", "capped")
"""Columns of a record of any kind, if there are these."""


@router.post(
    "/v1/models/{model}/predict",
    **operation(
        "Predictions of examples in plain JSON",
        content("PredictResponse"),
        (400, 408, 413, 415, 429, 504),
        path=("model",),
        body=content("PredictRequest"),
    ),
)
async def predict(request: Request) -> Response:
    """Return a list with one record for each example."""
    service, engine = service_of(request), engine_of(request)
    with service.room.body() as held:
        payload = b"".join(await bodies.read(request, service.limits, held))
        if len(payload) > service.limits.json_bytes:
            raise TooLargeError(
                f"expected at most {service.limits.json_bytes:,} bytes of JSON, got {len(payload):,}; send less at once"
            )
        short = len(payload) <= SHORT
        read = _read(payload, engine.manifest) if short else await asyncio.to_thread(_read, payload, engine.manifest)
        x, entries = read
        terms = parameters.read(entries, engine)
        x = await texts.to_arrays(engine, x)
        outcome = await answering.answer(request, engine, x, terms, service.limits.answer_seconds)
        found = outputs.compute(outcome, engine.manifest)
        assert outcome.answer is not None
        names = (*_SHORTENED[outcome.answer.prediction.kind], *_ALWAYS)
        request.state.log.update(examples=outcome.ticket.examples)
        return Response(dump(saving.records({name: found[name] for name in names if name in found})), media_type=JSON)


def _read(payload: bytes, manifest: Manifest) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the inputs by name, and the parameters, of a body."""
    entries = parse(payload)
    check_names(entries, ("inputs", "parameters"), "the request")
    given, more = entries.get("inputs"), entries.get("parameters", {})
    if not isinstance(more, dict):
        raise ProtocolError(f"expected parameters as an object, got {shown(more)}; correct it")
    if manifest.tokenizer is not None and isinstance(given, list):
        return {texts.TEXT: listed.decode(given, BYTES, (len(given),), texts.TEXT)}, more
    if isinstance(given, list) and len(manifest.inputs) == 1:
        given = {manifest.inputs[0].name: given}
    if not isinstance(given, dict):
        names = [tensor.name for tensor in manifest.inputs]
        expected = "a list of examples" if len(names) == 1 else f"an object with one list for each of {names}"
        if manifest.tokenizer is not None:
            expected = f"a list of texts, or {expected}"
        raise ProtocolError(f"expected inputs as {expected}, got {shown(given)}; correct it")
    tensors = {tensor.name: tensor for tensor in manifest.inputs}
    answering.check_names(given, manifest)
    return {name: _array(data, tensors[name]) for name, data in given.items()}, more


def _array(data: object, tensor: Tensor) -> Array:
    """Return the array in nested lists, whose shape is that of the first of them."""
    shape, first = list[int](), data
    while isinstance(first, list) and len(shape) < MAX_AXES:
        if not first:
            raise ProtocolError(f"expected examples in {shown(tensor.name)}, got an empty list; add them")
        shape.append(len(first))
        first = first[0]
    return listed.decode(data, datatype_of(tensor.dtype), tuple(shape), tensor.name)
