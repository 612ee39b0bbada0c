"""The node agent's metrics, on 10255. One registry per agent, so that tests and labs never share counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PLUGIN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
START_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)


class NodeMetrics:
    """All of them, with their registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.pods = Gauge("netplane_node_pods", "Pods on this node by phase", ["phase"], registry=registry)
        self.pod_start = Histogram(
            "netplane_node_pod_start_duration_seconds",
            "From first seeing a pod to all of its containers running",
            buckets=START_BUCKETS,
            registry=registry,
        )
        self.cni = Histogram(
            "netplane_node_cni_operation_duration_seconds",
            "One plugin's run",
            ["operation", "result"],
            buckets=PLUGIN_BUCKETS,
            registry=registry,
        )
        self.restarts = Counter(
            "netplane_node_container_restarts_total", "Containers started again", registry=registry
        )
        self.probes = Counter(
            "netplane_node_probes_total",
            "Probes by purpose and result",
            ["purpose", "result"],
            registry=registry,
        )
        self.status_lag = Histogram(
            "netplane_node_status_write_lag_seconds",
            "From a change of a pod's status to the API server's having it",
            buckets=PLUGIN_BUCKETS,
            registry=registry,
        )
        self.api_contact = Gauge(
            "netplane_node_api_last_contact_seconds",
            "Age of the last word from the API server",
            registry=registry,
        )
        self.routes = Gauge("netplane_node_routes", "Routes to other nodes' pods", registry=registry)

    def observe_cni(self, verb: str, seconds: float, ok: bool) -> None:
        """One plugin's run."""
        self.cni.labels(verb, "ok" if ok else "error").observe(seconds)
