"""Requests that lie, written byte by byte: each has one clear error, none a fault of the server or a wait."""

import contextlib
import json
import socket

import numpy as np
import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import read_response, written

X = bundles.inputs(2)
PATH = "/v2/models/net/infer"


def tensor(**more):
    return {"name": "input", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}, **more}


def body(document, payload=b""):
    header = json.dumps(document).encode()
    return header + payload, str(len(header))


LISTED = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}


def listed(**more):
    return {"inputs": [{**LISTED["inputs"][0], **more}]}


LIES = {
    "unknown input": ({"inputs": [*LISTED["inputs"], {**LISTED["inputs"][0], "name": "x"}]}, "leave out 'x'"),
    "labels as an input": ({"inputs": [*LISTED["inputs"], {**LISTED["inputs"][0], "name": "labels"}]}, "'labels'"),
    "missing input": (listed(name="y"), "expected the inputs ['input'], got 'y'; add 'input'"),
    "twice": ({"inputs": LISTED["inputs"] * 2}, "expected each input once"),
    "float64": (listed(datatype="FP64"), "expected float32 for the input 'input', got float64"),
    "strings": (listed(datatype="BYTES", data=["a"] * 8), "expected float32 for the input 'input', got object"),
    "other shape": (listed(shape=[4, 2]), "expected input float32 (N, 4) as an input, got shape (4, 2)"),
    "one axis": (listed(shape=[8]), "expected input float32 (N, 4) as an input, got shape (8,)"),
    "one example": (listed(shape=[4], data=[0.0] * 4), "one example needs an axis for the batch"),
    "huge shape": (listed(shape=[10**12, 4]), "expected a shape of at most"),
    "huge shape of nothing": (listed(shape=[0, 2**60]), "expected a shape of at most"),
    "too many": (listed(shape=[2, 5]), "expected 10 elements"),
    "beyond floats": (listed(data=[1e300] + [0.0] * 7), "got NaN or infinity at position 0"),
    "unknown output": ({**LISTED, "outputs": [{"name": "logits"}]}, "expected outputs among exit, macs"),
    "estimate without an estimator": ({**LISTED, "outputs": [{"name": "variation"}]}, "expected outputs among"),
    "another model": ({**LISTED, "model_name": "other"}, "expected model_name as 'net'"),
    "unknown parameter": ({**LISTED, "parameters": {"bugdet": 0.5}}, "expected parameters among budget"),
    "sequence": ({**LISTED, "parameters": {"sequence_id": 3}}, "got 'sequence_id'"),
    "budget of text": ({**LISTED, "parameters": {"budget": "0.5"}}, "expected budget as a number above 0, got '0.5'"),
    "budget of a flag": ({**LISTED, "parameters": {"budget": True}}, "got True"),
    "budget above 1": ({**LISTED, "parameters": {"budget": 2}}, "in (0, 1], got 2.0"),
    "budget of 0": ({**LISTED, "parameters": {"budget": 0}}, "expected budget as a number above 0"),
    "budget of nan": ({**LISTED, "parameters": {"budget": float("nan")}}, "got nan"),
    "deadline": ({**LISTED, "parameters": {"deadline_ms": -1}}, "expected deadline_ms as a number above 0"),
    "endless deadline": ({**LISTED, "parameters": {"deadline_ms": float("inf")}}, "got inf"),
    "long timeout": ({**LISTED, "parameters": {"timeout": 10**400}}, "expected timeout as a number above 0"),
    "two deadlines": ({**LISTED, "parameters": {"timeout": 10**7, "deadline_ms": 9}}, "one of deadline_ms and timeout"),
    "cap": ({**LISTED, "parameters": {"cap_exit": 3}}, "expected cap_exit as the number of an exit, 0 to 2, got 3"),
    "negative cap": ({**LISTED, "parameters": {"cap_exit": -1}}, "0 to 2, got -1"),
    "cap of a float": ({**LISTED, "parameters": {"cap_exit": 1.0}}, "expected cap_exit as the number of an exit"),
}


@pytest.mark.parametrize(("document", "message"), LIES.values(), ids=LIES)
def test_each_lie_has_a_clear_error(server, document, message):
    status, found = server.json("POST", PATH, document)
    assert (status, list(found)) == (400, ["error"])
    assert message in found["error"]
    assert found["error"].startswith("expected ")


def test_examples_that_are_not_finite_are_named_and_none_is_answered(server):
    x = bundles.inputs(60)
    x[[3, 17], 1] = np.nan
    payload, length = body({"inputs": [tensor(shape=[60, 4], parameters={"binary_data_size": x.nbytes})]}, x.tobytes())
    status, _, found = server.send("POST", PATH, payload, inference_header_content_length=length)
    message = "expected answers for all 60 examples, got none for 2, at positions 3, 17: expected finite numbers in"
    assert status == 400
    assert json.loads(found)["error"].startswith(message)
    x[:] = np.inf
    payload, length = body({"inputs": [tensor(shape=[60, 4], parameters={"binary_data_size": x.nbytes})]}, x.tobytes())
    status, _, found = server.send("POST", PATH, payload, inference_header_content_length=length)
    assert "got none for 60, at positions 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 50 more" in json.loads(found)["error"]


