import json
import threading

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import SECONDS, Server, read_response, until, written
from suffice_runtime.http.service import Service
from suffice_runtime.http.transport.limits import Limits
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.models import Models

PATH = "/v2/models/net/infer"


def serve(runner, **entries):
    return Server(Service(Models([Engine(runner, name="net")]), **entries))


def test_accepted_requests_are_answered_and_connections_closed(held, infer):
    runner, began, go_on = held
    server = serve(runner)
    with server.connect() as opened, server.connect() as idle:
        opened.sendall(written("POST", PATH, json.dumps(infer(bundles.inputs(3))).encode()))
        assert began.wait(SECONDS)
        server.server.should_exit = True
        assert idle.recv(1) == b""  # closed, as nothing is asked on it
        with pytest.raises(ConnectionError):
            server.connect()
        go_on.set()
        status, _, body = read_response(opened)
        assert status == 200
        assert len(json.loads(body)["outputs"][0]["data"]) == 3
        assert opened.recv(1) == b""
    server.stop()
    with pytest.raises(RuntimeError, match="expected a server that accepts requests, got one that closes"):
        server.engine().submit(bundles.inputs(1))


def test_requests_that_take_longer_than_the_end_have_an_error(held, infer):
    runner, began, go_on = held
    server = serve(runner, limits=Limits(close_seconds=1))
    with server.connect() as opened:
        opened.sendall(written("POST", PATH, json.dumps(infer(bundles.inputs(3))).encode()))
        assert began.wait(SECONDS)
        server.server.should_exit = True
        status, _, body = read_response(opened)
        assert (status, "got one that ended" in json.loads(body)["error"]) == (503, True)
        go_on.set()
    server.stop()


def test_under_load_each_request_that_was_read_is_answered(runner, infer):
    server, results = serve(runner), []
    body = json.dumps(infer(bundles.inputs(4))).encode()

    def load():
        with server.connect() as opened:
            while True:
                try:
                    opened.sendall(written("POST", PATH, body))
                    status, _, payload = read_response(opened)
                except ConnectionError:
                    return
                if status is None:  # closed before the request was read
                    return
                results.append((status, len(json.loads(payload).get("outputs", []))))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(results) >= 8)
    server.stop()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert set(results) == {(200, 12)}
    statistics = server.engine().statistics()
    assert (statistics.requests, statistics.cancelled, statistics.load.requests) == (len(results), 0, 0)


def test_a_closed_engine_is_not_ready_and_says_so(runner, infer):
    server = serve(runner)
    try:
        server.engine().close()
        status, found = server.json("POST", PATH, infer(bundles.inputs(2)))
        assert (status, "got one that closes" in found["error"]) == (503, True)
        for path in ("/v2/health/ready", "/v2/models/net/ready"):
            status, found = server.json("GET", path)
            assert (status, found["ready"]) == (503, False)
        assert server.json("GET", "/v2/health/live") == (200, {"live": True})
        index = server.json("POST", "/v2/repository/index", {})[1]
        assert index[0]["state"] == "UNAVAILABLE"
        assert server.json("POST", "/v2/repository/index", {"ready": True})[1] == []
    finally:
        server.stop()
