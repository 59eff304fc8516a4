"""Limits: bodies, bombs, slow clients, full queues, and clients that leave."""

import gzip
import json
import threading
import time
import zlib

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import SECONDS, read_response, started, until, written
from suffice_runtime.http.transport.edge import GONE
from suffice_runtime.http.transport.limits import Limits
from suffice_runtime.scheduling.options import Options

PATH = "/v2/models/net/infer"
SMALL = Limits(body_bytes=20_000, json_bytes=10_000, held_bytes=40_000, body_seconds=0.5, head_seconds=0.5)


@pytest.fixture(scope="module")
def small(runner):
    with started(runner, limits=SMALL) as found:
        yield found


def refuses(opened):
    """Return whether the server has closed a connection."""
    try:
        opened.sendall(written("GET", "/v2/health/live"))
        return not opened.recv(1)
    except ConnectionError:
        return True


def left(opened, payload):
    """Send what the server takes, and return whether it has closed the connection."""
    try:
        opened.send(payload)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


def encoded(document):
    return json.dumps(document).encode()


def test_a_body_above_the_limit_is_refused_before_it_is_read(small):
    with small.connect() as opened:
        opened.sendall(written("POST", PATH, content_length="20001"))
        status, headers, found = read_response(opened)
    assert status == 413
    assert headers["connection"] == "close"
    assert "expected at most 20,000 bytes in a body" in json.loads(found)["error"]


def test_a_client_that_sends_all_of_a_large_body_first_reads_why_it_is_refused(small):
    status, _, found = small.send("POST", PATH, bytes(35_000))
    assert status == 413
    assert "20,000 bytes" in json.loads(found)["error"]


def test_a_body_in_chunks_is_refused_at_the_limit(small):
    chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    payload = b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 6
    status, _, _ = small.raw(payload + b"0\r\n\r\n")
    assert status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused(small, encoding):
    compressed = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](bytes(10_000_000))
    status, _, found = small.send("POST", PATH, compressed, content_encoding=encoding)
    assert status == 413
    assert "in a decompressed body" in json.loads(found)["error"]


def test_compressed_bodies_that_are_damaged_or_unknown_are_refused(small):
    assert small.send("POST", PATH, b"no gzip", content_encoding="gzip")[0] == 400
    assert small.send("POST", PATH, b"{}", content_encoding="br")[0] == 415


def test_much_json_is_refused_where_bytes_are_not(small, infer):
    status, _, found = small.send("POST", PATH, encoded(infer(bundles.inputs(150))))
    assert status == 413
    assert "expected at most 10,000 bytes of JSON" in json.loads(found)["error"]
    x = bundles.inputs(400)
    document = infer(x)
    document["inputs"][0] = {"name": "input", "shape": [400, 4], "datatype": "FP32"}
    document["inputs"][0]["parameters"] = {"binary_data_size": x.nbytes}
    header = encoded(document)
    headers = {"inference_header_content_length": str(len(header))}
    assert small.send("POST", PATH, header + x.tobytes(), **headers)[0] == 200


def test_json_that_is_nested_deeply_is_refused(server):
    for path in (PATH, "/v1/models/net/predict", "/v2/repository/index"):
        status, _, found = server.send("POST", path, b'{"inputs":' + b"[" * 500_000)
        assert status == 400
        assert "expected" in json.loads(found)["error"]


def test_a_body_that_comes_slowly_ends(small):
    with small.connect() as opened:
        opened.sendall(written("POST", PATH, b"{", content_length="100"))
        start = time.monotonic()
        status, headers, found = read_response(opened)
    assert 0.4 < time.monotonic() - start < SECONDS
    assert (status, headers["connection"]) == (408, "close")
    assert "within 0.5 s" in json.loads(found)["error"]


@pytest.mark.parametrize("payload", [b"", b"GET /v2 HTTP/1.1\r\nhost:"])
def test_a_head_that_comes_slowly_ends(small, payload):
    with small.connect() as opened:
        opened.sendall(payload)
        assert read_response(opened)[0] is None


def test_a_second_head_that_comes_slowly_ends_and_an_idle_connection_stays(small):
    with small.connect() as opened:
        for _ in range(2):
            opened.sendall(written("GET", "/v2/health/live"))
            assert read_response(opened)[0] == 200
            time.sleep(0.7)  # longer than a head may take
        opened.sendall(b"GET /v2/health/live HTTP/1.1\r\nhos")
        assert read_response(opened)[0] is None


