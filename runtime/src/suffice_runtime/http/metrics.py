"""Metrics of Prometheus, computed from the engines when they are fetched."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from suffice_runtime.http.service import Service
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.statistics import Histogram, Statistics
from suffice_runtime.serving.watch import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Type of the text format of Prometheus."""

_MODEL = ("model", "version")

Row = tuple[tuple[str, ...], float | None]
"""Values of the labels, and a number; none if it is not known."""

_REQUESTS = {"answered": "requests", "refused": "refused", "invalid": "invalid", "cancelled": "cancelled"}
"""Fields of the statistics by what became of requests."""

_COUNTERS = {
    "failed": ("suffice_examples_failed", "Examples that failed"),
    "late": ("suffice_examples_late", "Examples answered because of a deadline"),
    "capped": ("suffice_examples_capped", "Examples answered because of a cap"),
    "macs": ("suffice_multiply_adds", "Multiply-adds of the answered examples with known costs"),
    "priced": ("suffice_examples_priced", "Answered examples with known costs"),
}
"""Name and help of counters, by the field of the statistics."""

_LOAD = {
    "requests": ("suffice_open_requests", "Requests that are accepted and not answered"),
    "rows": ("suffice_open_examples", "Examples of these requests"),
    "running": ("suffice_running_batches", "Batches that run"),
    "auditing": ("suffice_audited_examples_waiting", "Answered examples that wait to be run on to the last exit"),
}
"""Name and help of gauges, by the field of the load."""

_STAGES = {
    "stage_seconds": ("suffice_stage_seconds", "Seconds of a run of each stage"),
    "batch_sizes": ("suffice_batch_examples", "Examples in a run of each stage"),
}
"""Name and help of histograms, by the field of the statistics."""

_WATCHED = {
    "audited": ("suffice_audited_examples", "Examples whose loss against the last exit is known"),
    "loss": ("suffice_live_loss", "Mean of these losses"),
    "bound": ("suffice_live_loss_bound", "Upper bound on the expected loss, at all times at once"),
    "e_value": ("suffice_promise_e_value", "Evidence that the promise is broken"),
    "e_limit": ("suffice_promise_e_limit", "Evidence at which there is an alarm"),
    "step": ("suffice_promise_step", "Steps back along the certified policies"),
    "exits_e_value": ("suffice_exits_e_value", "Evidence that the shares of exits are not those of the policy"),
    "exits_e_limit": ("suffice_exits_e_limit", "Evidence at which there is an alarm"),
    "cost": ("suffice_live_cost", "Mean multiply-adds as a fraction of those of the last exit"),
    "expected_cost": ("suffice_expected_cost", "The same on the validation data"),
    "epistemic": ("suffice_live_epistemic", "Mean epistemic uncertainty of the answers"),
    "skipped": ("suffice_audits_skipped", "Requests without room for their audit"),
    "unobserved": ("suffice_requests_unobserved", "Requests with a policy of their own, a deadline or a cap"),
}
"""Name and help of gauges, by the field of what is watched."""


@dataclass(frozen=True)
class Snapshot:
    """Model at the time when the metrics are fetched.

    Attributes:
        engine: Its engine.
        counts: Its statistics.
        watch: What is watched.
    """

    engine: Engine
    counts: Statistics
    watch: Watch

    @property
    def labels(self) -> tuple[str, str]:
        """Values of the labels of the model."""
        return self.engine.name, self.engine.version


def render(service: Service) -> bytes:
    """Return all metrics in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(service))
    return generate_latest(registry)


class Families(Collector):
    """Metrics of the models of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        found = [Snapshot(engine, engine.statistics(), engine.watch()) for engine in self._service.engines]
        yield from _counted(found)
        yield from _timed(found)
        yield from _held(found)
        yield from _watched(found)
        responses = [((str(status),), number) for status, number in sorted(self._service.responses.items())]
        yield _counter("suffice_http_responses", "Responses by status", ("status",), responses)
        room = self._service.room
        yield _gauge("suffice_http_requests", "Requests for inference that are handled", (), [((), room.requests)])
        yield _gauge("suffice_http_body_bytes", "Bytes of bodies that are held", (), [((), room.held)])


def _counted(found: Sequence[Snapshot]) -> Iterator[Metric]:
    """Yield the numbers of requests and examples, and their cost."""
    requests = [((*one.labels, kind), getattr(one.counts, field)) for one in found for kind, field in _REQUESTS.items()]
    yield _counter("suffice_requests", "Requests by what became of them", (*_MODEL, "outcome"), requests)
    exits = [((*one.labels, str(k)), number) for one in found for k, number in enumerate(one.counts.exits)]
    yield _counter("suffice_examples", "Answered examples by exit", (*_MODEL, "exit"), exits)
    for field, (name, text) in _COUNTERS.items():
        yield _counter(name, text, _MODEL, [(one.labels, getattr(one.counts, field)) for one in found])


def _timed(found: Sequence[Snapshot]) -> Iterator[Metric]:
    """Yield the histograms of seconds and of the sizes of batches."""
    requests = [(one.labels, one.counts.request_seconds) for one in found]
    yield _histogram("suffice_request_seconds", "Seconds from acceptance to answer", _MODEL, requests)
    for field, (name, text) in _STAGES.items():
        rows = [((*one.labels, str(k)), each) for one in found for k, each in enumerate(getattr(one.counts, field))]
        yield _histogram(name, text, (*_MODEL, "stage"), rows)


def _held(found: Sequence[Snapshot]) -> Iterator[Metric]:
    """Yield what the engines hold now."""
    waiting = [((*one.labels, str(k)), rows) for one in found for k, rows in enumerate(one.counts.load.waiting)]
    yield _gauge("suffice_waiting_examples", "Examples that wait before each stage", (*_MODEL, "stage"), waiting)
    for field, (name, text) in _LOAD.items():
        yield _gauge(name, text, _MODEL, [(one.labels, getattr(one.counts.load, field)) for one in found])


def _watched(found: Sequence[Snapshot]) -> Iterator[Metric]:
    """Yield the policy in force, its promise, and what is watched on live requests."""
    versions = [(one.labels, one.watch.policy_version) for one in found]
    yield _gauge("suffice_policy_version", "Number of the policy in force", _MODEL, versions)
    promised = [
        ((*one.labels, one.watch.promise.loss), one.watch.promise.max_loss)
        for one in found
        if one.watch.promise is not None
    ]
    yield _gauge("suffice_promised_loss", "Bound on the mean loss that is promised", (*_MODEL, "loss"), promised)
    for field, (name, text) in _WATCHED.items():
        yield _gauge(name, text, _MODEL, [(one.labels, getattr(one.watch, field)) for one in found])
    alarms = [
        ((*one.labels, kind), sum(alarm.kind == kind for alarm in one.watch.alarms))
        for one in found
        for kind in ("loss", "exits")
    ]
    yield _counter("suffice_alarms", "Alarms since the start, by what they are about", (*_MODEL, "kind"), alarms)


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    """Return a counter with a value for each row."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        assert number is not None
        family.add_metric(values, number)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    """Return a gauge with a value for each row whose number is known."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """Return a histogram for each row."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, found in rows:
        buckets, total = list[tuple[str, float]](), 0
        for edge, number in zip((*map(repr, found.edges), "+Inf"), found.counts, strict=True):
            total += number
            buckets.append((edge, total))
        family.add_metric(values, buckets, found.total)
    return family
