import json

import numpy as np
import pytest
from typer.testing import CliRunner

from suffice.cli import app
from suffice.deploy.parity import Parity
from suffice.runs import checking, exporting
from tests.deploy.bundles import require_exporter
from tests.runs.conftest import run_folder as run_folder

runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")

CHECK = checking.Check(
    Parity(60, (1e-6, 3e-6), 2, 2e-7),
    Parity(60, (1e-5,), 0, 0.0),
    {name: dict.fromkeys(("accuracy", "top5", "nll", "brier", "ece"), 0.5) for name in ("float32", "int8")},
    {"every exit, suffice": 2.0, "every exit, bundle": 1.0},
    32,
)


@pytest.fixture
def checked(monkeypatch):
    """Replace the export and its check, and return the arguments of the call."""
    calls = []

    def write_checked(run, out, loaders, int8, opset, progress):
        progress("compare predictions", 1, 1)
        out.mkdir()
        (out / "stage-0.onnx").write_bytes(bytes(20_000))
        calls.append((run, out, loaders, int8, opset))
        return CHECK

    monkeypatch.setattr(exporting, "write_checked", write_checked)
    return calls


DATA = ["--check", "tests.runs.modules:sets"]


def test_the_check_is_printed_within_80_columns(run_folder, tmp_path, checked):
    out = tmp_path / "bundle"
    result = runner.invoke(app, ["export", str(run_folder), "--out", str(out), *DATA, "--int8", "--opset", "21"])
    assert result.exit_code == 0, result.output
    (run, path, loaders, int8, opset), *_ = checked
    assert (path, int8, opset, loaders.class_names) == (out, True, 21, tuple("abcd"))
    assert run.policy is not None
    text = " ".join(result.stdout.split())
    assert "stage-0.onnx 0.02" in text
    assert (
        "predictions of the bundle differ by at most 3.0e-06 from those of the exported network in PyTorch, and 2 stop"
        in text
    )
    assert "On 60 examples the estimates of the bundle differ by at most 1.0e-05 from those of" in text
    assert text.endswith("was written.")
    lines = [line for line in result.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80


def test_json_is_all_that_goes_to_standard_output(run_folder, tmp_path, checked):
    result = runner.invoke(app, ["export", str(run_folder), "--out", str(tmp_path / "bundle"), *DATA, "--json"])
    found = json.loads(result.stdout)
    assert found["bytes"] == {"stage-0.onnx": 20_000}
    assert found["check"]["parity"]["moved"] == 2
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "got neither"),
        ([*DATA, "--example", "x.npy"], "got both"),
        (["--example", "x.npy", "--int8"], "expected --check with --int8"),
    ],
)
def test_options_that_do_not_go_together_are_bad_usage(run_folder, tmp_path, options, reason):
    result = runner.invoke(app, ["export", str(run_folder), "--out", str(tmp_path / "bundle"), *options])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_of_an_example_answers_a_file(run_folder, tmp_path):
    require_exporter()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    arguments = ["export", str(run_folder), "--out", str(tmp_path / "bundle"), "--example", str(tmp_path / "x.npy")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "It was not compared with the network: no --check." in " ".join(result.stdout.split())
    answers = tmp_path / "answers.json"
    files = ["--input", str(tmp_path / "x.npy"), "--output", str(answers)]
    assert runner.invoke(app, ["run", str(tmp_path / "bundle"), *files]).exit_code == 0
    assert len(json.loads(answers.read_text())["answers"]) == 5
    assert runner.invoke(app, ["run", str(tmp_path / "nowhere"), *files]).exit_code == 1
    assert runner.invoke(app, ["run", str(tmp_path / "bundle"), "--sede"]).exit_code == 2
