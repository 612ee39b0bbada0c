"""The proxy's numbers for Prometheus: kube-proxy's names where it has one, ours for traffic.

Why a collector: the data path counts in plain integers (``userspace.traffic``); they become samples only when
somebody asks. Buckets are kube-proxy's (``pkg/proxy/metrics``), so that its dashboards work unchanged.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.diff import diff
from proxy.model import Frontend, Protocol, ServicePort, Snapshot, Target, WhenEmpty
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.traffic import CONNECT_BUCKETS, Traffic, TrafficKey

SYNC_BUCKETS = tuple(0.001 * 2**n for n in range(15))
PROGRAMMING_BUCKETS = (
    0.25,
    0.5,
    *(float(second) for second in range(1, 60)),
    *(float(second) for second in range(60, 120, 5)),
    *(float(second) for second in range(120, 301, 30)),
)
DELAY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SERVICE_LABELS = ("namespace", "service", "port", "protocol")


class SyncMetrics:
    """What kube-proxy says about its syncs, and how long the API's news take to arrive in the kernel."""

    def __init__(self, registry: CollectorRegistry) -> None:
        family = ("ip_family",)
        self.sync = _histogram(registry, "sync_proxy_rules_duration_seconds", "Duration of a sync", family)
        self.full = _histogram(registry, "sync_full_proxy_rules_duration_seconds", "... a first one", family)
        self.partial = _histogram(
            registry, "sync_partial_proxy_rules_duration_seconds", "... a later", family
        )
        self.programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From a change in the cluster (the slice's trigger time) to listeners that follow it",
            family,
            buckets=PROGRAMMING_BUCKETS,
            registry=registry,
        )
        self.last = _gauge(
            registry, "sync_proxy_rules_last_timestamp_seconds", "Last successful sync", family
        )
        self.queued = _gauge(
            registry, "sync_proxy_rules_last_queued_timestamp_seconds", "Last change seen", family
        )
        self.no_local = _gauge(
            registry,
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with policy Local and no endpoint here",
            ("ip_family", "traffic_policy"),
        )
        self.changes = {
            kind: Counter(
                f"kubeproxy_sync_proxy_rules_{kind}_changes",
                f"Changes of {kind}s seen",
                registry=registry,
            )
            for kind in ("endpoint", "service")
        }
        self.pending = {
            kind: _gauge(
                registry, f"sync_proxy_rules_{kind}_changes_pending", f"Changes of {kind}s not synced"
            )
            for kind in ("endpoint", "service")
        }
        self.health = {
            page: Counter(f"kubeproxy_proxy_{page}", f"Answers of /{page}", ("code",), registry=registry)
            for page in ("healthz", "livez")
        }
        self.delay = Histogram(
            "netplane_proxy_event_to_listeners_seconds",
            "From the first watch event of a sync to listeners that follow it",
            buckets=DELAY_BUCKETS,
            registry=registry,
        )
        self.failures = Counter("netplane_proxy_sync_failures", "Syncs that failed", registry=registry)
        self.unserved = Gauge(
            "netplane_proxy_unserved_frontends", "Frontends wanted that do not work", registry=registry
        )
        self._seen: Mapping[Frontend, Target] = {}
        self._silent: Tally[tuple[str, str]] = Tally()

    def synced(self, families: Iterable[str], seconds: float, now: float, *, first: bool) -> None:
        """Count one successful sync."""
        for family in families:
            self.sync.labels(family).observe(seconds)
            (self.full if first else self.partial).labels(family).observe(seconds)
            self.last.labels(family).set(now)

    def policies(self, snapshot: Snapshot, families: Iterable[str]) -> None:
        """Count the Service ports that policy Local leaves without an endpoint on this node."""
        changes = diff(self._seen, snapshot.targets)
        for frontend in {*changes.removed, *changes.changed}:
            self._silent[_silence(frontend, self._seen[frontend])] -= 1
        for frontend, target in {**changes.added, **changes.changed}.items():
            self._silent[_silence(frontend, target)] += 1
        self._seen = snapshot.targets
        for family in families:
            for policy in ("internal", "external"):
                self.no_local.labels(family, policy).set(self._silent[family, policy])


def export_takeovers(registry: CollectorRegistry, last: Mapping[str, Callable[[], Takeover]]) -> None:
    """How the last take-over of flows went, by its cause."""
    flows = Gauge("netplane_proxy_takeover_flows", "Flows that went on", ("cause",), registry=registry)
    pause = Gauge(
        "netplane_proxy_takeover_longest_pause_seconds",
        "For how long one of them was not relayed, at most",
        ("cause",),
        registry=registry,
    )
    for cause, ask in last.items():
        flows.labels(cause).set_function(partial(_flows, ask))
        pause.labels(cause).set_function(partial(_longest, ask))


