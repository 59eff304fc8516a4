import re

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from prometheus_client import parser

import bundles
from http_server import started, until
from suffice_runtime.serving.engine import Engine

PATH = "/v2/models/net/infer"


def samples(server):
    """Return all metrics of a server: values by name and labels."""
    status, headers, body = server.send("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = parser.text_string_to_metric_families(body.decode())
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = {key: value for key, value in sample.labels.items() if key not in ("model", "version")}
        assert (sample.labels.get("model", "net"), sample.labels.get("version", "1")) == ("net", "1")
        found[sample.name, *labels.values()] = sample.value
    return found


def test_metrics_are_those_of_what_was_served(runner, infer):
    x = bundles.inputs(40)
    exits = runner.run(x).exit
    with started(runner) as server:
        server.json("POST", PATH, infer(x))
        server.json("POST", PATH, infer(x, parameters={"cap_exit": 0}))
        server.json("POST", PATH, infer(x[:, :3]))
        found = samples(server)
        engine = server.engine().statistics()
    expected = {
        ("suffice_requests_total", "answered"): 2,
        ("suffice_requests_total", "invalid"): 1,
        **{("suffice_examples_total", str(k)): (exits == k).sum() + 40 * (k == 0) for k in range(3)},
        ("suffice_examples_capped_total",): (exits > 0).sum(),
        ("suffice_multiply_adds_total",): engine.macs,
        ("suffice_request_seconds_count",): 2,
        ("suffice_request_seconds_bucket", "+Inf"): 2,
        ("suffice_request_seconds_sum",): pytest.approx(engine.request_seconds.total),
        ("suffice_stage_seconds_count", "0"): engine.stage_seconds[0].count,
        ("suffice_batch_examples_sum", "0"): 80,
        ("suffice_waiting_examples", "0"): 0,
        ("suffice_open_requests",): 0,
        ("suffice_policy_version",): 1,
        ("suffice_expected_cost",): pytest.approx(np.dot(bundles.POLICY["shares"], bundles.COSTS) / bundles.COSTS[-1]),
        ("suffice_alarms_total", "loss"): 0,
        ("suffice_http_responses_total", "200"): 2,
        ("suffice_http_responses_total", "400"): 1,
        ("suffice_http_requests",): 0,  # that for the metrics is no inference
    }
    assert {key: found[key] for key in expected} == expected


def test_the_promise_on_live_requests_is_watched(opened, infer):
    promise = {"loss": "agreement", "max_loss": 0.9, "confidence": 0.95}
    runner = opened(budget=None, promise=promise)
    engine = Engine(runner, name="net", audit_share=1.0)
    with started(engines=[engine]) as server:
        for _ in range(5):
            server.json("POST", PATH, infer(bundles.inputs(20)))
        until(lambda: engine.watch().audited == 100)
        found, watch = samples(server), engine.watch()
    expected = {
        ("suffice_promised_loss", "agreement"): 0.9,
        ("suffice_audited_examples",): 100,
        ("suffice_live_loss",): watch.loss,
        ("suffice_live_loss_bound",): watch.bound,
        ("suffice_promise_e_value",): watch.e_value,
        ("suffice_promise_e_limit",): watch.e_limit,
        ("suffice_live_cost",): watch.cost,
        ("suffice_live_epistemic",): watch.epistemic,
        ("suffice_alarms_total", "loss"): 0,
    }
    assert {key: found[key] for key in expected} == {key: pytest.approx(value) for key, value in expected.items()}


def test_names_and_help_are_those_of_prometheus(server):
    text = server.send("GET", "/metrics")[2].decode()
    names = re.findall(r"^# HELP (\S+) (.+)$", text, flags=re.MULTILINE)
    assert len(names) == len({name for name, _ in names})
    for name, described in names:
        assert re.fullmatch(r"suffice_[a-z_]+", name)
        assert described[0].isupper()
