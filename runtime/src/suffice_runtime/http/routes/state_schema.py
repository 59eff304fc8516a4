"""Schemas of the state of a model for OpenAPI; those of its parts are made from their classes."""

from typing import Any

from pydantic import TypeAdapter

from suffice_runtime.http import state
from suffice_runtime.http.routes.documents import refer
from suffice_runtime.prediction import KINDS
from suffice_runtime.serving.statistics import Statistics
from suffice_runtime.serving.watch import Watch


def _made_from(*classes: type) -> dict[str, Any]:
    """Return the schemas of dataclasses and of their parts by name."""
    found = dict[str, Any]()
    for each in classes:
        schema = TypeAdapter(each).json_schema(mode="serialization", ref_template=refer("{model}")["$ref"])
        found.update(schema.pop("$defs", {}))
        found[each.__name__] = schema
    return found


def _object(description: str, **entries: Any) -> dict[str, Any]:
    """Return the schema of an object whose entries are all there."""
    return {
        "type": "object",
        "description": description,
        "required": list(entries),
        "properties": entries,
        "additionalProperties": False,
    }


def _or(*choices: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that one of some schemas describes."""
    return {"anyOf": list(choices)}


_TEXT, _FLAG, _NUMBER, _NULL = {"type": "string"}, {"type": "boolean"}, {"type": "number"}, {"type": "null"}
_WHOLE = {"type": "integer", "minimum": 0}
_SECONDS = _or(_NUMBER, _NULL, {"type": "string", "enum": ["inf"]})
_FRACTION = {**_NUMBER, "description": "Expected cost as a fraction of that of the last exit"}
_COLUMN = {"type": "array", "items": {}}

SCHEMAS: dict[str, Any] = {
    **_made_from(Statistics, Watch),
    "Rates": _object(
        "What was answered in some seconds. Median and p99 are the upper edges of the buckets of the histogram that "
        "hold them: null without requests, inf above the last edge",
        seconds=_NUMBER,
        requests=_WHOLE,
        requests_per_second=_NUMBER,
        examples_per_second=_NUMBER,
        refused=_WHOLE,
        median_seconds=_SECONDS,
        p99_seconds=_SECONDS,
    ),
    "History": _object(
        "One list for each field, with a value for each point, the oldest first. Points are 10 s apart for a day and "
        "10 min for a month, and are lost when the server ends. Rates are those since the point before",
        **dict.fromkeys(("time", *state.WATCHED, "cost", *state.RATES), _COLUMN),
    ),
    "State": _object(
        "State of a model. Times are in seconds since 1970",
        name=_TEXT,
        version=_TEXT,
        latest={**_FLAG, "description": "Whether this is the version that paths without one are for"},
        ready=_FLAG,
        time=_NUMBER,
        kind={**_TEXT, "enum": list(KINDS)},
        token={**_FLAG, "description": "Whether the server has a token, without which it accepts no policy"},
        statistics=refer("Statistics"),
        recent={"description": "Rates of the last minute", **refer("Rates")},
        watch=refer("Watch"),
        policy=_object(
            "Policy in force",
            version=_WHOLE,
            index={**_or(_WHOLE, _NULL), "description": "Place among the policies of the bundle; null for another one"},
            fraction=_FRACTION,
            policy=refer("Policy"),
        ),
        policies={
            "type": "array",
            "description": "Policies of the bundle, of rising cost on the validation data",
            "items": _object("Policy of the bundle", fraction=_FRACTION, policy=refer("Policy")),
        },
        history=refer("History"),
    ),
}
"""Schemas by name."""
