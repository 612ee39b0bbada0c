"""What the API wants of this node, as one value: services + endpoint slices + node → Snapshot.

The laws: nothing here reads a clock, a socket or the node. The order in which objects are given never
matters. Data paths may assume that every address is resolved and every rule of the API already applied, so
no data path repeats one. An object that makes no sense costs that object only, and is named in ``problems``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from operator import is_
from typing import Any

from netplane.kube.objects import Object, ObjectKey, annotations_of, key_of, labels_of, meta, namespace_of
from proxy.model import (
    Balance,
    Frontend,
    HealthCheck,
    IPAddress,
    IPNetwork,
    NodeFacts,
    Pool,
    Protocol,
    ServicePort,
    Snapshot,
    Target,
)
from proxy.selection import Candidate, candidates, cluster_pool, local_pool

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
PROXY_PROTOCOL_ANNOTATION = "netplane.io/proxy-protocol"
BALANCE_ANNOTATION = "netplane.io/balance"
DEFAULT_AFFINITY_SECONDS = 10800  # core/v1 DefaultClientIPServiceAffinitySeconds
EVERY_ADDRESS: Mapping[int, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}


@dataclass(frozen=True, slots=True)
class Resolved:
    """One Service's part of a snapshot, and what it was made from."""

    service: Object
    slices: Sequence[Object]
    node: NodeFacts
    frontends: Sequence[tuple[Frontend, Target]]
    problems: Sequence[str]
    check: tuple[int, HealthCheck] | None = None

    def still_holds(self, service: Object, slices: Sequence[Object], node: NodeFacts) -> bool:
        """Whether these are the very same objects; whoever feeds ``build`` replaces objects, never edits them."""
        return (
            self.service is service
            and self.node == node
            and len(self.slices) == len(slices)
            and all(map(is_, self.slices, slices))
        )


Known = dict[ObjectKey, Resolved]


def build(
    services: Iterable[Object], slices: Iterable[Object], node: NodeFacts, known: Known | None = None
) -> Snapshot:
    """Resolve every Service that is ours to serve. Of two that claim one frontend, the older keeps it.

    ``known`` is filled with what was resolved; given again, only Services that changed are resolved anew. It
    never changes the answer, only its price.
    """
    by_service = _slices_by_service(slices)
    before = dict(known) if known is not None else {}
    targets: dict[Frontend, Target] = {}
    problems: list[str] = []
    checks: dict[int, HealthCheck] = {}
    after: Known = {}
    for service in sorted(filter(is_ours, services), key=_age):
        key = key_of(service)
        part = before.get(key)
        if part is None or not part.still_holds(service, by_service.get(key, ()), node):
            part = _resolve(key, service, by_service.get(key, ()), node)
        after[key] = part
        problems.extend(part.problems)
        if part.check is not None:
            checks.setdefault(*part.check)
        for frontend, target in part.frontends:
            holder = targets.setdefault(frontend, target)
            if holder is not target:
                problems.append(f"Service {key}: {frontend} is already served for {holder.service}")
    if known is not None:
        known.clear()
        known.update(after)
    return Snapshot(node, targets, problems=tuple(sorted(set(problems))), checks=checks)


def _resolve(key: ObjectKey, service: Object, slices: Sequence[Object], node: NodeFacts) -> Resolved:
    try:
        frontends, notes = targets_of(service, slices, node)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Resolved(service, slices, node, (), (f"Service {key}: left out: {error!s}",))
    notes = [f"Service {key}: {note}" for note in notes]
    return Resolved(service, slices, node, frontends, notes, _check(key, service, frontends))


def _check(
    key: ObjectKey, service: Object, frontends: Sequence[tuple[Frontend, Target]]
) -> tuple[int, HealthCheck] | None:
    """kube-proxy: LoadBalancer Services with policy Local, by all their ports' endpoints on this node."""
    spec = service["spec"]
    port = int(spec.get("healthCheckNodePort") or 0)
    if not port or spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
        return None
    pools = [target.outside for _, target in frontends if target.keep_outside_address]
    local = {e.address for pool in pools for e in pool.endpoints if e.local and not e.terminating}
    return port, HealthCheck(key.namespace, key.name, len(local))


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
    """What matters of a Node object. Raises ValueError where an address or a CIDR of it is none."""
    spec = node.get("spec") or {}
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    addresses = (node.get("status") or {}).get("addresses") or []
    return NodeFacts(
        name=str(meta(node).get("name")),
        addresses=tuple(ip_address(a["address"]) for a in addresses if a.get("type") == "InternalIP"),
        pod_cidrs=tuple(ip_network(cidr) for cidr in cidrs),
        cluster_cidrs=tuple(cluster_cidrs),
        service_cidrs=tuple(service_cidrs),
        zone=labels_of(node).get(ZONE_LABEL, ""),
    )


