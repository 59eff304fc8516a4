import subprocess
import sys

import pytest
from typer.testing import CliRunner

from suffice.cli import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def runtime():
    """Skip where the runtime is not installed."""
    pytest.importorskip("suffice_runtime")


def test_a_folder_that_is_no_bundle_is_not_served(tmp_path, capsys):
    result = runner.invoke(app, ["serve", str(tmp_path / "nowhere"), "--port", "0"])
    assert result.exit_code == 1
    assert "error: expected" in result.output


def test_unknown_arguments_are_bad_usage(tmp_path):
    assert runner.invoke(app, ["serve", str(tmp_path), "--prot", "0"]).exit_code == 2


def test_serving_does_not_import_torch(tmp_path):
    program = (
        "import sys\n"
        "from suffice.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, "serve", str(tmp_path / "nowhere")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["1", "False"], found.stderr