@pytest.mark.parametrize(
    ("length", "status"),
    [("0", 400), ("1", 400), ("99999999", 400), ("-1", 400), ("x", 400), ("9" * 40, 400), ("1, 2", 400)],
)
def test_a_length_of_the_json_that_lies_is_refused(server, length, status):
    payload, _ = body({"inputs": [tensor()]}, X.tobytes())
    found, _, answer = server.send("POST", PATH, payload, inference_header_content_length=length)
    assert found == status
    assert json.loads(answer)["error"].startswith("expected ")


def test_tensors_without_the_length_of_the_json_are_refused(server):
    payload, _ = body({"inputs": [tensor()]}, X.tobytes())
    status, _, found = server.send("POST", PATH, payload)
    assert status == 400
    assert "expected" in json.loads(found)["error"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /v2/models/net/infer HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /v2/models/net/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v2/models/net/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 200_000 + b"\r\n",
    ],
)
def test_what_is_no_http_is_refused(server, payload):
    with server.connect() as opened:
        with contextlib.suppress(OSError):  # the server may close before all is sent
            opened.sendall(payload)
            opened.shutdown(socket.SHUT_WR)
        try:
            status, _, found = read_response(opened)
        except ConnectionError:
            status, found = None, b""
    assert status in (None, 400)
    if found:
        assert json.loads(found)["error"].startswith("expected ")


@pytest.mark.parametrize(
    ("headers", "message", "ends"),
    [
        (b"transfer-encoding: chunked\r\ncontent-length: 4", "Transfer-Encoding or Content-Length, got both", True),
        (
            b"content-length: 9\r\ncontent-encoding: gzip\r\ncontent-encoding: gzip",
            "one header content-encoding",
            False,
        ),
        (
            b"content-length: 9\r\n" + 2 * b"inference-header-content-length: 2\r\n",
            "one header Inference-Header-Content-Length",
            False,
        ),
    ],
)
def test_headers_that_two_servers_may_read_in_two_ways_are_refused(server, headers, message, ends):
    head = b"POST /v2/models/net/infer HTTP/1.1\r\nhost: a\r\n" + headers.rstrip() + b"\r\n\r\n"
    status, got, found = server.raw(head + b"4\r\n{ab}\r\n0\r\n\r\n"[: 9 if not ends else None])
    assert status == 400
    assert message in json.loads(found)["error"]
    assert (got.get("connection") == "close") == ends


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/net/infer", 405),
        ("DELETE", "/v2/models/net", 405),
        ("GET", "/v2/models/net/versions/9", 404),
        ("GET", "/v2/models/%6eet", 200),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/models/" + "a" * 3000, 404),
        ("GET", "/v2/models/%ff%00", 404),
        ("GET", "/v2/", 404),
        ("POST", "/v2/repository/models/net/load", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
    ],
)
def test_paths_that_are_not_there_are_errors_of_the_protocol(server, method, path, status):
    found, _, answer = server.send(method, path)
    assert found == status
    assert status == 200 or json.loads(answer)["error"].startswith("expected ")


def test_an_unknown_path_is_answered_by_where_the_paths_are(server):
    status, found = server.json("GET", "/docs")
    assert (status, "one of the paths that /openapi.json lists, got GET '/docs'" in found["error"]) == (404, True)


def mutated(generator):
    """Return a request of the binary extension in which something was changed at random."""
    rows = int(generator.integers(0, 4))
    payload = generator.normal(size=(rows, 4)).astype(np.float32).tobytes()
    document = {"id": "1", "inputs": [tensor(shape=[rows, 4], parameters={"binary_data_size": len(payload)})]}
    kind = generator.integers(7)
    values = [-1, 0, 1, 2**31, 2**63, 2**64, 1.5, "x", None, True, [], {}, [2**40], float("nan")]
    value = values[generator.integers(len(values))]
    if kind == 0:
        document["inputs"][0][("shape", "datatype", "name", "parameters", "data")[generator.integers(5)]] = value
    elif kind == 1:
        document["inputs"][0]["parameters"]["binary_data_size"] = value
    elif kind == 2:
        document[("inputs", "outputs", "parameters", "id", "model_name")[generator.integers(5)]] = value
    text, length = body(document, payload)
    encoded, length = bytearray(text), int(length)
    if kind == 3 and encoded:
        encoded[generator.integers(len(encoded))] = generator.integers(256)
    elif kind == 4:
        length += int(generator.integers(-length, 50))
    elif kind == 5:
        del encoded[generator.integers(len(encoded)) :]
    elif kind == 6:
        encoded += generator.bytes(generator.integers(1, 40))
    return bytes(encoded), str(length)


def attack(server, count, seed):
    """Send requests with changes at random; the server answers each, none with a fault."""
    generator, seen = np.random.default_rng(seed), set()
    with server.connect() as opened:
        for _ in range(count):
            payload, length = mutated(generator)
            opened.sendall(written("POST", PATH, payload, inference_header_content_length=length))
            status, headers, found = read_response(opened)
            assert status in (200, 400, 413), (status, payload, length, found)
            if status != 200:
                assert json.loads(found)["error"].startswith("expected "), payload
            assert "connection" not in headers
            seen.add(status)
    assert {200, 400} <= seen
    assert server.send("GET", "/v2/health/ready")[0] == 200


def test_changes_at_random_have_no_fault_and_no_wait(server):
    attack(server, 400, seed=0)


@pytest.mark.slow
def test_many_changes_at_random_have_no_fault_and_no_wait(server):
    attack(server, 10_000, seed=1)
