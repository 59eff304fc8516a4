import sys
import threading

import pytest

import bundles
from suffice_runtime import Runner

pytest.importorskip("tritonclient.http")

from protocol_server import Server
from suffice_runtime.triton import repository
from suffice_runtime.triton.client import TritonRunner


@pytest.fixture(
    params=[("classification", False), ("multilabel", False), ("regression", False), ("classification", True)]
)
def served(request, written, tmp_path):
    """Return the runner of a bundle, and that of the same bundle on a server, with the list of its clients."""
    kind, tokens = request.param
    bundle = written(kind, tokens, **bundles.MIXED)
    repository.write(bundle, tmp_path / "models", "net")
    clients = []

    def connect(url):
        assert url == "host:8000"
        clients.append(Server(tmp_path / "models"))
        return clients[-1]

    remote = TritonRunner("host:8000", tmp_path / "models" / "net-stage-0", "net", connect)
    return Runner(bundle), remote, clients, bundles.texts(30, 7) if tokens else bundles.inputs(30)


def test_the_answers_are_those_of_the_bundle_and_examples_leave(served):
    runner, remote, clients, x = served
    expected, answer = runner.run(x), remote.run(x)
    assert answer.exit.tolist() == expected.exit.tolist()
    for name in expected.prediction.names():
        assert getattr(answer.prediction, name).tobytes() == getattr(expected.prediction, name).tobytes()
    still_in = [30, *(int((expected.exit > k).sum()) for k in (0, 1))]
    assert clients[0].requests == [(f"net-stage-{k}", rows) for k, rows in enumerate(still_in) if rows]


def test_an_estimator_is_a_model_too(tmp_path):
    bundle = bundles.write_estimator(tmp_path / "bundle", alone=True)
    assert repository.write(bundle, tmp_path / "models", "net") == ["net-estimator"]
    folder = tmp_path / "models" / "net-estimator"
    remote = TritonRunner("host:8000", folder, "net", lambda _: Server(tmp_path / "models"))
    expected, found = (runner.estimate(bundles.inputs(9)) for runner in (Runner(bundle), remote))
    for name in ("output", "variation", "clipped", "distance"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


def test_each_thread_has_a_client_of_its_own(served):
    _, remote, clients, x = served
    threads = [threading.Thread(target=remote.predict, args=(x,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(client.requests) for client in clients] == [0, 3, 3]


def test_without_the_package_the_error_names_it(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(ImportError, match=r"pip install 'suffice-runtime\[triton\]'"):
        TritonRunner("host:8000", written(), "net")


def test_inputs_are_checked_before_the_first_request(served):
    _, remote, clients, _ = served
    with pytest.raises(TypeError, match="expected"):
        remote.run("no array")
    assert clients[0].requests == []
