import json
import logging

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import until
from suffice_runtime.http.transport.logs import LOGGER, JsonFormatter

PATH = "/v2/models/net/infer"


@pytest.fixture
def line(caplog):
    """Return a function that waits for the line about a request, and returns it as an object."""
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    formatter = JsonFormatter()

    def found(name):
        lines = [json.loads(formatter.format(record)) for record in caplog.records if record.name == LOGGER.name]
        return [each for each in lines if each["id"] == name]

    def wait(name):
        until(lambda: found(name))
        (only,) = found(name)
        return only

    return wait


def test_each_request_has_one_line_with_its_id_and_nothing_of_what_is_in_it(server, infer, line):
    document = infer(bundles.inputs(3), id="private-id")
    payload = json.dumps(document).encode()
    headers = {"x_request_id": "abc-1", "authorization": "Bearer private"}
    _, found, _ = server.send("POST", f"{PATH}?private=1", payload, **headers)
    assert found["x-request-id"] == "abc-1"
    logged = line("abc-1")
    expected = {
        "level": "info",
        "message": "request",
        "method": "POST",
        "path": PATH,
        "status": 200,
        "model": "net",
        "version": "1",
        "examples": 3,
    }
    assert {key: logged[key] for key in expected} == expected
    assert set(logged) - set(expected) == {"id", "time", "logger", "seconds"}
    assert 0 < logged["seconds"] < 20
    assert "private" not in json.dumps(logged)


@pytest.mark.parametrize("value", ["a b", "x" * 65, "\xe9", "a\x1b[31m", '"}', ""])
def test_ids_that_are_no_plain_ones_are_replaced(server, line, value):
    status, found, _ = server.send("GET", "/v2", x_request_id=value)
    if status == 400:  # h11 refuses control characters itself
        return
    assert len(found["x-request-id"]) == 16
    assert line(found["x-request-id"])["status"] == 200


def test_refused_requests_have_a_line_too(server, line):
    server.send("POST", PATH, b"nonsense", x_request_id="one")
    server.send("GET", "/v2/models/%1b%5b31mred%0a", x_request_id="two")
    assert line("one")["status"] == 400
    assert line("two")["status"] == 404
    assert line("two")["path"] == "/v2/models/\\x1b[31mred\\n"


def test_a_fault_of_the_server_is_logged_with_its_cause_and_not_shown(server, line, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a secret cause")

    monkeypatch.setattr("suffice_runtime.http.metadata.server", broken)
    status, found = server.json("GET", "/v2", x_request_id="three")
    assert (status, found) == (500, {"error": "internal error in the request three"})
    assert "ZeroDivisionError: a secret cause" in line("three")["error"]
    assert line("three")["level"] == "error"
