"""What one Service resolves to: every frontend that it asks for, and the target of each.

Why apart from ``snapshot``: these are the rules of a single Service, and a change of it costs no look at any
other. All functions are pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from netplane.kube.objects import Object, annotations_of, meta, namespace_of
from proxy.model import (
    Balance,
    Frontend,
    IPAddress,
    IPNetwork,
    NodeFacts,
    Pool,
    Protocol,
    ServicePort,
    Target,
)
from proxy.selection import Candidate, candidates, cluster_pool, local_pool

PROXY_PROTOCOL_ANNOTATION = "netplane.io/proxy-protocol"
BALANCE_ANNOTATION = "netplane.io/balance"
MAX_AGE_ANNOTATION = "netplane.io/max-connection-age"
DRAIN_ANNOTATION = "netplane.io/drain"
DEFAULT_AFFINITY_SECONDS = 10800  # core/v1 DefaultClientIPServiceAffinitySeconds
EVERY_ADDRESS: Mapping[int, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}

# What is let in by source ranges of the other IP version only. kube-proxy lets everybody in; a list of who may come
# is no permission for all the others.
NOBODY: Mapping[int, tuple[IPNetwork, ...]] = {4: (ip_network("0.0.0.0/32"),), 6: (ip_network("::/128"),)}


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
    return resolved, [*notes, *_shut(resolved)]


def _shut(resolved: Iterable[tuple[Frontend, Target]]) -> list[str]:
    """Notes on the addresses where nobody is let in, which few will have meant."""
    shut = {f.address for f, target in resolved if target.allowed == NOBODY[f.address.version]}
    return [
        f"loadBalancerSourceRanges: none is of IPv{address.version}, so nobody is let in at {address}"
        for address in sorted(shut, key=lambda address: (address.version, int(address)))
    ]


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
    for field, annotation in (("max_age", MAX_AGE_ANNOTATION), ("drain", DRAIN_ANNOTATION)):
        if text := annotations.get(annotation):
            if text.isdecimal() and int(text):
                wishes[field] = int(text)
            else:
                notes.append(f"annotation {annotation}={text}: not a number of seconds above 0")
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
    apart = spec.get("internalTrafficPolicy") == "Local"
    internal = here if apart else everywhere
    number = int(port["port"])
    yield Frontend(cluster_ip, number, protocol), Target(name, internal, internal, affinity, apart=apart)
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
    said = service["spec"].get("loadBalancerSourceRanges") or []
    ranges = tuple(ip_network(text.strip(), strict=False) for text in said)
    allowed = tuple(
        sorted((r for r in ranges if r.version == version), key=lambda r: (int(r[0]), r.prefixlen))
    )
    if ranges and not allowed:
        allowed = NOBODY[version]
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
