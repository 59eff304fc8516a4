import json

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import started

PATH = "/v1/models/net/predict"


def test_a_record_for_each_example(server, runner, x):
    status, found = server.json("POST", PATH, {"inputs": x.tolist()})
    answer, names = runner.run(x), ["cat", "dog", "owl"]
    assert status == 200
    assert [record["label"] for record in found] == answer.label.tolist()
    assert [record["class_name"] for record in found] == [names[label] for label in answer.label]
    assert [record["exit"] for record in found] == answer.exit.tolist()
    assert [record["confidence"] for record in found] == pytest.approx(answer.confidence.tolist(), abs=1e-5)
    assert not any(record["late"] or record["capped"] for record in found)


def test_inputs_by_name_and_parameters(opened, server, x):
    found = server.json("POST", PATH, {"inputs": {"input": x.tolist()}, "parameters": {"cap_exit": 0}})[1]
    assert [record["exit"] for record in found] == [0] * len(x)
    texts, runner = bundles.texts(3, 4), opened(tokens=True)
    with started(runner) as text_server:
        given = {name: array.tolist() for name, array in texts.items()}
        found = text_server.json("POST", PATH, {"inputs": given})[1]
        assert [record["exit"] for record in found] == runner.run(texts).exit.tolist()
        status, found = text_server.json("POST", PATH, {"inputs": [[1, 2]]})
        assert (status, "expected inputs as an object with one list for each of" in found["error"]) == (400, True)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("multilabel", {"label", "probs", "confidence", "exit", "late", "capped"}),
        ("regression", {"mean", "variance", "exit", "late", "capped"}),
    ],
)
def test_other_kinds_have_their_own_records(opened, x, kind, keys):
    with started(opened(kind)) as server:
        found = server.json("POST", PATH, {"inputs": x.tolist()})[1]
    assert [set(record) for record in found] == [keys] * len(x)


def test_sets_are_labels_and_infinite_ends_strings(opened, x):
    with started(opened(sets=bundles.SETS)) as server:
        found = server.json("POST", PATH, {"inputs": x.tolist()})[1]
        assert [record["set"] for record in found] == opened(sets=bundles.SETS).run(x).set.labels()
    rule = {**bundles.SETS, "method": "interval", "randomized": False, "thresholds": ["inf"] * 3}
    with started(opened("regression", sets=rule)) as server:
        _, _, body = server.send("POST", PATH, json.dumps({"inputs": x.tolist()}).encode())
        found = json.loads(body, parse_constant=pytest.fail)
        assert found[0]["set_low"] == ["-inf"] * 3


WRONG = {
    "no object": ([1], "expected a JSON object"),
    "nothing": ({}, "expected inputs as a list of examples, got None"),
    "instances": ({"instances": []}, "expected entries inputs, parameters in the request, got 'instances'"),
    "no examples": ({"inputs": []}, "expected examples in 'input', got an empty list"),
    "one example": ({"inputs": [1.0, 2.0, 3.0, 4.0]}, "one example needs an axis for the batch"),
    "ragged": ({"inputs": [[1.0], [1.0, 2.0]]}, "expected lists of the shape [2, 1]"),
    "text": ({"inputs": [["a"]]}, "expected numbers in 'input', FP32, got 'a'"),
    "not finite": ({"inputs": [[0, 0, 0, 1e99]]}, "at position 0: expected finite numbers"),
    "parameters": ({"inputs": [[0, 0, 0, 0]], "parameters": 3}, "expected parameters as an object"),
    "unknown": ({"inputs": {"x": [[0]]}}, "expected the inputs ['input'], got 'x'"),
}


@pytest.mark.parametrize(("document", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_request_is_refused(server, document, message):
    status, found = server.json("POST", PATH, document)
    assert status == 400
    assert message in found["error"]
