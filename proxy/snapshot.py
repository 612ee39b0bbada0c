"""What the API wants of this node, as one value: services + endpoint slices + node → Snapshot.

The laws: nothing here reads a clock, a socket or the node. The order in which objects are given never
matters. Data paths may assume that every address is resolved and every rule of the API already applied, so
no data path repeats one. An object that makes no sense costs that object only, and is named in ``problems``.
A change costs what it touches, never the number of Services.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from netplane.kube.objects import Object, ObjectKey, key_of, labels_of, meta, namespace_of
from proxy.frontends import targets_of
from proxy.model import Frontend, HealthCheck, IPNetwork, NodeFacts, Snapshot, Target
from proxy.targets import Targets

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"

API_SERVICE = ObjectKey("default", "kubernetes")

Age = tuple[str, ObjectKey]


def build(services: Iterable[Object], slices: Iterable[Object], node: NodeFacts) -> Snapshot:
    """Resolve every Service that is ours to serve. Of two that claim one frontend, the older keeps it."""
    resolution = Resolution(node)
    for service in services:
        resolution.put_service(service)
    for item in slices:
        resolution.put_slice(item)
    return resolution.snapshot()


def is_ours(obj: Object) -> bool:
    """Whether a Service (or its slices, which carry its labels) is left to this proxy, and balanced at all."""
    labels = labels_of(obj)
    if PROXY_NAME_LABEL in labels or HEADLESS_LABEL in labels:
        return False
    if "addressType" in obj:  # an EndpointSlice
        return True
    spec = obj.get("spec") or {}
    return spec.get("type") != "ExternalName" and spec.get("clusterIP") not in (None, "", "None")


def node_facts(
    node: Object, cluster_cidrs: Sequence[IPNetwork], service_cidrs: Sequence[IPNetwork]
) -> NodeFacts:
    """What matters of a Node object. Raises ValueError where an address or a CIDR of it is none.

    Where no ``cluster_cidrs`` are known, this node's own pods are all that is (kube-proxy's detectLocalMode NodeCIDR).
    """
    spec = node.get("spec") or {}
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    pods = tuple(ip_network(cidr) for cidr in cidrs)
    listed = (node.get("status") or {}).get("addresses") or []
    internal, external = (
        tuple(ip_address(entry["address"]) for entry in listed if entry.get("type") == kind)
        for kind in ("InternalIP", "ExternalIP")
    )
    return NodeFacts(
        name=str(meta(node).get("name")),
        addresses=internal or external,
        pod_cidrs=pods,
        cluster_cidrs=tuple(cluster_cidrs) or pods,
        service_cidrs=tuple(service_cidrs),
        zone=labels_of(node).get(ZONE_LABEL, ""),
    )


@dataclass(frozen=True, slots=True)
class Part:
    """One Service's part of a snapshot."""

    age: Age
    frontends: Mapping[Frontend, Target] = field(default_factory=dict)
    problems: Sequence[str] = ()
    check: tuple[int, HealthCheck] | None = None


