import asyncio

import numpy as np
import pytest

pytest.importorskip("kserve")

import kserve

import bundles

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def url(server):
    return f"http://{server.url}"


def called(url, call):
    """Return what a call of a client returns."""

    async def run():
        config = kserve.RESTConfig(protocol="v2")
        async with kserve.InferenceRESTClient(config) as client:
            return await call(client, url)

    return asyncio.run(run())


def request(x, binary, **more):
    given = kserve.InferInput("input", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    return kserve.InferRequest("net", [given], **more)


def test_health(url):
    assert called(url, lambda client, url: client.is_server_live(url)) is True
    assert called(url, lambda client, url: client.is_server_ready(url)) is True
    assert called(url, lambda client, url: client.is_model_ready(url, "net")) is True
    assert called(url, lambda client, url: client.is_model_ready(url, "other")) is False


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("outputs", [True, False])
def test_answers_are_those_of_the_runner(url, runner, inputs, outputs):
    x = bundles.inputs(70)
    given = request(x, inputs, request_id="7", parameters={"binary_data_output": outputs})
    result = called(url, lambda client, url: client.infer(url, given, model_name="net"))
    answer, found = runner.run(x), {output.name: output.as_numpy() for output in result.outputs}
    assert result.id == "7"
    assert result.model_name == "net"
    np.testing.assert_array_equal(found["exit"], answer.exit)
    np.testing.assert_allclose(found["probs"], answer.probs, atol=1e-5, rtol=0)


def test_requested_outputs_alone_are_returned(url):
    wanted = [kserve.protocol.infer_type.RequestedOutput("label", {"binary_data": True})]
    given = request(bundles.inputs(3), True, request_outputs=wanted)
    result = called(url, lambda client, url: client.infer(url, given, model_name="net"))
    assert [output.name for output in result.outputs] == ["label"]


def test_errors_name_what_was_expected(url):
    x = np.full((1, 4), np.nan, dtype=np.float32)
    with pytest.raises(Exception, match="expected finite numbers in the input 'input'"):
        called(url, lambda client, url: client.infer(url, request(x, True), model_name="net"))
