"""Metrics of Prometheus, computed from the engines when they are fetched."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from suffice_runtime.http.service import Service
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.statistics import Histogram, Statistics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_MODEL = ("model", "version")
_STAGE = (*_MODEL, "stage")


def render(service: Service) -> bytes:
    """Return all metrics in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Models(service))
    return generate_latest(registry)


class _Models(Collector):
    """Metrics of the models of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        engines = list(self._service.models.values())
        counts = [((engine.name, engine.version), engine, engine.statistics()) for engine in engines]
        yield from _requests(counts)
        yield from _examples(counts)
        yield from _times(counts)
        yield from _load(counts)
        yield from _policies(counts)
        responses = CounterMetricFamily("suffice_http_responses", "Responses by status", labels=("status",))
        for status, number in sorted(self._service.responses.items()):
            responses.add_metric((str(status),), number)
        yield responses
        yield GaugeMetricFamily("suffice_http_requests", "Requests that are handled", self._service.room.requests)
        yield GaugeMetricFamily("suffice_http_body_bytes", "Bytes of bodies that are held", self._service.room.held)


Counts = Iterable[tuple[tuple[str, str], Engine, Statistics]]


def _counter(name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Return a counter with a value for each row of labels."""
    family = CounterMetricFamily(name, text, labels=tuple(labels))
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _gauge(name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Return a gauge with a value for each row of labels."""
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _histogram(
    name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """Return a histogram for each row of labels."""
    family = HistogramMetricFamily(name, text, labels=tuple(labels))
    for values, found in rows:
        buckets, total = list[tuple[str, float]](), 0
        for edge, number in zip((*found.edges, float("inf")), found.counts, strict=True):
            total += number
            buckets.append(("+Inf" if edge == float("inf") else repr(float(edge)), total))
        family.add_metric(values, buckets, found.total)
    return family


def _requests(counts: Counts) -> Iterator[Metric]:
    """Yield the numbers of requests."""
    kinds = {"answered": "requests", "refused": "refused", "invalid": "invalid", "cancelled": "cancelled"}
    rows = [((*key, kind), getattr(one, name)) for key, _, one in counts for kind, name in kinds.items()]
    yield _counter("suffice_requests", "Requests by what became of them", (*_MODEL, "outcome"), rows)


def _examples(counts: Counts) -> Iterator[Metric]:
    """Yield the numbers of examples and their cost."""
    exits = [((*key, str(k)), number) for key, _, one in counts for k, number in enumerate(one.exits)]
    yield _counter("suffice_examples", "Answered examples by exit", (*_MODEL, "exit"), exits)
    for name, text in (
        ("failed", "Examples that failed"),
        ("late", "Examples answered because of a deadline"),
        ("capped", "Examples answered because of a cap"),
    ):
        rows = [(key, getattr(one, name)) for key, _, one in counts]
        yield _counter(f"suffice_examples_{name}", text, _MODEL, rows)
    yield _counter(
        "suffice_multiply_adds",
        "Multiply-adds of the answered examples with known costs",
        _MODEL,
        [(key, one.macs) for key, _, one in counts],
    )
    yield _counter(
        "suffice_examples_priced",
        "Answered examples with known costs",
        _MODEL,
        [(key, one.priced) for key, _, one in counts],
    )


def _times(counts: Counts) -> Iterator[Metric]:
    """Yield the histograms of seconds and of the sizes of batches."""
    requests = [(key, one.request_seconds) for key, _, one in counts]
    yield _histogram("suffice_request_seconds", "Seconds from acceptance to answer", _MODEL, requests)
    for name, text, field in (
        ("suffice_stage_seconds", "Seconds of a run of each stage", "stage_seconds"),
        ("suffice_batch_examples", "Examples in a run of each stage", "batch_sizes"),
    ):
        rows = [((*key, str(k)), found) for key, _, one in counts for k, found in enumerate(getattr(one, field))]
        yield _histogram(name, text, _STAGE, rows)


def _load(counts: Counts) -> Iterator[Metric]:
    """Yield what the engines hold now."""
    waiting = [((*key, str(k)), number) for key, _, one in counts for k, number in enumerate(one.load.waiting)]
    yield _gauge("suffice_waiting_examples", "Examples that wait before each stage", _STAGE, waiting)
    for name, text in (
        ("requests", "Requests that are accepted and not answered"),
        ("rows", "Examples of these requests"),
        ("running", "Batches that run"),
        ("auditing", "Answered examples that wait to be run on to the last exit"),
    ):
        rows = [(key, getattr(one.load, name)) for key, _, one in counts]
        yield _gauge(f"suffice_open_{'examples' if name == 'rows' else name}", text, _MODEL, rows)


def _policies(counts: Counts) -> Iterator[Metric]:
    """Yield the policy in force."""
    versions: Any = [(key, engine.policy_version) for key, engine, _ in counts]
    yield _gauge("suffice_policy_version", "Number of the policy in force", _MODEL, versions)
    expected = [((*key, engine.policy.unit), engine.policy.expected) for key, engine, _ in counts]
    yield _gauge("suffice_policy_expected_cost", "Mean cost on the validation data", (*_MODEL, "unit"), expected)
