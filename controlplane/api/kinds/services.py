"""Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.api.kinds import names
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import (
    defaulting,
    keep_status,
    preparing,
    validating,
    validating_status,
)
from controlplane.api.kinds.printing import AGE, NAME, NONE, labels_text, text
from controlplane.api.kinds.service_rules import WITH_NODE_PORTS, service_causes
from controlplane.api.schema.published import shape_of
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import SERVICES

AFFINITY_SECONDS = 10800

SERVICE = shape_of(SERVICES)


def _default(service: Object) -> None:
    """Source: Kubernetes `pkg/apis/core/v1/defaults.go`, SetDefaults_Service."""
    spec = service.setdefault("spec", {})
    for field, value in (("sessionAffinity", "None"), ("type", "ClusterIP")):
        if not spec.get(field):
            spec[field] = value
    _default_affinity(spec)
    for port in spec.get("ports") or []:
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port") or 0
    kind = spec["type"]
    outside = kind in WITH_NODE_PORTS or (kind == "ClusterIP" and spec.get("externalIPs"))
    if outside and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _default_affinity(spec: dict[str, Any]) -> None:
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        config.setdefault("clientIP", {}).setdefault("timeoutSeconds", AFFINITY_SECONDS)


def _create(service: Object) -> None:
    service["status"] = {"loadBalancer": {}}
    _same_addresses(service, {})


def _update(new: Object, old: Object) -> None:
    """Keep the status; drop, when the type changes, what the old type had and the writer did not ask for."""
    keep_status(new, old)
    after, before = new.get("spec"), old.get("spec") or {}
    if after is None:
        return
    _same_addresses(new, before)
    _drop_by_type(after, before)
    _keep_assigned(after, before)


def _same_addresses(service: Object, before: Mapping[str, Any]) -> None:
    """`clusterIP` is the first of `clusterIPs`; who changes one of them means both.

    Source: Kubernetes `pkg/registry/core/service/strategy.go` (NormalizeClusterIPs).
    """
    spec = service.get("spec")
    if spec is None:
        return
    first, addresses = spec.get("clusterIP"), spec.get("clusterIPs")
    if first and (
        not addresses or (first != before.get("clusterIP") and addresses == before.get("clusterIPs"))
    ):
        spec["clusterIPs"] = [first]
    elif not first and addresses and addresses == before.get("clusterIPs") and before.get("clusterIP"):
        spec.pop("clusterIPs")


def _drop_by_type(after: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Fields of the old type that came along unchanged go with it (`dropTypeDependentFields`)."""
    now, was = after.get("type"), before.get("type")
    if now == was:
        return
    if now == "ExternalName":
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if after.get(field) == before.get(field):
                after.pop(field, None)
        after.pop("internalTrafficPolicy", None)
    if was in WITH_NODE_PORTS and now not in WITH_NODE_PORTS:
        _drop_node_ports(after, before)
        if after.get("externalTrafficPolicy") == before.get("externalTrafficPolicy") and not (
            now == "ClusterIP" and after.get("externalIPs")
        ):
            after.pop("externalTrafficPolicy", None)
    if was == "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"):
            if after.get(field) == before.get(field):
                after.pop(field, None)


def _drop_node_ports(after: dict[str, Any], before: Mapping[str, Any]) -> None:
    had = {port.get("nodePort") for port in before.get("ports") or []}
    for port in after.get("ports") or []:
        if port.get("nodePort") in had:
            port.pop("nodePort", None)


def _keep_assigned(after: dict[str, Any], before: Mapping[str, Any]) -> None:
    """A writer who leaves out what the server assigned keeps it (`patchAllocatedValues`)."""
    if "ExternalName" not in (after.get("type"), before.get("type")):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not after.get(field) and before.get(field):
                after[field] = before[field]
    if after.get("type") not in WITH_NODE_PORTS or before.get("type") not in WITH_NODE_PORTS:
        return
    had = {_port_key(port): port.get("nodePort") for port in before.get("ports") or []}
    for port in after.get("ports") or []:
        if not port.get("nodePort") and had.get(_port_key(port)):
            port["nodePort"] = had[_port_key(port)]


def _port_key(port: Mapping[str, Any]) -> tuple[str, int]:
    return port.get("protocol") or "TCP", port.get("port") or 0


def _fields(service: Object) -> Mapping[str, str]:
    spec = service.get("spec") or {}
    return {
        "metadata.name": name_of(service),
        "metadata.namespace": namespace_of(service),
        "spec.clusterIP": spec.get("clusterIP") or "",
        "spec.type": spec.get("type") or "",
    }


def _spec(service: Object) -> Mapping[str, Any]:
    return service.get("spec") or {}


def _cluster_address(service: Object) -> str:
    return text((_spec(service).get("clusterIPs") or [None])[0])


def _external_address(service: Object) -> str:
    spec = _spec(service)
    addresses = list(spec.get("externalIPs") or [])
    if spec.get("type") == "ExternalName":
        return text(spec.get("externalName"))
    if spec.get("type") == "LoadBalancer":
        balancer = (service.get("status") or {}).get("loadBalancer") or {}
        given = [entry.get("ip") or entry.get("hostname") or "" for entry in balancer.get("ingress") or []]
        return ",".join([*filter(None, given), *addresses]) or "<pending>"
    return ",".join(addresses) or NONE


def _ports(service: Object) -> str:
    listed = []
    for port in _spec(service).get("ports") or []:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        listed.append(f"{port.get('port')}{node}/{port.get('protocol')}")
    return ",".join(listed) or NONE


_prepare_create, _prepare_update = preparing(SERVICE, _create, _update)

KIND = Kind(
    resource=SERVICES,
    default=defaulting(SERVICE, _default),
    validate=validating(SERVICES, SERVICE, service_causes, names.dns_label_1035),
    columns=(
        NAME,
        Column("Type", "string", lambda service: text(_spec(service).get("type"))),
        Column("Cluster-IP", "string", _cluster_address),
        Column("External-IP", "string", _external_address),
        Column("Port(s)", "string", _ports),
        AGE,
        Column("Selector", "string", lambda service: labels_text(_spec(service).get("selector")), 1),
    ),
    fields=_fields,
    subresources=frozenset({"status"}),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    validate_status=validating_status(SERVICE),
)
