import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("uvicorn")

import bundles
from http_server import started
from suffice_runtime import Runner
from text_bundles import TEXTS, write

PATH, PLAIN = "/v2/models/net/infer", "/v1/models/net/predict"


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(write(tmp_path_factory.mktemp("texts") / "bundle"))


@pytest.fixture(scope="module")
def server(runner):
    with started(runner) as found:
        yield found


def document(texts, shape=None, **more):
    shape = [len(texts)] if shape is None else shape
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": shape, "data": texts}], **more}


@pytest.mark.parametrize("shape", [[4], [4, 1]])
def test_texts_are_answered_as_by_the_runner(server, runner, shape):
    status, found = server.json("POST", PATH, document(TEXTS, shape))
    assert status == 200
    outputs = {output["name"]: output["data"] for output in found["outputs"]}
    answer = runner.run(TEXTS)
    assert outputs["exit"] == answer.exit.tolist()
    np.testing.assert_allclose(outputs["probs"], answer.probs.ravel(), atol=1e-5)


def test_many_texts_and_plain_json(server, runner):
    texts = TEXTS * 20
    status, found = server.json("POST", PLAIN, {"inputs": texts})
    assert status == 200
    assert [record["exit"] for record in found] == runner.run(texts).exit.tolist()


def test_arrays_are_taken_too(server, runner):
    arrays = bundles.texts(3, 4)
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [3, 4], "data": array.ravel().tolist()}
        for name, array in arrays.items()
    ]
    status, found = server.json("POST", PATH, {"inputs": inputs})
    assert status == 200
    exits = next(output["data"] for output in found["outputs"] if output["name"] == "exit")
    assert exits == runner.run(arrays).exit.tolist()


def test_one_text_that_is_no_list_is_refused_by_what_is_expected(server):
    status, found = server.json("POST", PLAIN, {"inputs": TEXTS[0]})
    assert (status, "expected inputs as a list of texts, or an object with one list" in found["error"]) == (400, True)


def test_documents_name_the_texts(server):
    assert server.json("GET", "/v2/models/net")[1]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    config = server.json("GET", "/v2/models/net/config")[1]
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": []}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (document(["a", "a " * 9]), "texts of 1 to 7 tokens, got 9 at position 1"),
        (document(["a", "b"], [1, 2]), "'text' as BYTES of shape [N] or [N, 1], got BYTES of shape [1, 2]"),
        (
            {"inputs": [{"name": "text", "datatype": "INT64", "shape": [1], "data": [3]}]},
            "'text' as BYTES of shape [N] or [N, 1], got INT64",
        ),
        (
            {"inputs": [*document(["a"])["inputs"], {**document(["a"])["inputs"][0], "name": "input_ids"}]},
            "'text' alone, or arrays, got also 'input_ids'",
        ),
        (document(["\ud800"]), "'text' in UTF-8, got other bytes at position 0"),
    ],
)
def test_texts_that_the_model_does_not_take_are_refused(server, body, message):
    status, found = server.json("POST", PATH, body)
    assert status == 400
    assert message in found["error"]


def test_no_texts_have_no_answers(server):
    status, found = server.json("POST", PATH, document([]))
    assert status == 200
    assert next(output for output in found["outputs"] if output["name"] == "exit")["shape"] == [0]


def test_a_client_of_triton_sends_strings(server, runner):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(server.url) as client:
        given = http.InferInput("text", [4], "BYTES")
        given.set_data_from_numpy(np.array(TEXTS, dtype=object))
        result = client.infer("net", [given])
    assert result.as_numpy("exit").tolist() == runner.run(TEXTS).exit.tolist()


def test_no_texts_of_any_number_of_tokens_have_no_answers(server):
    inputs = [
        {"name": name, "shape": [0, 2**40], "datatype": "INT64", "data": []} for name in ("input_ids", "attention_mask")
    ]
    status, found = server.json("POST", "/v2/models/net/infer", {"inputs": inputs})
    assert status == 200
    assert {output["shape"][0] for output in found["outputs"]} == {0}
