import asyncio

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("tritonclient.http.aio")

from tritonclient import http, utils
from tritonclient.http import aio

import bundles
from http_server import started
from suffice_runtime import Runner

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FIELDS = ("exit", "macs", "label", "confidence", "entropy", "aleatoric", "epistemic", "probs", "scores")
ENCODINGS = [None, "gzip", "deflate"]


@pytest.fixture
def client(server):
    with http.InferenceServerClient(server.url, concurrency=8) as found:
        yield found


def given(x, binary=True, module=http, name="input"):
    found = module.InferInput(name, list(x.shape), utils.np_to_triton_dtype(x.dtype))
    found.set_data_from_numpy(x, binary_data=binary)
    return found


def test_health_and_documents(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("net")
    assert client.is_model_ready("net", "1")
    assert not client.is_model_ready("net", "2")
    assert client.get_server_metadata()["name"] == "suffice-runtime"
    metadata = client.get_model_metadata("net", "1")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert {"name": "probs", "datatype": "FP32", "shape": [-1, 3]} in metadata["outputs"]
    config = client.get_model_config("net")
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [4]}]
    assert client.get_model_repository_index() == [{"name": "net", "version": "1", "state": "READY", "reason": ""}]
    for stats in (client.get_inference_statistics(), client.get_inference_statistics("net", "1")):
        assert stats["model_stats"][0]["name"] == "net"


@pytest.mark.numerics
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("accepted", ENCODINGS)
def test_answers_are_those_of_the_runner(client, runner, binary, encoding, accepted):
    x = bundles.inputs(200)
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in FIELDS]
    result = client.infer(
        "net",
        [given(x, binary)],
        outputs=outputs,
        request_id="a b \u00e9",
        request_compression_algorithm=encoding,
        response_compression_algorithm=accepted,
    )
    check_close(result, runner.run(x), binary)
    assert result.get_response()["id"] == "a b \u00e9"


