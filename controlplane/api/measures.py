"""What the API server tells Prometheus, by kube-apiserver's names where it has one."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controlplane.api.memory.hub import Hub
from controlplane.api.reading.fanout import Fanout

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Measures:
    """One server's metrics, in a registry of its own."""

    def __init__(self, hub: Hub, fanout: Fanout) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "apiserver_request_total",
            "Requests answered, by verb, resource and status code.",
            ("verb", "group", "resource", "subresource", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "apiserver_request_duration_seconds",
            "Time from a request's head to its answer's end; watches are not in it.",
            ("verb", "group", "resource"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_HubCollector(hub, fanout))

    def answered(
        self, verb: str, group: str, resource: str, subresource: str, code: int, seconds: float
    ) -> None:
        """Count one request; "" for the resource of a path outside any."""
        self._requests.labels(verb, group, resource, subresource, str(code)).inc()
        if verb != "watch":
            self._seconds.labels(verb, group, resource).observe(seconds)


class _HubCollector(Collector):
    """Numbers that are there anyway, read when they are asked for."""

    def __init__(self, hub: Hub, fanout: Fanout) -> None:
        self._hub, self._fanout = hub, fanout

    def collect(self) -> Iterator[GaugeMetricFamily]:
        watchers = GaugeMetricFamily(
            "apiserver_longrunning_requests", "Watches open now.", labels=("group", "resource")
        )
        objects = GaugeMetricFamily(
            "apiserver_storage_objects", "Objects stored now.", labels=("group", "resource")
        )
        for resource, count in self._fanout.watchers().items():
            labels = (resource.group, resource.plural)
            watchers.add_metric(labels, count)
            objects.add_metric(labels, len(self._hub.all(resource)))
        yield watchers
        yield objects
        revision = GaugeMetricFamily("netplane_store_revision", "The store's newest revision.")
        revision.add_metric((), self._hub.revision)
        yield revision
