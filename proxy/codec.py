"""Snapshots as JSON: on disk for a start while the API is away, and on a socket for tools.

Why not the API's objects: a snapshot is a tenth of their size, and is what was being forwarded.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from proxy.model import (
    Balance,
    Endpoint,
    Frontend,
    HealthCheck,
    NodeFacts,
    Pool,
    Protocol,
    ServicePort,
    Snapshot,
    Target,
    WhenEmpty,
)

Json = dict[str, Any]


def encode_snapshot(snapshot: Snapshot) -> Json:
    """The whole of it, in a stable order."""
    return {
        "revision": snapshot.revision,
        "node": encode_node(snapshot.node),
        "targets": encode_targets(snapshot.targets),
        "checks": [_encode_check(port, snapshot.checks[port]) for port in sorted(snapshot.checks)],
    }


def decode_snapshot(document: Mapping[str, Any]) -> Snapshot:
    """What ``encode_snapshot`` gave. Raises KeyError, ValueError, TypeError on anything else."""
    return Snapshot(
        node=decode_node(document["node"]),
        targets=decode_targets(document["targets"]),
        revision=int(document["revision"]),
        checks=dict(_decode_check(entry) for entry in document.get("checks", ())),
    )


def encode_targets(targets: Mapping[Frontend, Target]) -> list[Json]:
    """One entry a frontend, sorted. ``outside`` is left out where it equals ``inside``."""
    return [_encode_entry(f, targets[f]) for f in sorted(targets, key=lambda frontend: frontend.order)]


def decode_targets(entries: Iterable[Mapping[str, Any]]) -> dict[Frontend, Target]:
    """What ``encode_targets`` gave."""
    return dict(_decode_entry(entry) for entry in entries)


def encode_frontend(frontend: Frontend) -> Json:
    """Where traffic arrives."""
    return {"address": str(frontend.address), "port": frontend.port, "protocol": frontend.protocol}


def decode_frontend(entry: Mapping[str, Any]) -> Frontend:
    """What ``encode_frontend`` gave."""
    return Frontend(ip_address(entry["address"]), int(entry["port"]), Protocol(entry["protocol"]))


def _encode_entry(frontend: Frontend, target: Target) -> Json:
    service = target.service
    entry: Json = {
        "frontend": encode_frontend(frontend),
        "service": {"namespace": service.namespace, "name": service.name, "port": service.port},
        "inside": _encode_pool(target.inside),
    }
    if target.outside != target.inside:
        entry["outside"] = _encode_pool(target.outside)
    if target.affinity is not None:
        entry["affinity"] = target.affinity
    if target.keep_outside_address:
        entry["keepOutsideAddress"] = True
    if target.balance is not Balance.ROUND_ROBIN:
        entry["balance"] = target.balance
    if target.proxy_protocol:
        entry["proxyProtocol"] = True
    if target.max_age is not None:
        entry["maxConnectionAge"] = target.max_age
    if target.drain is not None:
        entry["drain"] = target.drain
    if target.apart:
        entry["apart"] = True
    if target.allowed:
        entry["allowed"] = [str(network) for network in target.allowed]
    return entry


def _decode_entry(entry: Mapping[str, Any]) -> tuple[Frontend, Target]:
    frontend, service = decode_frontend(entry["frontend"]), entry["service"]
    inside = _decode_pool(entry["inside"])
    target = Target(
        ServicePort(service["namespace"], service["name"], service["port"]),
        inside,
        _decode_pool(entry["outside"]) if "outside" in entry else inside,
        entry.get("affinity"),
        bool(entry.get("keepOutsideAddress")),
        tuple(ip_network(text) for text in entry.get("allowed", ())),
        Balance(entry.get("balance", Balance.ROUND_ROBIN)),
        bool(entry.get("proxyProtocol")),
        entry.get("maxConnectionAge"),
        entry.get("drain"),
        bool(entry.get("apart")),
    )
    return frontend, target


def _encode_check(port: int, check: HealthCheck) -> Json:
    return {
        "port": port,
        "namespace": check.namespace,
        "name": check.name,
        "localEndpoints": check.local_endpoints,
    }


def _decode_check(entry: Mapping[str, Any]) -> tuple[int, HealthCheck]:
    return int(entry["port"]), HealthCheck(entry["namespace"], entry["name"], int(entry["localEndpoints"]))


def _encode_pool(pool: Pool) -> Json:
    endpoints = [
        {"address": str(e.address), "port": e.port, "local": e.local, "terminating": e.terminating}
        for e in pool.endpoints
    ]
    return {"endpoints": endpoints, "whenEmpty": pool.when_empty}


def _decode_pool(pool: Mapping[str, Any]) -> Pool:
    endpoints = tuple(
        Endpoint(ip_address(e["address"]), int(e["port"]), bool(e["local"]), bool(e["terminating"]))
        for e in pool["endpoints"]
    )
    return Pool(endpoints, WhenEmpty(pool["whenEmpty"]))


def encode_node(node: NodeFacts) -> Json:
    """The facts about a node."""
    return {
        "name": node.name,
        "addresses": [str(address) for address in node.addresses],
        "podCIDRs": [str(cidr) for cidr in node.pod_cidrs],
        "clusterCIDRs": [str(cidr) for cidr in node.cluster_cidrs],
        "serviceCIDRs": [str(cidr) for cidr in node.service_cidrs],
        "zone": node.zone,
        "nodePortNetworks": [str(network) for network in node.node_port_networks],
    }


def decode_node(node: Mapping[str, Any]) -> NodeFacts:
    """What ``encode_node`` gave."""
    return NodeFacts(
        name=node["name"],
        addresses=tuple(ip_address(text) for text in node["addresses"]),
        pod_cidrs=tuple(ip_network(text) for text in node["podCIDRs"]),
        cluster_cidrs=tuple(ip_network(text) for text in node["clusterCIDRs"]),
        service_cidrs=tuple(ip_network(text) for text in node["serviceCIDRs"]),
        zone=node["zone"],
        node_port_networks=tuple(ip_network(text) for text in node.get("nodePortNetworks", ())),
    )
