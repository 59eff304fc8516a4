import itertools
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import suffice
from suffice.cli import app, main
from tests.data import miniatures

runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})


def test_the_version_is_shown():
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"suffice {suffice.__version__}\n")


def test_the_package_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "suffice", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: suffice [OPTIONS] COMMAND" in done.stdout


COMMANDS = ["demo", "reproduce", "export", "run", "serve", "data list", "data fetch", "data import", "data show"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_text_fills_the_width_of_the_terminal(command):
    output = runner.invoke(app, [*command.split(), "--help"]).output
    prose = [line.strip() for line in output[: output.index("╭")].splitlines()]
    assert len(prose) > 4
    for line, following in itertools.pairwise(prose):
        if line and following:
            assert len(f" {line} {following.split()[0]} ") > 80, line


@pytest.fixture
def failing(monkeypatch, capsys):
    """Run `main` with a command that raises, and return the exit status and standard error."""

    def run(error, *arguments, place="suffice.data.store.lookup.names", command=("data", "list")):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(place, fail)
        monkeypatch.setattr("sys.argv", ["suffice", *(arguments or command)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().err

    return run


EXPECTED = [ValueError, FileNotFoundError, ImportError, RuntimeError, OverflowError, UnicodeError]
UNEXPECTED = [KeyError, TypeError, AttributeError, AssertionError, IndexError, StopIteration, RecursionError]


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_error_of_an_expected_kind_is_its_message(failing, kind):
    assert failing(kind("expected this,\n  got \x1b[31mthat")) == (1, "suffice: expected this, got \\x1b[31mthat\n")


@pytest.mark.parametrize("kind", UNEXPECTED)
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("suffice.data.store.lookup.names", ("data", "list")),
        ("suffice.data.store.lookup.find", ("data", "show", "x")),
        ("suffice.data.import_set", ("data", "import", "x", "y")),
        ("suffice.report.page.check_packages", ("demo",)),
        ("suffice.reproduce.catalog.find", ("reproduce", "x")),
    ],
)
def test_an_error_of_an_unexpected_kind_is_one_line_that_names_the_debug_flag(failing, kind, place, command):
    status, text = failing(kind("oh"), place=place, command=command)
    assert status == 1
    (line,) = [line for line in text.splitlines() if line.startswith("suffice: ")]
    assert kind.__name__ in line
    assert "--debug shows where" in line
    assert "Traceback" not in text
    assert text.splitlines()[-1] == line


def test_an_error_without_a_message_is_named(failing):
    assert failing(MemoryError()) == (1, "suffice: MemoryError; an unexpected failure, --debug shows where\n")
    assert failing(AssertionError("")) == (1, "suffice: AssertionError; an unexpected failure, --debug shows where\n")


def test_an_end_of_file_is_an_ordinary_failure(failing):
    assert failing(EOFError()) == (1, "suffice: expected more to read, found the end\n")


@pytest.mark.parametrize("command", ["--debug data list", "data list --debug", "data --debug list"])
def test_debug_shows_the_traceback_wherever_it_stands(failing, command):
    status, text = failing(KeyError("\x1b[31m"), *command.split())
    assert status == 1
    assert text.startswith("Traceback")
    assert "in fail" in text
    assert "\x1b" not in text
    assert text.splitlines()[-1].startswith("suffice: KeyError")


def test_debug_behind_two_dashes_is_an_argument(failing):
    status, text = failing(ValueError("x"), "data", "show", "--", "--debug", place="suffice.data.store.lookup.find")
    assert (status, text) == (1, "suffice: x\n")


@pytest.mark.parametrize("arguments", [["--debug"], ["data", "import", "--debug"], ["--debug", "lost"], ["--debugg"]])
def test_bad_usage_stays_status_2_with_debug(monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["suffice", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2


def test_ctrl_c_is_one_line_and_status_130(failing):
    assert failing(KeyboardInterrupt()) == (130, "suffice: interrupted\n")


def started(tmp_path, *arguments, **options):
    environment = {**os.environ, "SUFFICE_DATA": str(tmp_path), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "suffice", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **options)


def test_a_real_interrupt_during_an_import_is_one_line_and_leaves_nothing(tmp_path):
    miniatures.image_folder(tmp_path / "pets")
    script = (
        "import sys, time, suffice.data.formats.images.packing as p\n"
        "p.pack = lambda *a, **k: (print('here', flush=True), time.sleep(60))\n"
        "sys.argv = ['suffice', 'data', 'import', 'pets', sys.argv[1]]\n"
        "from suffice.cli import main; main()"
    )
    environment = {**os.environ, "SUFFICE_DATA": str(tmp_path / "store")}
    command = [sys.executable, "-c", script, str(tmp_path / "pets")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line == "here\n", process.communicate()
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert text.strip().splitlines()[-1] == "suffice: interrupted"
    assert "Traceback" not in text
    assert not any(path.is_dir() for path in (tmp_path / "store").iterdir())


@pytest.mark.parametrize("arguments", [["data", "list"], ["data", "list", "--json"], ["--version"], ["reproduce"]])
def test_a_closed_pipe_prints_no_error(tmp_path, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    process = started(tmp_path, *arguments, stdout=writing)
    os.close(writing)
    _, text = process.communicate(timeout=60)
    assert text == b""
    assert process.returncode == 1


def test_a_name_that_the_encoding_lacks_is_escaped(tmp_path):
    environment = {**os.environ, "SUFFICE_DATA": str(tmp_path / "K\xf6ln"), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "suffice", "data", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert rb"K\xf6ln" in done.stdout