def _flows(ask: Callable[[], Takeover]) -> float:
    return ask().flows


def _longest(ask: Callable[[], Takeover]) -> float:
    return ask().longest


def _silence(frontend: Frontend, target: Target) -> tuple[str, str]:
    """By which policy an outside client meets silence there; ("", "") where it does not."""
    pool = target.outside
    if pool.endpoints or pool.when_empty is WhenEmpty.REJECT:
        return ("", "")
    return f"IPv{frontend.address.version}", "external" if target.keep_outside_address else "internal"


def _histogram(registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
    return Histogram(f"kubeproxy_{name}", text, labels, buckets=SYNC_BUCKETS, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(f"kubeproxy_{name}", text, labels, registry=registry)


class TrafficCollector(Collector):
    """Samples of all Service ports, made from the data path's integers at the moment of asking.

    ``by_endpoint``: they are told apart by one label more, which is empty where no endpoint is concerned.
    """

    def __init__(
        self,
        traffic: Callable[[], Mapping[TrafficKey, Traffic]],
        counted: Callable[[], Mapping[tuple[ServicePort, Protocol], int]] = dict,
        *,
        by_endpoint: bool = False,
    ) -> None:
        self._traffic = traffic
        self._counted = counted
        self._labels = (*SERVICE_LABELS, "endpoint") if by_endpoint else SERVICE_LABELS

    def collect(self) -> Iterator[Metric]:
        """All traffic metrics; of what the kernel counts, the connections are all that is known."""
        if counted := self._counted():
            family = _connections(SERVICE_LABELS)
            for (key, protocol), count in counted.items():
                family.add_metric((key.namespace, key.name, key.port, protocol.value), count)
            yield family
            return
        labels = self._labels
        entries: Entries = [
            (_values(key)[: len(labels)], traffic) for key, traffic in self._traffic().items()
        ]
        yield from _counters(labels, entries)
        yield _bytes(labels, entries)
        yield _rejected(labels, entries)
        yield _connects(labels, entries)


Labels = tuple[str, ...]
Entries = list[tuple[Labels, Traffic]]


def _values(key: TrafficKey) -> Labels:
    service = key.service
    return (service.namespace, service.name, service.port, key.protocol.value, key.endpoint)


def _counters(labels: Labels, entries: Entries) -> Iterator[Metric]:
    connections = _connections(labels)
    retries = CounterMetricFamily(
        "netplane_service_connect_retries", "Connects tried again, mostly elsewhere", labels=labels
    )
    active = GaugeMetricFamily("netplane_service_active_connections", "Open now", labels=labels)
    for values, traffic in entries:
        connections.add_metric(values, traffic.connections)
        retries.add_metric(values, traffic.retries)
        active.add_metric(values, traffic.active)
    yield from (connections, retries, active)


def _connections(labels: Labels) -> CounterMetricFamily:
    return CounterMetricFamily("netplane_service_connections", "Client connections taken", labels=labels)


def _bytes(labels: Labels, entries: Entries) -> Metric:
    family = CounterMetricFamily(
        "netplane_service_bytes",
        "Payload relayed; direction in: from clients, out: to them",
        labels=(*labels, "direction"),
    )
    for values, traffic in entries:
        family.add_metric((*values, "in"), traffic.received)
        family.add_metric((*values, "out"), traffic.sent)
    return family


def _rejected(labels: Labels, entries: Entries) -> Metric:
    family = CounterMetricFamily(
        "netplane_service_rejected",
        "Clients turned away by the proxy; those that the kernel refuses are not seen here",
        labels=(*labels, "reason"),
    )
    for values, traffic in entries:
        for reason, count in traffic.rejected.items():
            family.add_metric((*values, reason), count)
    return family


def _connects(labels: Labels, entries: Entries) -> Metric:
    family = HistogramMetricFamily(
        "netplane_service_connect_duration_seconds",
        "From connect(2) to an endpoint that has answered; one connection in eight is timed",
        labels=labels,
    )
    bounds = [*(repr(bound) for bound in CONNECT_BUCKETS), "+Inf"]
    for values, traffic in entries:
        # Most Services of a node have no client there, and this is 18 lines for each.
        if not traffic.connections:
            continue
        buckets = list(zip(bounds, accumulate(traffic.buckets), strict=True))
        family.add_metric(values, buckets, traffic.connect_seconds)
    return family
