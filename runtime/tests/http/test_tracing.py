"""Spans of requests and of the stages that they pass."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import bundles
from http_server import SECONDS, started, until
from suffice_runtime import cli
from suffice_runtime.http import command
from suffice_runtime.serving.engine import Engine

PATH = "/v2/models/net/infer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Spans:
    """Server whose spans are kept.

    Args:
        server: Server.
        kept: Exporter that keeps them.
    """

    def __init__(self, server, kept):
        self.server, self.kept = server, kept

    def send(self, method, path, document=None, **headers):
        """Send a request, and return its span and those within it, in the order of their starts."""
        self.kept.clear()
        self.server.json(method, path, document, **headers)
        until(lambda: any(span.kind is SpanKind.SERVER for span in self.kept.get_finished_spans()))
        found = self.kept.get_finished_spans()
        (whole,) = (span for span in found if span.kind is SpanKind.SERVER)
        others = sorted((span for span in found if span is not whole), key=lambda span: span.start_time)
        assert all(span.parent.span_id == whole.context.span_id for span in others)
        return whole, others


def provider(kept, **options):
    found = TracerProvider(shutdown_on_exit=False, **options)
    found.add_span_processor(SimpleSpanProcessor(kept))
    return found


@pytest.fixture
def spans(opened):
    kept = InMemorySpanExporter()
    engine = Engine(opened(), name="net", audit_share=1)  # whose audits are in no span
    with started(engines=[engine], tracer=provider(kept).get_tracer("test")) as server:
        yield Spans(server, kept)


def test_a_request_has_a_wait_and_a_run_for_each_stage_that_its_examples_pass(spans, infer):
    x = bundles.inputs(9)
    whole, others = spans.send("POST", PATH, infer(x), x_request_id="a")
    assert whole.name == "POST /v2/models/{model}/infer"
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v2/models/{model}/infer",
        "suffice.model": "net",
        "suffice.version": "1",
        "suffice.examples": 9,
    }
    assert whole.parent is None
    exits = bundles.exits(x)
    for kind in ("wait", "run"):
        reached = np.zeros(bundles.EXITS, dtype=int)
        for span in others:
            if span.name.startswith(kind):
                reached[span.attributes["suffice.stage"]] += span.attributes["suffice.examples"]
        assert reached.tolist() == [(exits >= k).sum() for k in range(bundles.EXITS)]
    for wait, run in zip(others[::2], others[1::2], strict=True):
        stage = wait.attributes["suffice.stage"]
        assert (wait.name, run.name) == (f"wait stage {stage}", f"run stage {stage}")
        assert wait.start_time <= wait.end_time == run.start_time <= run.end_time
        assert wait.attributes["suffice.batch_examples"] >= wait.attributes["suffice.examples"]


def test_a_span_is_a_child_of_the_one_in_the_header_if_that_is_right(spans, infer):
    whole, others = spans.send("POST", PATH, infer(bundles.inputs(1)), traceparent=f"00-{TRACE}-{PARENT}-01")
    assert (whole.context.trace_id, whole.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert {span.context.trace_id for span in others} == {int(TRACE, 16)}
    for header in ("", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "x" * 1000):
        whole, _ = spans.send("GET", "/v2", traceparent=header)
        assert whole.parent is None


def test_errors_are_marked_and_nothing_that_was_sent_is_in_a_span(spans, infer):
    whole, others = spans.send("POST", f"{PATH}?key=secret", infer(bundles.inputs(1), name="secret"))
    assert whole.attributes["http.response.status_code"] == 400
    assert (whole.status.status_code, others) == (StatusCode.UNSET, [])
    assert "secret" not in whole.to_json()
    spans.server.engine()._crew._fail(RuntimeError("no"))
    whole, _ = spans.send("POST", PATH, infer(bundles.inputs(1)))
    assert (whole.attributes["http.response.status_code"], whole.status.status_code) == (503, StatusCode.ERROR)
    whole, _ = spans.send("GET", "/secret")
    assert (whole.name, whole.attributes["http.response.status_code"]) == ("GET", 404)


def test_health_has_no_span_and_what_is_not_sampled_none_of_its_stages(opened, infer):
    kept = InMemorySpanExporter()
    with started(opened(), tracer=provider(kept, sampler=ALWAYS_OFF).get_tracer("test")) as server:
        assert server.json("POST", PATH, infer(bundles.inputs(1)))[0] == 200
    with started(opened(), tracer=provider(kept).get_tracer("test")) as server:
        assert server.json("GET", "/v2/health/ready")[0] == 200
        assert server.json("GET", "/v2/health/live")[0] == 200
    assert kept.get_finished_spans() == ()


def test_without_a_tracer_no_run_is_noted(opened):
    engine = Engine(opened())
    assert engine.submit(bundles.inputs(3)).result(SECONDS).runs == ()
    runs = engine.submit(bundles.inputs(3), traced=True).result(SECONDS).runs
    assert sum(run.examples for run in runs if run.stage == 0) == 3
    engine.close(SECONDS)
    with started(opened()) as server:
        assert server.service.tracer is None


def served(bundle, exporter):
    """Serve one request by the command, and return what it printed."""
    line = [sys.executable, "-m", "suffice_runtime", "serve", str(bundle), "--name", "net", "--port", "0", "--trace"]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OTEL_TRACES_EXPORTER": exporter}
    with subprocess.Popen(line, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = json.loads(process.stderr.readline())["port"]
            body = json.dumps({"inputs": bundles.inputs(1).tolist()}).encode()
            end = time.monotonic() + SECONDS
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/net/predict", body, SECONDS):
                        break
                except ConnectionError:  # it is bound, and does not listen yet
                    assert time.monotonic() < end
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0
            return printed
        finally:
            process.kill()


def test_the_command_sends_spans_to_the_exporter_that_the_environment_names(written):
    names = re.findall(r'"name": "(.*)"', served(written(), "console"))
    assert {"POST /v1/models/{model}/predict", "wait stage 0", "run stage 0"} <= set(names)


def test_an_exporter_that_is_not_installed_and_a_missing_extra_are_errors(written, monkeypatch, capsys):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none such")
    assert cli.main(["serve", str(written()), "--trace"]) == 1
    assert "error: expected OTEL_TRACES_EXPORTER among console" in capsys.readouterr().err
    find = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "opentelemetry.sdk" else find(name))
    assert cli.main(["serve", str(written()), "--trace"]) == 1
    assert "pip install 'suffice-runtime[otel]'" in capsys.readouterr().err


PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from http_server import started
from suffice_runtime import Runner
from suffice_runtime.http import tracing

kept = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(kept))
with started(Runner(sys.argv[1]), tracer=tracing.from_environment()) as server:
    status, found = server.json("POST", "/v1/models/net/predict", {"inputs": [[0.0] * 4]})
    assert status == 200, found
servers = [span for span in kept.get_finished_spans() if span.kind is trace.SpanKind.SERVER]
assert len(servers) == 1, [span.name for span in servers]
by_id = {span.context.span_id: span for span in kept.get_finished_spans()}
(run,) = (span for span in by_id.values() if span.name == "run stage 0")
while run.kind is not trace.SpanKind.SERVER:  # FastAPI may have others between both
    print(run.name)
    run = by_id[run.parent.span_id]
assert servers == [run]
"""


def test_a_request_has_one_span_where_opentelemetry_is_configured_for_the_process(written):
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(written())], env=paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
