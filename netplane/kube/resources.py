"""The resources netplane speaks, by the names and paths that every Kubernetes client uses."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of API object and where it lives under the API's root.

    ``group`` is "" for the core group. Source: Kubernetes API conventions, "Resources".
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = field(default=(), compare=False)
    categories: tuple[str, ...] = field(default=(), compare=False)

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``: the object's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """``/api/v1`` or ``/apis/apps/v1``."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def qualified(self) -> str:
        """``deployments.apps``, ``pods``: the name error messages use."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        """``pod``: what kubectl lets a person type."""
        return self.kind.lower()

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL path of a collection, an object or a subresource.

        A namespaced resource with no namespace names the collection across all namespaces.
        """
        parts = [self.root]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, short_names=("ns",))
NODES = Resource("", "v1", "nodes", "Node", namespaced=False, short_names=("no",))
PODS = Resource("", "v1", "pods", "Pod", short_names=("po",), categories=("all",))
SERVICES = Resource("", "v1", "services", "Service", short_names=("svc",), categories=("all",))
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", short_names=("ep",))
EVENTS = Resource("", "v1", "events", "Event", short_names=("ev",))
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet", short_names=("rs",), categories=("all",))
DEPLOYMENTS = Resource(
    "apps", "v1", "deployments", "Deployment", short_names=("deploy",), categories=("all",)
)
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",))
DAEMONSETS = Resource("apps", "v1", "daemonsets", "DaemonSet", short_names=("ds",), categories=("all",))
CONTROLLERREVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
JOBS = Resource("batch", "v1", "jobs", "Job", categories=("all",))
PODDISRUPTIONBUDGETS = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short_names=("pdb",)
)
NETWORKPOLICIES = Resource(
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short_names=("netpol",)
)
PRIORITYCLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short_names=("pc",)
)

ALL: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    EVENTS,
    ENDPOINTSLICES,
    LEASES,
    REPLICASETS,
    DEPLOYMENTS,
    CONFIGMAPS,
    SECRETS,
    SERVICEACCOUNTS,
    DAEMONSETS,
    CONTROLLERREVISIONS,
    JOBS,
    PODDISRUPTIONBUDGETS,
    NETWORKPOLICIES,
    PRIORITYCLASSES,
)


def by_kind(api_version: str, kind: str) -> Resource | None:
    """The resource that a manifest's ``apiVersion`` and ``kind`` name, or None."""
    return next((r for r in ALL if r.api_version == api_version and r.kind == kind), None)