def check_close(result, answer, binary):
    """Compare with a run of the same examples in other batches, whose kernels may round otherwise."""
    for name in FIELDS:
        found, expected = result.as_numpy(name), getattr(answer, name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if binary or not np.isnan(expected).any():
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_all_outputs_are_returned_as_bytes_if_none_are_named(client, runner):
    x = bundles.inputs(3)
    result = client.infer("net", [given(x)], model_version="1")
    assert all("data" not in output for output in result.get_response()["outputs"])
    np.testing.assert_array_equal(result.as_numpy("exit"), runner.run(x).exit)
    names = np.array([b"cat", b"dog", b"owl"], dtype=object)
    np.testing.assert_array_equal(result.as_numpy("class_name"), names[runner.run(x).label])
    assert not result.as_numpy("late").any()


def test_requests_of_the_same_client_run_together(client, runner):
    parts = [bundles.inputs(n, seed=n) for n in range(1, 9)]
    waiting = [client.async_infer("net", [given(part)]) for part in parts]
    for part, one in zip(parts, waiting, strict=True):
        np.testing.assert_array_equal(one.get_result().as_numpy("exit"), runner.run(part).exit)


def test_a_deadline_in_microseconds_and_parameters_are_read(client):
    x = bundles.inputs(5)
    capped = client.infer("net", [given(x)], timeout=60_000_000, parameters={"cap_exit": 0})
    assert capped.as_numpy("exit").tolist() == [0] * 5
    assert capped.as_numpy("capped").any()
    with pytest.raises(utils.InferenceServerException, match="expected a budget of at least"):
        client.infer("net", [given(x)], parameters={"budget": 0.01})


def test_no_examples_have_an_answer_too(client):
    result = client.infer("net", [given(np.empty((0, 4), dtype=np.float32))])
    assert result.as_numpy("probs").shape == (0, 3)


def test_errors_are_those_of_the_protocol(client):
    with pytest.raises(utils.InferenceServerException, match="expected the inputs") as caught:
        client.infer("net", [given(bundles.inputs(2), name="other")])
    assert caught.value.status() == "400"
    with pytest.raises(utils.InferenceServerException, match="expected a model in") as caught:
        client.infer("nothing", [given(bundles.inputs(2))])
    assert caught.value.status() == "404"
    with pytest.raises(utils.InferenceServerException, match="expected float32 for the input 'input', got float64"):
        client.infer("net", [given(bundles.inputs(2).astype(np.float64))])


def test_texts_have_several_inputs(opened):
    texts = bundles.texts(12, 6)
    with started(opened(tokens=True)) as server, http.InferenceServerClient(server.url) as client:
        result = client.infer("net", [given(array, name=name) for name, array in texts.items()])
        answer = opened(tokens=True).run(texts)
        np.testing.assert_array_equal(result.as_numpy("exit"), answer.exit)
        np.testing.assert_array_equal(result.as_numpy("macs"), answer.macs)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_have_the_fields_that_are_theirs(opened, kind):
    x = bundles.inputs(8)
    with started(opened(kind)) as server, http.InferenceServerClient(server.url) as client:
        result, answer = client.infer("net", [given(x)]), opened(kind).run(x)
        names = {"multilabel": ("label", "probs"), "regression": ("mean", "variance")}[kind]
        for name in names:
            np.testing.assert_allclose(result.as_numpy(name), getattr(answer, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_prediction_sets_are_outputs(opened, kind):
    method = {"classification": {}, "regression": {"method": "interval", "randomized": False}}[kind]
    runner, x = opened(kind, sets={**bundles.SETS, **method}), bundles.inputs(20)
    with started(runner) as server, http.InferenceServerClient(server.url) as client:
        result, found = client.infer("net", [given(x)]), runner.run(x).set
        if kind == "classification":
            np.testing.assert_array_equal(result.as_numpy("set"), found.members)
        else:
            np.testing.assert_allclose(result.as_numpy("set_low"), found.low, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(result.as_numpy("set_high"), found.high, atol=1e-5, rtol=1e-5)


def test_the_variation_is_estimated_if_it_is_requested(tmp_path):
    runner, x = Runner(bundles.write_estimator(tmp_path / "bundle")), bundles.inputs(150)
    with started(runner) as server, http.InferenceServerClient(server.url) as client:
        named = [output["name"] for output in client.get_model_metadata("net")["outputs"]]
        assert {"variation", "distance"} <= set(named)
        outputs = [http.InferRequestedOutput(name) for name in ("variation", "distance", "label")]
        result = client.infer("net", [given(x)], outputs=outputs)
        _, variation, distance = bundles.estimated(x)
        np.testing.assert_allclose(result.as_numpy("variation"), variation, atol=1e-5)
        np.testing.assert_allclose(result.as_numpy("distance"), distance, atol=1e-5)
        assert client.infer("net", [given(x)]).as_numpy("variation") is None


def test_several_models_have_their_own_answers(opened, runner):
    other = opened("regression")
    with started(runner, other, names=("one", "two")) as server, http.InferenceServerClient(server.url) as client:
        x = bundles.inputs(4)
        assert client.infer("one", [given(x)]).as_numpy("probs").shape == (4, 3)
        assert client.infer("two", [given(x)]).as_numpy("mean").shape == (4, 3)
        assert {entry["name"] for entry in client.get_model_repository_index()} == {"one", "two"}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_client_of_asyncio(server, runner, binary, encoding):
    x = bundles.inputs(150)

    async def requests():
        async with aio.InferenceServerClient(server.url) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("net")
            assert (await client.get_model_metadata("net"))["name"] == "net"
            outputs = [aio.InferRequestedOutput(name, binary_data=binary) for name in FIELDS]
            more = {"request_compression_algorithm": encoding, "response_compression_algorithm": encoding}
            calls = [client.infer("net", [given(x, binary, aio)], outputs=outputs, **more) for _ in range(3)]
            with pytest.raises(utils.InferenceServerException, match="expected a model in"):
                await client.infer("nothing", [given(x, binary, aio)])
            return await asyncio.gather(*calls)

    for result in asyncio.run(requests()):
        check_close(result, runner.run(x), binary)
