import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("onnx")
pytest.importorskip("yaml")

import yaml

import bundles
from http_server import started
from suffice_runtime import Runner, cli
from suffice_runtime.http.metrics import Families
from suffice_runtime.http.service import Service
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.models import Models

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "production.md").read_text()
SIZE, OVERHEAD, COMPARE, REPLACE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
DEPLOYED, CONFIGURED = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
RULES = [
    rule for group in yaml.safe_load((ROOT / "runtime" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
FIRST = {**bundles.POLICY, "thresholds": ["-inf", "-inf"], "shares": [1.0, 0.0, 0.0]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the working directory of a program, with what the page takes from there."""
    bundles.write(tmp_path / "bundle")
    np.save(tmp_path / "images.npy", bundles.inputs(64))
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "policy.json").write_text(json.dumps(FIRST))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(program, server=None):
    if server is not None:
        program = program.replace("localhost:8000", server.url)
        program = program.replace('"localhost", 8000', f'"127.0.0.1", {server.port}')
    exec(program, {"__name__": "program"})


def test_the_capacity_is_measured(folder, capsys):
    run(SIZE)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["1", "8", "64"]
    for line in lines:
        assert re.fullmatch(r"\d+ together: \d+\.\d\d ms, [\d,]+ examples/s, exits [012]\.\d\d", line)


def test_what_http_adds_is_measured(folder, capsys):
    with started(Runner("bundle"), names=("bundle",)) as server:
        run(OVERHEAD, server)
    pattern = r"(\d+\.\d+) ms a request, (\d+\.\d+) ms of them in graphs\n"
    whole, graphs = map(float, re.fullmatch(pattern, capsys.readouterr().out).groups())
    assert 0 < graphs < whole


def test_two_bundles_are_compared(folder, capsys):
    with started(Runner("bundle"), Runner("bundle"), names=("digits", "digits-next")) as server:
        run(COMPARE, server)
    mean = bundles.exits(bundles.inputs(64)).mean()
    assert capsys.readouterr().out == f"100% equal labels, exits {mean:.2f} and {mean:.2f}\n"


def test_a_policy_is_replaced(folder, capsys):
    with started(Runner("bundle"), names=("bundle",), token=b"secret") as server:
        run(REPLACE, server)
        assert server.engine("bundle").policy.shares.tolist() == [1, 0, 0]
    assert capsys.readouterr().out == "version 1, then 2\n"


def test_every_command_is_one_that_the_parser_takes():
    lines = [shlex.split(line) for line in COMMANDS]
    lines = [
        ["suffice-runtime", *line[line.index("suffice-runtime") :]] if line[0] == "podman" else line for line in lines
    ]
    taken = 0
    for program, *arguments in lines:
        assert program == "suffice-runtime"
        if arguments[0] == "serve":
            cli._parser().parse_args(arguments)
            taken += 1
    assert taken == 3


def test_the_application_of_ray_is_one_that_there_is_with_options_of_the_command():
    (application,) = yaml.safe_load(DEPLOYED)["applications"]
    module, _, function = application["import_path"].partition(":")
    source = (ROOT / "runtime" / "src" / (module.replace(".", "/") + ".py")).read_text()
    assert f"\ndef {function}(arguments" in source
    ((name,),) = [re.findall(r'^NAME = "(.*)"', source, flags=re.MULTILINE)]
    assert [deployment["name"] for deployment in application["deployments"]] == [name]
    options = dict(application["args"])
    line = ["serve", options.pop("bundle"), "--ray"]
    for option, value in options.items():
        line += [f"--{option}", str(value)]
    cli._parser().parse_args(line)
    assert list(yaml.safe_load(CONFIGURED.replace("…", "null"))["user_config"]) == ["policies"]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return the labels of each metric by its name."""
    engine = Engine(Runner(bundles.write(tmp_path_factory.mktemp("bundle") / "net", policy=PROMISED)), audit_share=1)
    engine.submit(bundles.inputs(8)).result(20)
    service = Service(Models([engine]))
    service.responses[200] += 1
    engine.close(20)  # which ends the audits
    samples = [sample for family in Families(service).collect() for sample in family.samples]
    return {sample.name: {"instance", "job", *sample.labels} for sample in samples}


PROMISED = {
    **bundles.POLICY,
    "budget": None,
    "promise": {"loss": "agreement", "max_loss": 0.1, "confidence": 0.9},
}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_rule_is_about_metrics_and_labels_that_there_are(rule, names):
    found = {name.removeprefix("ray_") for name in re.findall(r"\b(?:ray_)?suffice_\w+", rule["expr"])}
    assert found <= set(names), found - set(names)
    labels = {label for name in found for label in names[name]} or {"instance", "job"}
    used = re.findall(r"(?:by|on|ignoring) \(([\w, ]+)\)", rule["expr"])
    used = {label for each in used for label in each.split(", ")} | set(re.findall(r"(\w+)=~?\"", rule["expr"]))
    used |= set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= labels, used - labels
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_page_names_metrics_that_there_are_and_all_alarms(names):
    found = set(re.findall(r"\bsuffice_(?!runtime)\w+", PAGE))
    assert found <= set(names), found - set(names)
    named = set(re.findall(r"Suffice[A-Z]\w+", PAGE))
    alarms = {rule["alert"] for rule in RULES}
    assert named == alarms - {"SufficeServerDown"}
