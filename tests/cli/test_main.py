import itertools
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import suffice
from suffice.cli import app

runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})


def test_the_version_is_shown():
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"suffice {suffice.__version__}\n")


def test_the_package_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "suffice", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: suffice [OPTIONS] COMMAND" in done.stdout


@pytest.mark.parametrize("command", ["demo", "reproduce", "data list", "data fetch", "data import", "data show"])
def test_a_line_of_help_is_as_long_as_it_can_be(command):
    output = runner.invoke(app, [*command.split(), "--help"]).output
    prose = [line.strip() for line in output[: output.index("╭")].splitlines()]
    assert len(prose) > 4
    for line, following in itertools.pairwise(prose):
        if line and following:
            assert len(f" {line} {following.split()[0]} ") > 80, line
