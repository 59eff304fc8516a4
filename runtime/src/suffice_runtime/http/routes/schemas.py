"""Schemas of documents and bodies for OpenAPI."""

from typing import Any

from suffice_runtime.http.codec.tensors import BYTES, DTYPES
from suffice_runtime.http.parameters import KNOWN
from suffice_runtime.http.routes import state_schema
from suffice_runtime.http.routes.documents import refer


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, extra: bool = False) -> dict[str, Any]:
    """Return the schema of an object."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": extra,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _FLAG, _WHOLE = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}

_DATATYPE = {"type": "string", "enum": [*DTYPES, BYTES]}

_ANY_DATA = {"type": "array", "description": "Elements in row-major order, flat or nested as the shape is", "items": {}}

_NUMBER = {"type": "number", "exclusiveMinimum": 0}

_PARAMETERS = _object(
    {},
    {
        "budget": {**_NUMBER, "maximum": 1, "description": KNOWN["budget"]},
        "deadline_ms": {**_NUMBER, "description": KNOWN["deadline_ms"]},
        "timeout": {**_NUMBER, "description": KNOWN["timeout"]},
        "cap_exit": {**_WHOLE, "description": KNOWN["cap_exit"]},
    },
)

_TENSOR = _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _list({"type": "integer", "minimum": -1})})

_SHAPED = {"name": _TEXT, "shape": _list(_WHOLE), "datatype": _DATATYPE}

_BINARY_SIZE = _object({}, {"binary_data_size": _WHOLE})

SCHEMAS: dict[str, Any] = {
    "Error": _object({"error": _TEXT}, extra=True),
    "Live": _object({"live": _FLAG}),
    "Ready": _object({"ready": _FLAG}, {"name": _TEXT}),
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Model": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_TENSOR),
            "outputs": _list(_TENSOR),
        }
    ),
    "Index": _list(_object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT})),
    "Filter": _object({}, {"ready": _FLAG}),
    "Document": {"type": "object"},
    "Parameters": _PARAMETERS,
    "InferenceRequest": _object(
        {
            "inputs": {
                **_list(_object(_SHAPED, {"data": _ANY_DATA, "parameters": _BINARY_SIZE})),
                "minItems": 1,
            }
        },
        {
            "id": {**_TEXT, "maxLength": 1024},
            "model_name": _TEXT,
            "outputs": _list(_object({"name": _TEXT}, {"parameters": _object({}, {"binary_data": _FLAG})})),
            "parameters": {
                **_PARAMETERS,
                "properties": {**_PARAMETERS["properties"], "binary_data_output": _FLAG},
            },
        },
    ),
    "InferenceResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": {"type": "object"},
            "outputs": _list(_object(_SHAPED, {"data": _ANY_DATA, "parameters": _BINARY_SIZE})),
        },
        {"id": _TEXT},
    ),
    "PredictRequest": _object(
        {
            "inputs": {
                "description": "Examples as nested lists, or an object with one nested list for each input",
                "anyOf": [_list({}), {"type": "object", "additionalProperties": _list({})}],
            }
        },
        {"parameters": refer("Parameters")},
    ),
    "PredictResponse": _list(_object({"exit": _WHOLE, "late": _FLAG, "capped": _FLAG}, extra=True)),
    "Policy": {
        "type": "object",
        "description": "Entries as in the manifest of a bundle, with made_for as the hash of the calibrated network",
        "required": ["score", "thresholds", "shares", "expected", "unit", "budget"],
    },
    "PolicyInForce": _object({"version": _WHOLE, "policy": refer("Policy")}),
    **state_schema.SCHEMAS,
}
"""Schemas by name."""
