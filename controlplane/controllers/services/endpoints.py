"""Which endpoints a Service has: pods in, endpoints out. Pure; slices and Endpoints objects are cut from this.

Source: Kubernetes ``pkg/controller/endpointslice`` and ``staging/src/k8s.io/endpointslice``: ``utils.go``,
``trafficdist/trafficdist.go``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.facts.pods import addresses_of, is_ready, is_terminal, node_of, spec_of
from netplane.kube.objects import Object, is_deleting, name_of, namespace_of, uid_of

ZONE = "topology.kubernetes.io/zone"
CLOSE = (
    "PreferClose",
    "PreferSameNode",
    "PreferSameZone",
)  # what trafficDistribution may say: all go by zones


@dataclass(frozen=True, slots=True)
class Port:
    """A Service port as one pod serves it: ``number`` is the pod's own port."""

    name: str
    protocol: str
    number: int
    app_protocol: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The ``ports`` entry of an EndpointSlice."""
        entry: dict[str, Any] = {"name": self.name, "port": self.number, "protocol": self.protocol}
        if self.app_protocol is not None:
            entry["appProtocol"] = self.app_protocol
        return entry


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of one pod. ``ready`` already includes publishNotReadyAddresses.

    ``for_zones``, ``for_nodes``: whose clients it is meant for; none: everybody's.
    """

    address: str
    pod_namespace: str
    pod_name: str
    pod_uid: str
    ready: bool
    serving: bool
    terminating: bool
    node: str
    zone: str | None
    hostname: str | None
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The ``endpoints`` entry of an EndpointSlice."""
        entry: dict[str, Any] = {
            "addresses": [self.address],
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
            "targetRef": self.target_ref(),
        }
        if self.node:
            entry["nodeName"] = self.node
        if self.zone is not None:
            entry["zone"] = self.zone
        if self.hostname is not None:
            entry["hostname"] = self.hostname
        hints = (("forZones", self.for_zones), ("forNodes", self.for_nodes))
        if said := {field: [{"name": name} for name in names] for field, names in hints if names}:
            entry["hints"] = said
        return entry

    def target_ref(self) -> dict[str, str]:
        """The pod behind the address."""
        return {
            "kind": "Pod",
            "namespace": self.pod_namespace,
            "name": self.pod_name,
            "uid": self.pod_uid,
        }


Ports = tuple[Port, ...]
Group = tuple[str, Ports]  # address type ("IPv4", "IPv6") and the ports that all its endpoints share


def has_endpoints(service: Object) -> bool:
    """Whether this Service's endpoints are ours to keep: it selects pods."""
    spec = spec_of(service)
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def families(service: Object) -> list[str]:
    """The address types the Service has slices for."""
    spec = spec_of(service)
    listed = [str(family) for family in spec.get("ipFamilies") or []]
    if listed:
        return listed
    addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP")] if a and a != "None"]
    return [family_of(address) for address in addresses] or ["IPv4"]


def family_of(address: str) -> str:
    """``IPv4`` or ``IPv6``, of an address that the API has checked."""
    return "IPv6" if ":" in address else "IPv4"


@dataclass(frozen=True, slots=True)
class _Known:
    """What was worked out of these very objects."""

    pod: Object
    machine: Object | None
    found: tuple[tuple[Group, Endpoint], ...]


class Memory:
    """What one Service's pods came to last time, so that one pod's change does not cost all the others again.

    Cached objects are replaced, never changed: the same object means the same endpoint.
    """

    def __init__(self) -> None:
        self._service: Object | None = None
        self._known: dict[str, _Known] = {}

    def endpoints_of(
        self, service: Object, pods: Iterable[Object], node: Callable[[str], Object | None]
    ) -> Mapping[Group, list[Endpoint]]:
        """As the function of this name."""
        before = self._known if self._service is service else {}
        self._service, self._known = service, {}
        found: dict[Group, list[Endpoint]] = defaultdict(list)
        for pod in sorted(pods, key=name_of):
            machine = node(node_of(pod))
            known = before.get(uid_of(pod))
            if known is None or known.pod is not pod or known.machine is not machine:
                known = _Known(pod, machine, tuple(_endpoints(service, pod, machine)))
            self._known[uid_of(pod)] = known
            for group, endpoint in known.found:
                found[group].append(endpoint)
        return found


def endpoints_of(
    service: Object, pods: Iterable[Object], node: Callable[[str], Object | None]
) -> Mapping[Group, list[Endpoint]]:
    """The endpoints by group, each group in the order of the pods' names.

    ``pods`` are those the selector matches; ``node`` finds a Node by name.
    """
    return Memory().endpoints_of(service, pods, node)


def _endpoints(service: Object, pod: Object, machine: Object | None) -> Iterator[tuple[Group, Endpoint]]:
    """One pod's, with the groups they belong to."""
    if is_terminal(pod):
        return
    wanted, ports = families(service), ports_of(service, pod)
    for address in addresses_of(pod):
        family = family_of(address)
        if family in wanted:
            yield (family, ports), _endpoint(service, pod, address, machine)


def ports_of(service: Object, pod: Object) -> Ports:
    """The Service's ports as this pod serves them; a port it does not name is left out."""
    ports = []
    for entry in spec_of(service).get("ports") or []:
        number = _target(entry, pod)
        if number is not None:
            ports.append(
                Port(entry.get("name") or "", _protocol(entry), number, entry.get("appProtocol") or None)
            )
    return tuple(ports)


def _target(entry: Mapping[str, Any], pod: Object) -> int | None:
    target = entry.get("targetPort")
    if target in (None, 0, ""):
        target = entry.get("port")
    if isinstance(target, int):
        return target
    if str(target).isdecimal():
        return int(str(target))
    return next(
        (
            int(port["containerPort"])
            for container in _containers(pod)
            for port in container.get("ports") or []
            if port.get("name") == target and _protocol(port) == _protocol(entry)
        ),
        None,
    )


def _containers(pod: Object) -> list[dict[str, Any]]:
    """Containers that run beside one another: sidecars are init containers that restart always."""
    spec = spec_of(pod)
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    return [*(spec.get("containers") or []), *sidecars]


def _protocol(entry: Mapping[str, Any]) -> str:
    return str(entry.get("protocol") or "TCP")


def _endpoint(service: Object, pod: Object, address: str, machine: Object | None) -> Endpoint:
    serving, terminating = is_ready(pod), is_deleting(pod)
    publishes = bool(spec_of(service).get("publishNotReadyAddresses"))
    labels = (machine.get("metadata") or {}).get("labels") or {} if machine is not None else {}
    spec = spec_of(pod)
    named = spec.get("hostname") and spec.get("subdomain") == name_of(service)
    ready = publishes or (serving and not terminating)
    # Only of ready ones: a proxy looks at no other's hints, and one without any would end their effect.
    distribution = spec_of(service).get("trafficDistribution") if ready else None
    zone = labels.get(ZONE)
    return Endpoint(
        address=address,
        pod_namespace=namespace_of(pod),
        pod_name=name_of(pod),
        pod_uid=uid_of(pod),
        ready=ready,
        serving=serving,
        terminating=terminating,
        node=node_of(pod),
        zone=zone,
        hostname=str(spec["hostname"]) if named else None,
        for_zones=(zone,) if zone is not None and distribution in CLOSE else (),
        for_nodes=(node_of(pod),) if node_of(pod) and distribution == "PreferSameNode" else (),
    )
