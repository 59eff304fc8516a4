"""The page's programs run as printed, against a server that its own command starts; only the port is another one."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.deploy.bundles import require_exporter

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, flags=re.DOTALL)
RUNTIME = Path(__file__).parents[2] / "runtime" / "src"


@contextmanager
def served(command):
    """Yield the port of a server that a command of the page starts."""
    words = command.replace("8000", "0").split()
    assert words[0] == "suffice-runtime"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RUNTIME), *sys.path])}
    line = [sys.executable, "-m", "suffice_runtime", *words[1:]]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield str(json.loads(process.stderr.readline())["port"])
            process.terminate()
            assert process.communicate(timeout=60)[1]
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of .* per example")
def test_the_programs_run_as_printed(tmp_path, monkeypatch, capsys):
    require_exporter()
    for package in ("fastapi", "uvicorn", "prometheus_client", "tritonclient.http"):
        pytest.importorskip(package)
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    assert [kind for kind, _ in BLOCKS] == ["python", "sh", "sh", "sh", "python", "sh"]
    monkeypatch.chdir(tmp_path)
    (_, train), (_, serve), *others = BLOCKS
    with torch.random.fork_rng():
        exec(train, {"__name__": "program"})
    with served(serve) as port:
        printed = [run(kind, text.replace("8000", port), capsys) for kind, text in others]
    metadata, records, triton, policy = printed
    assert json.loads(metadata)["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    keys = re.findall(r'"(\w+)":', re.findall(r"^    \[(\{.*?\})", PAGE, flags=re.MULTILINE)[0])
    assert [list(record) for record in json.loads(records)] == [keys] * 8
    labels = [record["label"] for record in json.loads(records)]
    exits = [record["exit"] for record in json.loads(records)]
    assert triton.splitlines() == [f"{labels} {exits}", "True"]
    assert json.loads(policy)["version"] == 1


def run(kind, text, capsys):
    """Run a block of the page, and return what it prints."""
    if kind == "python":
        capsys.readouterr()
        exec(text, {"__name__": "program"})
        return capsys.readouterr().out
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["sh", "-ec", text], env=environment, capture_output=True, text=True, check=True).stdout


def test_every_path_option_and_metric_of_the_page_is_there():
    pytest.importorskip("uvicorn")
    from suffice_runtime import cli
    from suffice_runtime.http import metrics
    from suffice_runtime.http.parameters import KNOWN

    parser = cli._parser()
    (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
    options = {option for action in commands.choices["serve"]._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w/])--[a-z][a-z-]+", PAGE)) - {"--data"} <= options
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE[PAGE.index("## Parameters") :], flags=re.MULTILINE)) >= set(KNOWN)
    source = Path(metrics.__file__).read_text()
    for name in re.findall(r"`(suffice_[a-z_]+?)(?:_total)?`", PAGE):
        if name not in ("suffice_runtime",):
            assert f'"{name}"' in source, name
