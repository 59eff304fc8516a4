import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

import bundles
from http_server import SECONDS
from suffice_runtime import cli
from suffice_runtime.http import command


@contextmanager
def served(*arguments, environment=None):
    """Yield a process of the command and the line that it logs when it serves."""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "suffice_runtime", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(
        line, env={**os.environ, **paths, **(environment or {})}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = []
            while not lines or lines[-1]["message"] != "served":
                lines.append(json.loads(process.stderr.readline()))
            yield process, lines
        finally:
            process.kill()


def fetch(port, path, token=None, document=None):
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    if token is not None:
        request.add_header("authorization", f"Bearer {token}")
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return json.loads(response.read())
        except ConnectionError:  # it is bound, and does not listen yet
            time.sleep(0.05)
    raise TimeoutError


def test_bundles_are_served_until_a_signal_ends_it(written, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    bundle = written()
    arguments = (bundle, written("regression"), "--name", "digits", "--name", "prices", "--token-file", token)
    with served(*arguments, "--state", tmp_path) as (process, lines):
        assert lines[-1]["models"] == ["digits/1", "prices/1"]
        port = lines[-1]["port"]
        fetch(port, "/v2/health/ready")
        found = fetch(port, "/v1/models/digits/predict", "secret", {"inputs": bundles.inputs(2).tolist()})
        assert [record["exit"] for record in found] == bundles.exits(bundles.inputs(2)).tolist()
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stderr]
        assert process.wait(SECONDS) == 0
    assert rest[-1]["message"] == "ended"
    (request,) = [line for line in rest if line["message"] == "request" and line["method"] == "POST"]
    assert request["examples"] == 2
    assert "secret" not in json.dumps(lines + rest)


def test_a_server_for_other_machines_without_a_token_has_a_warning(written):
    with served(written(), "--host", "0.0.0.0") as (_, lines):
        assert [line["level"] for line in lines] == ["warning", "info"]
    with served(written(), "--host", "0.0.0.0", environment={"SUFFICE_RUNTIME_TOKEN": "a"}) as (_, lines):
        assert [line["level"] for line in lines] == ["info"]


def test_an_address_that_is_taken_is_an_error(server, written, capsys):
    assert cli.main(["serve", str(written()), "--port", str(server.port)]) == 1
    assert f"error: expected a free address, got 127.0.0.1 port {server.port}" in capsys.readouterr().err


@pytest.mark.parametrize("package", command.NEEDED)
def test_without_the_extra_the_error_names_it(written, monkeypatch, capsys, package):
    find = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == package else find(name))
    assert cli.main(["serve", str(written())]) == 1
    assert (
        f"expected the package {package}, found none; pip install 'suffice-runtime[serve]'" in capsys.readouterr().err
    )


def test_a_bundle_that_cannot_be_served_is_an_error(tmp_path, capsys):
    assert cli.main(["serve", str(bundles.write(tmp_path / "bundle", policy=None))]) == 1
    assert "expected a bundle with a policy" in capsys.readouterr().err
    assert cli.main(["serve", str(tmp_path / "none")]) == 1
    assert cli.main(["serve", str(tmp_path / "bundle"), "--token-file", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_names_are_those_of_the_folders_or_given_and_versions_count(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    assert command.named(folders, None) == [("a", "1"), ("b", "1")]
    assert command.named(folders, ["net", "net"]) == [("net", "1"), ("net", "2")]
    for names in (["one"], ["a", "b", "c"], ["a/b", "c"], ["", "b"], ["stats", "b"], [".", "b"]):
        with pytest.raises(ValueError, match=r"expected a name of letters|expected a --name for each of 2 bundles"):
            command.named(folders, names)
    assert command.named([Path(tmp_path)], ["x"]) == [("x", "1")]


def test_sizes_are_powers_of_two_up_to_the_greatest():
    assert [command.sizes(most) for most in (1, 2, 5, 64)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8, 16, 32, 64)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--max-wait-ms", "inf"],
        ["--audit-share", "2"],
        ["--workers", "0"],
        ["--token", "secret"],
    ],
)
def test_bad_usage_has_the_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "bundle", *arguments])
    assert caught.value.code == 2
    assert "usage: suffice-runtime" in capsys.readouterr().err