def test_there_is_room_for_so_many_inferences_and_others_are_answered_beside_them(held, infer):
    runner, began, go_on = held
    with started(runner, limits=Limits(requests=2)) as server:
        answers = []
        body = encoded(infer(bundles.inputs(1)))
        threads = [threading.Thread(target=lambda: answers.append(server.send("POST", PATH, body))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: server.service.room.requests == 2)
        status, headers, found = server.send("POST", PATH, body)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "expected at most 2 requests at once" in json.loads(found)["error"]
        for path in ("/v2/health/ready", "/metrics", "/v2/models/net", "/v1/models/net/policy"):
            assert server.send("GET", path)[0] == 200
        go_on.set()
        for thread in threads:
            thread.join(SECONDS)
        assert [answer[0] for answer in answers] == [200, 200]
        assert began.is_set()


def test_full_queues_are_refused_with_a_time_to_try_again(held, infer):
    runner, began, go_on = held
    with started(runner, options=Options(max_rows=4)) as server:
        answers = []
        body = encoded(infer(bundles.inputs(3)))
        thread = threading.Thread(target=lambda: answers.append(server.send("POST", PATH, body)))
        thread.start()
        assert began.wait(SECONDS)
        status, headers, found = server.send("POST", PATH, body)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert "expected room for 3 examples" in json.loads(found)["error"]
        status, found = server.json("POST", PATH, infer(bundles.inputs(5)))
        assert (status, "expected at most 4 examples in a request" in found["error"]) == (400, True)
        go_on.set()
        thread.join(SECONDS)
        assert answers[0][0] == 200


def test_bodies_together_have_a_limit(runner, infer):
    with started(runner, limits=Limits(body_bytes=20_000, held_bytes=30_000)) as server:
        body = encoded(infer(bundles.inputs(1)))
        with server.connect() as opened:
            opened.sendall(written("POST", PATH, bytes(19_000), content_length="19500"))
            until(lambda: server.service.room.held == 19_000)
            status, headers, found = server.send("POST", PATH, bytes(19_000))
            assert (status, headers["retry-after"]) == (503, "1")
            assert "expected at most 30,000 bytes of bodies at once" in json.loads(found)["error"]
            assert server.send("POST", PATH, body)[0] == 200
        until(lambda: server.service.room.held == 0)  # its client has left
        assert server.send("POST", PATH, body)[0] == 200
        until(lambda: server.service.room.requests == 0)
        assert server.service.responses[GONE] == 1


def test_a_client_that_leaves_cancels_its_request(held, infer):
    runner, began, go_on = held
    with started(runner) as server:
        with server.connect() as opened:
            opened.sendall(written("POST", PATH, encoded(infer(bundles.inputs(3)))))
            assert began.wait(SECONDS)
        until(lambda: server.engine().statistics().cancelled == 1)
        assert server.engine().statistics().load.requests == 0
        assert server.service.room.requests == 0
        go_on.set()


def test_a_request_that_is_not_answered_in_time_ends(held, infer):
    runner, _, go_on = held
    with started(runner, limits=Limits(answer_seconds=0.2)) as server:
        status, found = server.json("POST", PATH, infer(bundles.inputs(3)))
        assert (status, "expected an answer within 0.2 s" in found["error"]) == (504, True)
        until(lambda: server.engine().statistics().cancelled == 1)
        go_on.set()


def test_a_deadline_before_the_first_exit_is_an_error(held, infer):
    runner, _, go_on = held
    with started(runner) as server:
        status, found = server.json("POST", PATH, infer(bundles.inputs(2), parameters={"deadline_ms": 50}))
        assert status == 504
        assert "got none for 2, at positions 0, 1: expected an answer before the deadline" in found["error"]
        go_on.set()


def test_connections_have_a_limit(runner):
    with started(runner, limits=Limits(connections=3)) as server:
        opened = [server.connect() for _ in range(3)]
        until(lambda: len(server.server.server_state.connections) == 3)
        with server.connect() as one:
            assert refuses(one)
        for one in opened:
            one.close()


def test_a_client_that_does_not_read_is_left(runner, infer):
    with started(runner, limits=Limits(write_seconds=0.3)) as server:
        body = encoded(infer(bundles.inputs(3000)))
        with server.connect() as opened:
            opened.setblocking(False)
            payload = written("POST", PATH, body)
            until(lambda: left(opened, payload))
        until(lambda: not server.server.server_state.connections)


def test_limits_are_above_zero():
    with pytest.raises(ValueError, match="expected body_bytes above 0, got 0"):
        Limits(body_bytes=0)
