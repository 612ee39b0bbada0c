"""What is wrong with a Service, and what may not change once it has its addresses.

Whether an address or a node port is free is `allocation`'s question; here stands what one Service alone can say
wrong. Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidateService, ValidateServiceUpdate).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.metadata import label_causes
from netplane.kube.errors import Cause
from netplane.kube.objects import Object

Fields = Mapping[str, Any]

NO_ADDRESS = "None"
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
WITH_NODE_PORTS = ("LoadBalancer", "NodePort")
PROTOCOLS = ("SCTP", "TCP", "UDP")
AFFINITIES = ("ClientIP", "None")
POLICIES = ("Cluster", "Local")
DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
AFFINITY_SECONDS_MOST = 86400


def service_causes(new: Object, old: Object | None) -> list[Cause]:
    """Everything wrong with a Service whose types are right, and with changing `old` to it."""
    spec = new.get("spec") or {}
    kind = spec.get("type") or ""
    found = _type_causes(spec, kind)
    found += _port_list_causes(spec, kind)
    found += label_causes(spec.get("selector") or {}, "spec.selector")
    found += _affinity_causes(spec)
    found += _policy_causes(spec, kind)
    found += _address_causes(spec, kind)
    found += _family_causes(spec, kind)
    if old is not None:
        found += _update_causes(spec, old.get("spec") or {})
    return found


def _type_causes(spec: Fields, kind: str) -> list[Cause]:
    if not kind:
        return [causes.required("spec.type")]
    if kind not in TYPES:
        return [causes.not_supported("spec.type", kind, TYPES)]
    if kind != "ExternalName":
        return []
    target = (spec.get("externalName") or "").rstrip(".")
    if not target:
        return [causes.required("spec.externalName")]
    wrong = names.dns_subdomain(target)
    return [causes.invalid("spec.externalName", target, wrong)] if wrong else []


def _port_list_causes(spec: Fields, kind: str) -> list[Cause]:
    ports = spec.get("ports") or []
    headless = spec.get("clusterIP") == NO_ADDRESS
    if not ports:
        return [] if headless or kind == "ExternalName" else [causes.required("spec.ports")]
    found: list[Cause] = []
    names_seen: set[str] = set()
    seen: set[tuple[str, int]] = set()
    nodes_seen: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        found += _port_causes(port, at, named=len(ports) > 1, names_seen=names_seen)
        found += _node_port_causes(port, at, kind, nodes_seen)
        protocol = port.get("protocol") or ""
        key = (protocol, port.get("port") or 0)
        if key in seen:
            found.append(causes.duplicate(at, {"protocol": protocol, "port": key[1]}))
        seen.add(key)
    return found


def _port_causes(port: Fields, path: str, *, named: bool, names_seen: set[str]) -> list[Cause]:
    found: list[Cause] = []
    name = port.get("name") or ""
    if not name and named:
        found.append(causes.required(f"{path}.name"))
    elif name:
        if wrong := names.dns_label(name):
            found.append(causes.invalid(f"{path}.name", name, wrong))
        if name in names_seen:
            found.append(causes.duplicate(f"{path}.name", name))
        names_seen.add(name)
    number = port.get("port") or 0
    if wrong := names.port_number(number):
        found.append(causes.invalid(f"{path}.port", number, wrong))
    protocol = port.get("protocol") or ""
    if not protocol:
        found.append(causes.required(f"{path}.protocol"))
    elif protocol not in PROTOCOLS:
        found.append(causes.not_supported(f"{path}.protocol", protocol, PROTOCOLS))
    target = port.get("targetPort")
    wrong = names.port_name(target) if isinstance(target, str) else names.port_number(target or 0)
    if wrong:
        found.append(causes.invalid(f"{path}.targetPort", target, wrong))
    application = port.get("appProtocol")
    if application is not None and (wrong := names.qualified_name(application)):
        found.append(causes.invalid(f"{path}.appProtocol", application, wrong))
    return found


def _node_port_causes(port: Fields, path: str, kind: str, seen: set[tuple[str, int]]) -> list[Cause]:
    number = port.get("nodePort") or 0
    if not number:
        return []
    at = f"{path}.nodePort"
    if kind not in WITH_NODE_PORTS:
        return [causes.forbidden(at, f"may not be used when `type` is '{kind}'")]
    if wrong := names.port_number(number):
        return [causes.invalid(at, number, wrong)]
    key = (port.get("protocol") or "", number)
    if key in seen:
        return [causes.duplicate(at, number)]
    seen.add(key)
    return []


def _affinity_causes(spec: Fields) -> list[Cause]:
    affinity = spec.get("sessionAffinity") or ""
    at = "spec.sessionAffinity"
    if not affinity:
        return [causes.required(at)]
    if affinity not in AFFINITIES:
        return [causes.not_supported(at, affinity, AFFINITIES)]
    config = spec.get("sessionAffinityConfig")
    if affinity == "None":
        if config is not None:
            detail = "must not be set when session affinity is None"
            return [causes.forbidden("spec.sessionAffinityConfig", detail)]
        return []
    client = (config or {}).get("clientIP") or {}
    seconds = client.get("timeoutSeconds")
    if seconds is None or not 1 <= seconds <= AFFINITY_SECONDS_MOST:
        detail = f"must be greater than 0 and less than {AFFINITY_SECONDS_MOST}"
        return [causes.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail)]
    return []


def _policy_causes(spec: Fields, kind: str) -> list[Cause]:
    found: list[Cause] = []
    internal, external = spec.get("internalTrafficPolicy"), spec.get("externalTrafficPolicy") or ""
    if internal is not None and internal not in POLICIES:
        found.append(causes.not_supported("spec.internalTrafficPolicy", internal, POLICIES))
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in DISTRIBUTIONS:
        found.append(causes.not_supported("spec.trafficDistribution", distribution, DISTRIBUTIONS))
    if not _reached_from_outside(spec, kind):
        if external:
            detail = "may only be set for externally-accessible services"
            found.append(causes.invalid("spec.externalTrafficPolicy", external, detail))
    elif external not in POLICIES:
        found.append(causes.not_supported("spec.externalTrafficPolicy", external, POLICIES))
    if kind != "LoadBalancer":
        for field in ("loadBalancerClass", "allocateLoadBalancerNodePorts"):
            if spec.get(field) is not None:
                detail = "may only be used when `type` is 'LoadBalancer'"
                found.append(causes.forbidden(f"spec.{field}", detail))
    check = spec.get("healthCheckNodePort") or 0
    if check and not (kind == "LoadBalancer" and external == "Local"):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        found.append(causes.invalid("spec.healthCheckNodePort", check, detail))
    found += [
        causes.invalid(f"spec.loadBalancerSourceRanges[{index}]", network, wrong)
        for index, network in enumerate(spec.get("loadBalancerSourceRanges") or [])
        if (wrong := names.ip_network(network.strip()))
    ]
    return found


def _reached_from_outside(spec: Fields, kind: str) -> bool:
    return kind in WITH_NODE_PORTS or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _address_causes(spec: Fields, kind: str) -> list[Cause]:
    found: list[Cause] = []
    addresses, first = spec.get("clusterIPs") or [], spec.get("clusterIP") or ""
    if kind == "ExternalName":
        for field in ("clusterIP", "clusterIPs"):
            if spec.get(field):
                detail = "may not be set when `type` is 'ExternalName'"
                found.append(causes.forbidden(f"spec.{field}", detail))
        return found
    if kind in WITH_NODE_PORTS and first == NO_ADDRESS:
        detail = f"may not be set to 'None' for {kind} services"
        found.append(causes.invalid("spec.clusterIPs[0]", first, detail))
    if addresses and first != addresses[0]:
        detail = "first value must match `clusterIP`"
        found.append(causes.invalid("spec.clusterIPs", addresses, detail))
    if NO_ADDRESS in addresses and len(addresses) > 1:
        detail = "'None' must be the first and only value"
        found.append(causes.invalid("spec.clusterIPs", addresses, detail))
    if len(addresses) > 2:
        detail = "may only hold up to 2 values"
        found.append(causes.invalid("spec.clusterIPs", addresses, detail))
    found += _ip_list_causes([address for address in addresses if address != NO_ADDRESS], "spec.clusterIPs")
    if len({ipaddress.ip_address(a).version for a in addresses if not names.ip_address(a)}) < len(
        [a for a in addresses if not names.ip_address(a)]
    ):
        detail = "may specify no more than one IP for each IP family"
        found.append(causes.invalid("spec.clusterIPs", addresses, detail))
    return [*found, *_external_ip_causes(spec.get("externalIPs") or [])]


def _ip_list_causes(addresses: Iterable[str], path: str) -> list[Cause]:
    return [
        causes.invalid(f"{path}[{index}]", address, wrong)
        for index, address in enumerate(addresses)
        if (wrong := names.ip_address(address))
    ]


def _external_ip_causes(addresses: list[str]) -> list[Cause]:
    found = _ip_list_causes(addresses, "spec.externalIPs")
    if found:
        return found
    for index, address in enumerate(addresses):
        parsed = ipaddress.ip_address(address)
        for wrong, detail in (
            (parsed.is_unspecified, f"may not be unspecified ({address})"),
            (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ):
            if wrong:
                found.append(causes.invalid(f"spec.externalIPs[{index}]", address, detail))
    return found


def _family_causes(spec: Fields, kind: str) -> list[Cause]:
    families, policy = spec.get("ipFamilies") or [], spec.get("ipFamilyPolicy")
    if kind == "ExternalName":
        return [
            causes.forbidden(f"spec.{field}", "may not be set when `type` is 'ExternalName'")
            for field in ("ipFamilies", "ipFamilyPolicy")
            if spec.get(field)
        ]
    found: list[Cause] = []
    if policy is not None and policy not in FAMILY_POLICIES:
        found.append(causes.not_supported("spec.ipFamilyPolicy", policy, FAMILY_POLICIES))
    for index, family in enumerate(families):
        at = f"spec.ipFamilies[{index}]"
        if family not in FAMILIES:
            found.append(causes.not_supported(at, family, FAMILIES))
        elif family in families[:index]:
            found.append(causes.duplicate(at, family))
    return found


def _update_causes(new: Fields, old: Fields) -> list[Cause]:
    """A Service keeps its first address for life, unless it becomes or was an ExternalName."""
    if "ExternalName" in (new.get("type"), old.get("type")):
        return []
    found: list[Cause] = []
    before, after = old.get("clusterIPs") or [], new.get("clusterIPs") or []
    if before and after and after[0] != before[0]:
        found.append(causes.invalid("spec.clusterIPs[0]", after, "may not change once set"))
    elif before and not after:
        found.append(causes.invalid("spec.clusterIPs[0]", [], "primary clusterIP can not be unset"))
    families_before, families_after = old.get("ipFamilies") or [], new.get("ipFamilies") or []
    if families_before and families_after and families_before[0] != families_after[0]:
        found.append(causes.invalid("spec.ipFamilies[0]", families_after[0], "may not change once set"))
    if old.get("type") == new.get("type") == "LoadBalancer" and (
        old.get("loadBalancerClass") != new.get("loadBalancerClass")
    ):
        detail = "may not change once set"
        found.append(causes.invalid("spec.loadBalancerClass", new.get("loadBalancerClass"), detail))
    return found
