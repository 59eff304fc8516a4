"""The container file: what it copies is there, and its command lines are those of the commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("onnx")

import bundles
from http_server import started
from suffice_runtime import Runner, cli
from suffice_runtime.http.transport import tokens

ROOT = Path(__file__).parents[2]
FILE = (ROOT / "runtime" / "Containerfile").read_text()
LINES = [line for line in FILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def instructions(name):
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def health():
    """Return the program of the health check."""
    (line,) = instructions("HEALTHCHECK")
    python, option, program = json.loads(line.partition("CMD ")[2])
    assert (python, option) == ("python", "-c")
    return program


def test_every_file_that_is_copied_is_in_the_repository():
    copied = [part for line in instructions("COPY") for part in line.split()[:-1]]
    assert "runtime/src" in copied
    for path in copied:
        assert (ROOT / path).exists(), path


def test_the_command_is_one_that_the_parser_takes_with_options_behind_it():
    (entry,) = instructions("ENTRYPOINT")
    program, *arguments = json.loads(entry)  # a list, so that signals reach the server and no shell
    assert program == "suffice-runtime"
    choices = cli._parser().parse_args([*arguments, "--name", "digits", "--token-file", "/run/secrets/token"])
    assert (choices.host, [str(choices.port)]) == ("0.0.0.0", instructions("EXPOSE"))
    assert choices.bundle == [Path("/bundle")]


def test_the_example_is_one_that_the_parser_takes():
    example = re.sub(r"\\\n#", "", FILE).partition("podman run ")[2].partition("\n")[0]
    options = example.partition(" suffice-runtime ")[2].split()
    choices = cli._parser().parse_args(["serve", "/bundle", *options])
    assert str(choices.token_file) == "/run/secrets/token"


def test_the_server_is_not_root_and_has_no_token_in_the_image():
    (user,) = instructions("USER")
    assert int(user) > 0
    assert tokens.VARIABLE not in FILE.partition("\nARG ")[2]
    assert "--token" not in FILE.partition("\nARG ")[2]


def test_the_health_check_is_whether_a_server_is_ready(tmp_path):
    path = re.search(r"http://127\.0\.0\.1:8000(/[\w/]+)", health()).group(1)
    assert path in tokens.OPEN
    with started(Runner(bundles.write(tmp_path / "bundle")), token=b"secret") as server:
        program = health().replace(":8000", f":{server.port}")
        line = [sys.executable, "-c", program]
        assert subprocess.run(line, check=False).returncode == 0
        server.engine()._crew._fail(RuntimeError("no"))
        assert subprocess.run(line, stderr=subprocess.DEVNULL, check=False).returncode == 1
    assert subprocess.run(line, stderr=subprocess.DEVNULL, check=False).returncode == 1
