"""Metrics of a replica among those of Ray, which Prometheus fetches from the metrics port of each node.

Names, labels and values are those of `/metrics`, with "ray_" in front and the labels `application`, `deployment` and
`replica`. Counters and the parts of histograms (`…_bucket`, `…_sum`, `…_count`) are counters, whose names end in
"_total" there.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from prometheus_client.core import Metric
from ray.serve import metrics

from suffice_runtime.http.metrics import Families
from suffice_runtime.http.service import Service

SECONDS = 5.0
"""Seconds between two times when metrics are sent."""

_LOG = logging.getLogger(__name__)

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a sample."""


class Publisher:
    """Thread that sends the metrics of a service to Ray until its process ends.

    Args:
        service: Service.
        gauge: Class of gauges, as that of Ray Serve.
        counter: Class of counters, as that of Ray Serve.
    """

    def __init__(
        self, service: Service, gauge: Callable[..., Any] = metrics.Gauge, counter: Callable[..., Any] = metrics.Counter
    ) -> None:
        self._families, self._gauge, self._counter = Families(service), gauge, counter
        self._known = dict[str, Any]()
        self._sent = dict[Key, float]()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._repeat, name="suffice-metrics", daemon=True).start()

    def send(self) -> None:
        """Send all metrics once."""
        for family in self._families.collect():
            for sample in family.samples:
                name, labels = sample.name.removesuffix("_total"), dict(sample.labels)
                metric = self._metric(family, name, tuple(labels))
                if family.type == "gauge":
                    metric.set(sample.value, tags=labels)
                    continue
                key = name, tuple(sorted(labels.items()))
                more = sample.value - self._sent.get(key, 0.0)
                if more > 0:
                    metric.inc(more, tags=labels)
                    self._sent[key] = sample.value

    def _metric(self, family: Metric, name: str, labels: tuple[str, ...]) -> Any:
        """Return the metric of Ray with a name."""
        if name not in self._known:
            kind = self._gauge if family.type == "gauge" else self._counter
            self._known[name] = kind(name, description=family.documentation, tag_keys=labels)
        return self._known[name]

    def _repeat(self) -> None:
        wait = threading.Event().wait
        while not wait(SECONDS):
            try:
                self.send()
            except Exception:  # answers do not depend on metrics
                _LOG.exception("the metrics could not be sent")
