import json
import logging

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import until
from suffice_runtime.http.transport.logs import LOGGER, JsonFormatter

PATH = "/v2/models/net/infer"


@pytest.fixture
def lines(caplog):
    """Return a function that waits for so many lines of the log, and returns them as objects."""
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    formatter = JsonFormatter()

    def logged(count):
        def records():
            return [record for record in caplog.records if record.name == LOGGER.name]

        until(lambda: len(records()) >= count)
        return [json.loads(formatter.format(record)) for record in records()]

    return logged


def test_each_request_has_one_line_with_its_id_and_nothing_of_what_is_in_it(server, infer, lines):
    document = infer(bundles.inputs(3), id="private-id")
    payload = json.dumps(document).encode()
    headers = {"x_request_id": "abc-1", "authorization": "Bearer private"}
    _, found, _ = server.send("POST", f"{PATH}?private=1", payload, **headers)
    assert found["x-request-id"] == "abc-1"
    (line,) = lines(1)
    assert {key: line[key] for key in ("level", "message", "id", "method", "path", "status")} == {
        "level": "info",
        "message": "request",
        "id": "abc-1",
        "method": "POST",
        "path": PATH,
        "status": 200,
    }
    assert (line["model"], line["version"], line["examples"]) == ("net", "1", 3)
    assert 0 < line["seconds"] < 20
    assert "private" not in json.dumps(line)


@pytest.mark.parametrize("value", ["a b", "x" * 65, "\xe9", "a\x1b[31m", '"}'])
def test_ids_that_are_no_plain_ones_are_replaced(server, lines, value):
    _, found, _ = server.send("GET", "/v2", x_request_id=value)
    assert len(found["x-request-id"]) == 16
    assert lines(1)[0]["id"] == found["x-request-id"]


def test_refused_requests_have_a_line_too(server, lines):
    server.send("POST", PATH, b"nonsense")
    server.send("GET", "/v2/models/%1b%5b31mred%0a")
    first, second = lines(2)
    assert first["status"] == 400
    assert second["status"] == 404
    assert second["path"] == "/v2/models/\\x1b[31mred\\n"


def test_a_fault_of_the_server_is_logged_with_its_cause_and_not_shown(server, lines, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a secret cause")

    monkeypatch.setattr("suffice_runtime.http.metadata.server", broken)
    status, found = server.json("GET", "/v2")
    (line,) = lines(1)
    assert (status, found) == (500, {"error": f"internal error in the request {line['id']}"})
    assert "ZeroDivisionError: a secret cause" in line["error"]
    assert line["level"] == "error"
