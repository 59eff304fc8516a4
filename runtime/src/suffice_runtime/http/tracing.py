"""Spans of OpenTelemetry: one for each request, with the waits and runs of its stages in it. Needs the extra `otel`.

A span is a child of the one in the header `traceparent` (W3C), or of one that is open already: that of FastAPI, if
OpenTelemetry is configured for the whole process, is used in place of another one. Names and attributes of a request
are those of the semantic conventions for HTTP. Nothing of a body, a query or a token is in a span.
"""

import os
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suffice_runtime._version import __version__
from suffice_runtime.http.transport.tokens import OPEN
from suffice_runtime.scheduling.requests import Outcome, StageRun

SPAN = "span"
"""Name in the state of a request of what adds the spans of its outcome."""

_NOTED = ("model", "version", "examples")
"""Entries of the log that are attributes, too."""

_DEFAULT = "otlp_proto_http"


class Traced:
    """Application around another one, with a span for each request but those of health.

    Args:
        app: Application.
        tracer: Tracer that makes the spans.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        outer = trace.get_current_span()
        if outer.get_span_context().is_valid:
            await self._within(outer, scope, receive, send)
            return
        context = propagate.extract(Headers(scope=scope))
        with self._tracer.start_as_current_span(scope["method"], context, kind=SpanKind.SERVER) as span:
            await self._within(span, scope, receive, send)
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)

    async def _within(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request within its span."""
        state = scope.setdefault("state", {})
        entries = state.setdefault("log", {})

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":  # a span of FastAPI ends with the response
                known = {f"suffice.{name}": entries[name] for name in _NOTED if name in entries}
                span.set_attributes({"http.response.status_code": message["status"], **known})
                if message["status"] >= 500:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        if span.is_recording():
            state[SPAN] = Stages(self._tracer)
        span.set_attribute("http.request.method", scope["method"])
        await self._app(scope, receive, noted)


class Stages:
    """Spans of the stages of one request.

    Args:
        tracer: Tracer that makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def add(self, outcome: Outcome, zero: int) -> None:
        """Add the spans of an outcome to the present span.

        Args:
            outcome: Outcome of a request that was traced.
            zero: Nanoseconds since 1970 at which the clock of the engine was 0.
        """
        for run in outcome.runs:
            came, started, ended = (
                zero + round(1e9 * seconds) for seconds in (run.waited_since, run.started, run.ended)
            )
            self._add("wait", run, came, started)
            self._add("run", run, started, ended)

    def _add(self, kind: str, run: StageRun, start: int, end: int) -> None:
        values = {"suffice.stage": run.stage, "suffice.examples": run.examples, "suffice.batch_examples": run.batch}
        span = self._tracer.start_span(f"{kind} stage {run.stage}", attributes=values, start_time=start)
        span.end(end)


def from_environment() -> Tracer:
    """Return the tracer that is configured for the process, or one that OpenTelemetry's environment variables describe.

    `OTEL_TRACES_EXPORTER` is the name of the exporter (default: "otlp", over HTTP). Its address is in
    `OTEL_EXPORTER_OTLP_ENDPOINT`, and what it sends is under the name in `OTEL_SERVICE_NAME`.

    Raises:
        ValueError: If there is no such exporter.
    """
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider.get_tracer("suffice_runtime", __version__)


def _exporter() -> Any:
    """Return the exporter that the environment names."""
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    wanted = _DEFAULT if name == "otlp" else name
    known = entry_points(group="opentelemetry_traces_exporter")
    if wanted not in known.names:
        raise ValueError(
            f"expected OTEL_TRACES_EXPORTER among {', '.join(sorted(known.names))}, got {name!r}; install its package"
        )
    return known[wanted].load()()