def targets_of(
    service: Object, slices: Sequence[Object], node: NodeFacts
) -> tuple[list[tuple[Frontend, Target]], list[str]]:
    """All frontends of one Service and what each resolves to, and notes on what could not be read.

    Raises ValueError, TypeError or KeyError where the Service itself cannot be read.
    """
    resolved: list[tuple[Frontend, Target]] = []
    wishes, notes = _wishes(service)
    spec = service["spec"]
    for port in spec.get("ports") or []:
        protocol = Protocol(port.get("protocol") or "TCP")
        for version, address in _cluster_ips(spec):
            among, unread = candidates(slices, port.get("name") or "", protocol, version, node)
            notes.extend(unread)
            resolved.extend(_frontends(service, port, protocol, address, among, node))
    if wishes:
        resolved = [(frontend, replace(target, **wishes)) for frontend, target in resolved]
    return resolved, notes


def _wishes(service: Object) -> tuple[dict[str, Any], list[str]]:
    """What our annotations ask for, as fields of a target; and notes on those that make no sense."""
    annotations = annotations_of(service)
    wishes: dict[str, Any] = {}
    notes = []
    if text := annotations.get(BALANCE_ANNOTATION):
        if text in tuple(Balance):
            wishes["balance"] = Balance(text)
        else:
            notes.append(f"annotation {BALANCE_ANNOTATION}={text}: not one of {', '.join(Balance)}")
    if text := annotations.get(PROXY_PROTOCOL_ANNOTATION):
        if text == "v2":
            wishes["proxy_protocol"] = True
        else:
            notes.append(f"annotation {PROXY_PROTOCOL_ANNOTATION}={text}: only v2 is known")
    return wishes, notes


def _frontends(
    service: Object,
    port: Mapping[str, Any],
    protocol: Protocol,
    cluster_ip: IPAddress,
    among: Sequence[Candidate],
    node: NodeFacts,
) -> Iterator[tuple[Frontend, Target]]:
    """The frontends of one port in one IP version: its ClusterIP first, then those seen from outside."""
    spec = service["spec"]
    name = ServicePort(
        namespace_of(service), str(meta(service)["name"]), port.get("name") or str(port["port"])
    )
    everywhere, here = cluster_pool(among, node), local_pool(among)
    affinity = _affinity(spec)
    internal = here if spec.get("internalTrafficPolicy") == "Local" else everywhere
    number = int(port["port"])
    yield Frontend(cluster_ip, number, protocol), Target(name, internal, internal, affinity)
    external = _external_target(name, spec, everywhere, here, affinity)
    version = cluster_ip.version
    node_port = int(port.get("nodePort") or 0)
    if node_port and spec.get("type") in ("NodePort", "LoadBalancer"):
        yield Frontend(EVERY_ADDRESS[version], node_port, protocol), external
    for text in spec.get("externalIPs") or []:
        if (address := ip_address(text)).version == version:
            yield Frontend(address, number, protocol), external
    if spec.get("type") == "LoadBalancer":
        yield from _ingress(service, number, protocol, version, external)


def _external_target(
    name: ServicePort, spec: Mapping[str, Any], everywhere: Pool, here: Pool, affinity: int | None
) -> Target:
    """kube-proxy: with externalTrafficPolicy Local the cluster's own clients still reach every endpoint."""
    if spec.get("externalTrafficPolicy") == "Local":
        return Target(name, everywhere, here, affinity, keep_outside_address=True)
    return Target(name, everywhere, everywhere, affinity)


def _ingress(
    service: Object, number: int, protocol: Protocol, version: int, external: Target
) -> Iterator[tuple[Frontend, Target]]:
    """LoadBalancer addresses whose traffic arrives as it is (ipMode VIP); those of a proxying one do not."""
    ranges = tuple(ip_network(text.strip()) for text in service["spec"].get("loadBalancerSourceRanges") or [])
    allowed = tuple(
        sorted((r for r in ranges if r.version == version), key=lambda r: (int(r[0]), r.prefixlen))
    )
    if ranges and not allowed:
        allowed = (
            ip_network((EVERY_ADDRESS[version], 32 if version == 4 else 128)),
        )  # nobody of this version
    target = Target(
        external.service,
        external.inside,
        external.outside,
        external.affinity,
        external.keep_outside_address,
        allowed,
    )
    status = (service.get("status") or {}).get("loadBalancer") or {}
    for entry in status.get("ingress") or []:
        if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP":
            address = ip_address(entry["ip"])
            if address.version == version:
                yield Frontend(address, number, protocol), target


def _cluster_ips(spec: Mapping[str, Any]) -> Iterator[tuple[int, IPAddress]]:
    for text in spec.get("clusterIPs") or [spec["clusterIP"]]:
        address = ip_address(text)
        yield address.version, address


def _affinity(spec: Mapping[str, Any]) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(client.get("timeoutSeconds") or DEFAULT_AFFINITY_SECONDS)


def _age(service: Object) -> tuple[str, ObjectKey]:
    return (str(meta(service).get("creationTimestamp") or ""), key_of(service))


def _slices_by_service(slices: Iterable[Object]) -> dict[ObjectKey, list[Object]]:
    grouped: dict[ObjectKey, list[Object]] = {}
    for item in filter(is_ours, slices):
        name = labels_of(item).get(SERVICE_NAME_LABEL)
        if name:
            grouped.setdefault(ObjectKey(namespace_of(item), name), []).append(item)
    for items in grouped.values():
        items.sort(key=key_of)
    return grouped
