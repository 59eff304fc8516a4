import json
import re

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import started


@pytest.fixture(scope="module")
def schema(server):
    return server.json("GET", "/openapi.json")[1]


def operations(schema):
    return {(method.upper(), path): each for path, ways in schema["paths"].items() for method, each in ways.items()}


def references(value):
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_route_is_described_with_its_parameters_and_errors(schema):
    found = operations(schema)
    assert len(found) == 21
    assert len({each["operationId"] for each in found.values()}) == len(found)
    for (method, path), each in found.items():
        named = [entry["name"] for entry in each["parameters"] if entry["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)
        assert {"200", "401", "500"} <= set(each["responses"])
        assert "422" not in each["responses"]
        assert "404" in each["responses"] or not named
        assert ("requestBody" in each) == (method == "POST" and path != "/v2/repository/index")
        assert each["summary"]


def test_all_references_are_there(schema):
    for reference in references(schema):
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert name in schema["components"]["schemas"]


def fits(value, schema, whole):
    """Check a value against the part of JSON Schema that the description uses."""
    if "$ref" in schema:
        return fits(value, whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]], whole)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), (value, schema)
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value), (value, schema)
        known = schema.get("properties", {})
        assert schema.get("additionalProperties", True) or set(value) <= set(known), (value, schema)
        for key in set(value) & set(known):
            fits(value[key], known[key], whole)
    if isinstance(value, list):
        for item in value:
            fits(item, schema.get("items", {}), whole)
    assert value in schema.get("enum", [value])
    return None


CALLS = [
    ("GET", "/v2", None),
    ("GET", "/v2/health/live", None),
    ("GET", "/v2/health/ready", None),
    ("GET", "/v2/models/stats", None),
    *[("GET", f"/v2/models/{{model}}{part}", None) for part in ("", "/ready", "/config", "/stats")],
    *[
        ("GET", f"/v2/models/{{model}}/versions/{{version}}{part}", None)
        for part in ("", "/ready", "/config", "/stats")
    ],
    ("GET", "/v1/models/{model}/state", None),
    ("GET", "/v1/models/{model}/versions/{version}/state?since=1.5&points=2", None),
    ("GET", "/v1/models/{model}/policy", None),
    ("POST", "/v1/models/{model}/policy", bundles.POLICY),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/models/{model}/infer", "infer"),
    ("POST", "/v2/models/{model}/versions/{version}/infer", "infer"),
    ("POST", "/v1/models/{model}/predict", {"inputs": bundles.inputs(2).tolist()}),
]


def test_responses_are_those_that_are_described(runner, infer):
    with started(runner, token=b"token") as server:
        schema = server.json("GET", "/openapi.json", authorization="Bearer token")[1]
        assert schema["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
        found = operations(schema)
        assert set(found) - {(method, path.partition("?")[0]) for method, path, _ in CALLS} == {("GET", "/metrics")}
        for method, path, document in CALLS:
            given = infer(bundles.inputs(2), id="7") if document == "infer" else document
            real = path.format(model="net", version="1")
            for token, name in (("token", real), ("token", real.replace("net", "other")), ("wrong", real)):
                status, value = server.json(method, name, given, authorization=f"Bearer {token}")
                response = found[method, path.partition("?")[0]]["responses"][str(status)]
                fits(value, response["content"]["application/json"]["schema"], schema)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_schemathesis_finds_no_fault(runner):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    with started(runner) as server:
        schema = schemathesis.openapi.from_url(f"http://{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @given(case=operation.as_strategy())
            @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
            def check(case):
                response = case.call()
                assert response.status_code < 500, (case, response.text)
                case.validate_response(response)

            check()
        assert json.loads(server.send("GET", "/v2/health/ready")[2]) == {"ready": True}
