"""Inference requests: JSON with the tensors inside or behind it, in the order of the inputs."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from suffice_runtime.http.codec import binary, listed
from suffice_runtime.http.codec.documents import check_names, parse, place
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import read_datatype, read_shape, shown

Array = NDArray[Any]

_REQUEST = ("id", "model_name", "model_version", "inputs", "outputs", "parameters")
_INPUT = ("name", "shape", "datatype", "parameters", "data")

MAX_ID = 1024
"""Greatest number of characters in the id of a request."""


@dataclass(frozen=True)
class Output:
    """Output that is requested.

    Attributes:
        name: Its name.
        binary: Whether it is returned as bytes behind the JSON.
    """

    name: str
    binary: bool


@dataclass(frozen=True)
class InferenceRequest:
    """Request for an inference.

    Attributes:
        inputs: Arrays by name.
        id: Text that the response repeats, or None.
        model_name: Name of a model in the body, or None.
        outputs: Requested outputs; None for all.
        binary: Whether outputs are returned as bytes if none are requested by name.
        parameters: Other parameters: strings, numbers, true and false.
    """

    inputs: dict[str, Array]
    id: str | None = None
    model_name: str | None = None
    outputs: tuple[Output, ...] | None = None
    binary: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


def decode(body: memoryview, length: int | None) -> InferenceRequest:
    """Return the request in a body.

    Args:
        body: Body, not compressed.
        length: Number of bytes of JSON at its beginning, as the HTTP header states it; None for all.

    Raises:
        ProtocolError: If the body is no request of the protocol; the message names the place.
    """
    entries = parse(body if length is None else body[:length])
    check_names(entries, _REQUEST, "the request")
    parameters = dict(_object(entries.get("parameters"), "parameters"))
    for name, value in parameters.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ProtocolError(f"expected a string, number or flag as parameter {shown(name)}, got {shown(value)}")
    as_bytes = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    return InferenceRequest(
        _inputs(entries, memoryview(b"") if length is None else body[length:]),
        _text(entries, "id"),
        _text(entries, "model_name"),
        _outputs(entries.get("outputs"), as_bytes),
        as_bytes,
        parameters,
    )


def _inputs(entries: dict[str, Any], payload: memoryview) -> dict[str, Array]:
    """Return the arrays of the inputs, whose bytes must be all of the payload."""
    listing = _objects(entries.get("inputs"), "inputs")
    if not listing:
        raise ProtocolError("expected inputs as a list of at least one tensor, got none; add them")
    found, start = dict[str, Array](), 0
    for i, entry in enumerate(listing):
        name = _name(entry, f"inputs[{i}]")
        if name in found:
            raise ProtocolError(f"expected each input once, got {shown(name)} twice; leave one out")
        found[name], size = _input(entry, name, payload[start:])
        start += size
    if start != len(payload):
        raise ProtocolError(
            f"expected {start:,} bytes of tensors behind the JSON, as binary_data_size states, got {len(payload):,}; "
            "correct binary_data_size, or the length of the JSON in the HTTP header"
        )
    return found


def _input(entry: dict[str, Any], name: str, payload: memoryview) -> tuple[Array, int]:
    """Return the array of an input, and the number of bytes that it took from the payload."""
    check_names(entry, _INPUT, "the input", name)
    datatype, shape = read_datatype(entry.get("datatype"), name), read_shape(entry.get("shape"), name)
    parameters, data = _object(entry.get("parameters"), "parameters of", name), entry.get("data")
    check_names(parameters, ("binary_data_size",), "the parameters of", name)
    size = parameters.get("binary_data_size")
    if (size is None) == (data is None):
        got = "neither" if data is None else "both"
        raise ProtocolError(f"expected data or binary_data_size for the input {shown(name)}, got {got}; send one")
    if size is None:
        return listed.decode(data, datatype, shape, name), 0
    if type(size) is not int or not 0 <= size <= len(payload):
        raise ProtocolError(
            f"expected binary_data_size of {shown(name)} as a whole number of at most the {len(payload):,} bytes that "
            f"are left behind the JSON, got {shown(size)}; correct it, or the length of the JSON in the HTTP header"
        )
    return binary.decode(payload[:size], datatype, shape, name), size


def _outputs(value: object, as_bytes: bool) -> tuple[Output, ...] | None:
    """Return the requested outputs; none at all if the list is missing or empty."""
    if value is None or value == []:
        return None
    found = dict[str, Output]()
    for i, entry in enumerate(_objects(value, "outputs")):
        name = _name(entry, f"outputs[{i}]")
        check_names(entry, ("name", "parameters"), "the output", name)
        parameters = _object(entry.get("parameters"), "parameters of", name)
        check_names(parameters, ("binary_data",), "the parameters of", name)
        if name in found:
            raise ProtocolError(f"expected each output once, got {shown(name)} twice; leave one out")
        found[name] = Output(name, _flag(parameters.get("binary_data", as_bytes), "binary_data of", name))
    return tuple(found.values())


def _objects(value: object, where: str) -> list[dict[str, Any]]:
    """Return a list of objects."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ProtocolError(f"expected {where} as a list of objects, got {shown(value)}; correct it")
    return value


def _object(value: object, where: str, name: str | None = None) -> dict[str, Any]:
    """Return an object; an empty one if there is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError(f"expected {place(where, name)} as an object, got {shown(value)}; correct it")
    return value


def _name(entry: dict[str, Any], where: str) -> str:
    """Return the name of a tensor."""
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ProtocolError(f"expected a name in {where}, got {shown(name)}; add it")
    return name


def _text(entries: dict[str, Any], name: str) -> str | None:
    """Return an entry that is a string, if it is there."""
    value = entries.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_ID):
        raise ProtocolError(f"expected {name} as a string of at most {MAX_ID} characters, got {shown(value)}")
    return value


def _flag(value: object, where: str, name: str | None = None) -> bool:
    """Return an entry that is true or false."""
    if not isinstance(value, bool):
        raise ProtocolError(f"expected {place(where, name)} as true or false, got {shown(value)}; correct it")
    return value