class Resolution:
    """All that the API has said so far. ``snapshot`` resolves anew the Services that were touched since.

    Objects are replaced, never edited: whoever feeds this hands over a new one at each change.
    """

    def __init__(self, node: NodeFacts) -> None:
        self._node = node
        self._services: dict[ObjectKey, Object] = {}
        self._slices: dict[ObjectKey, dict[ObjectKey, Object]] = {}  # by Service
        self._service_of: dict[ObjectKey, ObjectKey] = {}  # by slice
        self._touched: dict[ObjectKey, None] = {}
        self._parts: dict[ObjectKey, Part] = {}
        self._claims: dict[Frontend, list[ObjectKey]] = {}  # oldest first
        self._contested: dict[Frontend, Sequence[str]] = {}  # what is said of those with more than one
        self._noted: dict[ObjectKey, Sequence[str]] = {}
        self._checked: set[ObjectKey] = set()
        self._targets = Targets()
        self._snapshot = Snapshot(node, self._targets)

    def put_service(self, service: Object) -> None:
        """A Service as it is from now on."""
        key = key_of(service)
        self._services[key] = service
        self._touched[key] = None

    def drop_service(self, key: ObjectKey) -> None:
        """A Service that is no more."""
        if self._services.pop(key, None) is not None:
            self._touched[key] = None

    def put_slice(self, item: Object) -> None:
        """An EndpointSlice as it is from now on; its labels say whose it is."""
        key = key_of(item)
        self.drop_slice(key)
        name = labels_of(item).get(SERVICE_NAME_LABEL)
        if name and is_ours(item):
            service = self._service_of[key] = ObjectKey(namespace_of(item), name)
            self._slices.setdefault(service, {})[key] = item
            self._touched[service] = None

    def drop_slice(self, key: ObjectKey) -> None:
        """An EndpointSlice that is no more."""
        service = self._service_of.pop(key, None)
        if service is not None:
            del self._slices[service][key]
            if not self._slices[service]:
                del self._slices[service]
            self._touched[service] = None

    def set_node(self, node: NodeFacts) -> None:
        """New facts of the node concern every Service."""
        if node != self._node:
            self._node = node
            self._touched |= dict.fromkeys(self._services)

    def snapshot(self) -> Snapshot:
        """All of it, resolved; the same value again where nothing has changed."""
        if not self._touched and self._snapshot.node is self._node:
            return self._snapshot
        frontends: dict[Frontend, None] = {}
        for key in self._touched:
            frontends |= dict.fromkeys(self._renew(key))
        self._touched = {}
        edit = {frontend: self._winner(frontend) for frontend in frontends}
        edit = {f: target for f, target in edit.items() if target != self._targets.get(f)}
        if edit:
            self._targets = self._targets.derive(edit)
        said = {text for texts in (*self._noted.values(), *self._contested.values()) for text in texts}
        problems = tuple(sorted(said))
        self._snapshot = Snapshot(self._node, self._targets, problems=problems, checks=self._checks())
        return self._snapshot

    def _renew(self, key: ObjectKey) -> Iterable[Frontend]:
        """Resolve one Service; all frontends that this may concern come back."""
        before = self._parts.pop(key, None)
        claimed = before.frontends if before is not None else {}
        for frontend in claimed:
            claims = self._claims[frontend]
            claims.remove(key)
            if not claims:
                del self._claims[frontend]
        self._noted.pop(key, None)
        self._checked.discard(key)
        service = self._services.get(key)
        if service is None or not is_ours(service):
            return claimed
        part = self._parts[key] = self._resolve(key, service)
        for frontend in part.frontends:
            claims = self._claims.setdefault(frontend, [])
            claims.append(key)
            claims.sort(key=self._age)
        if part.problems:
            self._noted[key] = part.problems
        if part.check is not None:
            self._checked.add(key)
        return [*claimed, *part.frontends]

    def _resolve(self, key: ObjectKey, service: Object) -> Part:
        age = (str(meta(service).get("creationTimestamp") or ""), key)
        slices = [item for _, item in sorted(self._slices.get(key, {}).items())]
        try:
            resolved, notes = targets_of(service, slices, self._node)
            notes += _stray(key, resolved, self._node.service_cidrs)
            check = _check(key, service, [target for _, target in resolved])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return Part(age, problems=[f"Service {key}: left out: {error!s}"])
        problems = [f"Service {key}: {note}" for note in notes]
        frontends: dict[Frontend, Target] = {}
        for frontend, target in resolved:
            if frontends.setdefault(frontend, target) is not target:
                problems.append(_taken(key, frontend, frontends[frontend]))
        return Part(age, frontends, problems, check)

    def _winner(self, frontend: Frontend) -> Target | None:
        """Whose a frontend is; and note what the others are told."""
        self._contested.pop(frontend, None)
        claims = self._claims.get(frontend)
        if not claims:
            return None
        target = self._parts[claims[0]].frontends[frontend]
        if len(claims) > 1:
            self._contested[frontend] = [_taken(key, frontend, target) for key in claims[1:]]
        return target

    def _checks(self) -> Mapping[int, HealthCheck]:
        checks: dict[int, HealthCheck] = {}
        for key in sorted(self._checked, key=self._age):
            check = self._parts[key].check
            if check is not None:
                checks.setdefault(*check)
        return checks

    def _age(self, key: ObjectKey) -> Age:
        return self._parts[key].age


def _stray(
    key: ObjectKey, resolved: Iterable[tuple[Frontend, Target]], networks: Sequence[IPNetwork]
) -> list[str]:
    """A note where the API server's own Service, at the first address of the cluster's network, is in none of ours."""
    if key != API_SERVICE or not networks:
        return []
    addresses = [frontend.address for frontend, _ in resolved]
    if not addresses or any(address in network for address in addresses for network in networks):
        return []
    ours = ", ".join(map(str, networks))
    return [
        f"its address {addresses[0]} is in none of the Service networks {ours}: --service-cidrs names others"
    ]


def _taken(key: ObjectKey, frontend: Frontend, target: Target) -> str:
    return f"Service {key}: {frontend} is already served for {target.service}"


def _check(key: ObjectKey, service: Object, targets: Iterable[Target]) -> tuple[int, HealthCheck] | None:
    """kube-proxy: LoadBalancer Services with policy Local, by all their ports' endpoints on this node."""
    spec = service["spec"]
    port = int(spec.get("healthCheckNodePort") or 0)
    if not port or spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
        return None
    pools = [target.outside for target in targets if target.keep_outside_address]
    local = {e.address for pool in pools for e in pool.endpoints if e.local and not e.terminating}
    return port, HealthCheck(key.namespace, key.name, len(local))
