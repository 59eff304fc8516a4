import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice_runtime.http.codec import requests, responses
from suffice_runtime.http.codec.documents import dump, header_length, join, parse
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.requests import Output
from suffice_runtime.http.codec.tensors import DTYPES

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def entry(name="x", shape=(2, 3), datatype="FP32", **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def body(document, *payloads):
    header = json.dumps(document).encode()
    return memoryview(header + b"".join(payloads)), len(header)


def test_arrays_inside_and_behind_the_json_are_read_in_the_order_of_the_inputs():
    ids = np.array([[7], [8]], dtype=np.int64)
    inputs = [
        entry(parameters={"binary_data_size": 24}),
        entry("mask", (2,), "BOOL", data=[True, False]),
        entry("ids", (2, 1), "INT64", parameters={"binary_data_size": 16}),
    ]
    outputs = [{"name": "label"}, {"name": "probs", "parameters": {"binary_data": False}}]
    document = {"id": "7", "inputs": inputs, "outputs": outputs, "parameters": {"budget": 0.5}}
    document["parameters"]["binary_data_output"] = True
    found = requests.decode(*body(document, X.tobytes(), ids.tobytes()))
    assert {name: array.tolist() for name, array in found.inputs.items()} == {
        "x": X.tolist(),
        "mask": [True, False],
        "ids": ids.tolist(),
    }
    assert (found.id, found.binary, found.parameters) == ("7", True, {"budget": 0.5})
    assert found.outputs == (Output("label", True), Output("probs", False))


def test_a_request_without_a_header_is_json_alone():
    found = requests.decode(memoryview(dump({"inputs": [entry(data=X.ravel().tolist())]})), None)
    assert found.inputs["x"].tolist() == X.tolist()
    assert (found.outputs, found.binary, found.id) == (None, False, None)


@given(st.integers(0, 200), st.lists(st.binary(max_size=30), max_size=5))
def test_a_joined_body_is_its_chunks_with_tensors_that_are_aligned(length, chunks):
    joined = join(chunks, length)
    assert bytes(joined) == b"".join(chunks)
    behind = np.frombuffer(joined[length:], dtype=np.uint8)
    if len(behind):
        assert behind.__array_interface__["data"][0] % 8 == 0
    assert bytes(join(chunks, None)) == b"".join(chunks)


WRONG = {
    "no inputs": ({}, [], "expected inputs as a list of objects, got None"),
    "empty inputs": ({"inputs": []}, [], "at least one tensor"),
    "inputs no list": ({"inputs": {"x": 1}}, [], "expected inputs as a list of objects, got an object of 1 entries"),
    "unnamed": ({"inputs": [{**entry(), "name": ""}]}, [], "expected a name in inputs[0]"),
    "no name": ({"inputs": [{"shape": [1]}]}, [], "expected a name in inputs[0], got None"),
    "no data": ({"inputs": [entry()]}, [], "expected data or binary_data_size for the input 'x', got neither"),
    "both": ({"inputs": [entry(data=[1], parameters={"binary_data_size": 4})]}, [b"abcd"], "got both"),
    "twice": ({"inputs": [entry(data=[0] * 6)] * 2}, [], "expected each input once, got 'x' twice"),
    "more than there is": (
        {"inputs": [entry(parameters={"binary_data_size": 24})]},
        [b"abc"],
        "at most the 3 bytes that are left behind the JSON, got 24",
    ),
    "negative": ({"inputs": [entry(parameters={"binary_data_size": -1})]}, [], "got -1"),
    "a float": ({"inputs": [entry(parameters={"binary_data_size": 24.0})]}, [X.tobytes()], "got 24.0"),
    "a flag": ({"inputs": [entry(parameters={"binary_data_size": True})]}, [X.tobytes()], "got True"),
    "another shape": (
        {"inputs": [entry(shape=(2, 2), parameters={"binary_data_size": 24})]},
        [X.tobytes()],
        "expected 16 bytes for 'x', FP32 of shape [2, 2], got 24",
    ),
    "bytes behind": (
        {"inputs": [entry(parameters={"binary_data_size": 24})]},
        [X.tobytes(), b"more"],
        "expected 24 bytes of tensors behind the JSON, as binary_data_size states, got 28",
    ),
    "shared memory": ({"inputs": [entry(parameters={"shared_memory_region": "a"})]}, [], "got 'shared_memory_region'"),
    "slip": ({"inputs": [entry(data=[0] * 6)], "output": []}, [], "expected entries id, model_name"),
    "parameters": ({"inputs": [entry(data=[0] * 6)], "parameters": [1]}, [], "expected parameters as an object"),
    "deep parameter": ({"inputs": [entry(data=[0] * 6)], "parameters": {"a": [1]}}, [], "as parameter 'a', got [1]"),
    "id": ({"inputs": [entry(data=[0] * 6)], "id": 7}, [], "expected id as a string"),
    "output twice": ({"inputs": [entry(data=[0] * 6)], "outputs": [{"name": "a"}] * 2}, [], "each output once"),
    "classification": (
        {"inputs": [entry(data=[0] * 6)], "outputs": [{"name": "a", "parameters": {"classification": 3}}]},
        [],
        "got 'classification'",
    ),
    "binary flag": (
        {"inputs": [entry(data=[0] * 6)], "outputs": [{"name": "a", "parameters": {"binary_data": 1}}]},
        [],
        "expected binary_data of 'a' as true or false, got 1",
    ),
}


@pytest.mark.parametrize(("document", "payloads", "message"), WRONG.values(), ids=WRONG)
def test_each_lie_has_a_message_that_names_it(document, payloads, message):
    with pytest.raises(ProtocolError) as caught:
        requests.decode(*body(document, *payloads))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


NO_JSON = {
    "nothing": b"",
    "cut": b'{"inputs": [',
    "a list": b"[]",
    "not UTF-8": b'{"id": "\xff"}',
    "two": b"{} {}",
    "a name twice": b'{"inputs": [], "inputs": []}',
    "deep": b'{"inputs": ' + b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("payload", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_object_is_refused(payload):
    with pytest.raises(ProtocolError, match=r"^expected"):
        parse(payload)


def test_a_name_that_comes_twice_among_many_is_found_in_linear_time():
    names = [f"{i:x}" for i in range(50_000)]
    payload = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    start = time.process_time()
    with pytest.raises(ProtocolError, match="got 'c34f' twice"):
        parse(payload.encode())
    assert time.process_time() - start < 5  # a comparison of all pairs takes minutes


@pytest.mark.parametrize("value", ["", "-1", "1.0", "+3", "0x3", "1e3", "\u0663", "9" * 30, " 3", "11"])
def test_lengths_that_lie_are_refused(value):
    with pytest.raises(ProtocolError, match=r"^expected Inference-Header-Content-Length"):
        header_length(value, 10)


def test_lengths_of_the_body_are_read():
    assert (header_length(None, 3), header_length("0", 3), header_length("3", 3)) == (None, 0, 3)


@given(st.binary(max_size=60), st.none() | st.integers(0, 60))
def test_any_bytes_are_a_request_or_refused(payload, length):
    with pytest.raises(ProtocolError):
        requests.decode(memoryview(payload), None if length is None else min(length, len(payload)))


@given(st.sampled_from(list(DTYPES)), st.booleans(), st.booleans())
def test_a_response_is_read_as_it_was_written(datatype, first, second):
    array = np.arange(2).astype(DTYPES[datatype])
    payload, length = responses.encode({"id": "1"}, [("a", array, first), ("b", array, second)])
    header = json.loads(payload[:length])
    assert (length is None) == (not first and not second)
    rest = b"" if length is None else payload[length:]
    for output, as_bytes in zip(header["outputs"], (first, second), strict=True):
        assert (output["datatype"], output["shape"]) == (datatype, [2])
        if as_bytes:
            size = output["parameters"]["binary_data_size"]
            found, rest = np.frombuffer(rest[:size], DTYPES[datatype]), rest[size:]
        else:
            found = np.array(output["data"], DTYPES[datatype])
        assert found.tobytes() == array.tobytes()
    assert rest == b""
