"""Endpoints and EndpointSlice: where a Service's packets may go.

Source: Kubernetes `pkg/apis/discovery/validation/validation.go` and `pkg/apis/core/validation/validation.go`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, validating
from controlplane.api.kinds.printing import AGE, MOST, NAME, NONE, UNSET, some_of
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import ENDPOINTS, ENDPOINTSLICES

Fields = Mapping[str, Any]

FAMILIES = ("FQDN", "IPv4", "IPv6")
PROTOCOLS = ("SCTP", "TCP", "UDP")
ENDPOINTS_MOST = 1000
ADDRESSES_MOST = 100
PORTS_MOST = 20000

ENDPOINTSLICE = shape_of(ENDPOINTSLICES)
ENDPOINTS_SHAPE = shape_of(ENDPOINTS)


def _default_slice(endpointslice: Object) -> None:
    for port in endpointslice.get("ports") or []:
        port.setdefault("name", "")
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    endpointslice.setdefault("endpoints", [])


def _default_endpoints(endpoints: Object) -> None:
    for subset in endpoints.get("subsets") or []:
        for port in subset.get("ports") or []:
            if not port.get("protocol"):
                port["protocol"] = "TCP"


def _slice_causes(new: Object, old: Object | None) -> list[Cause]:
    family = new.get("addressType") or ""
    endpoints, ports = new.get("endpoints") or [], new.get("ports") or []
    found: list[Cause] = []
    if not family:
        found.append(causes.required("addressType"))
    elif family not in FAMILIES:
        found.append(causes.not_supported("addressType", family, FAMILIES))
    if old is not None and old.get("addressType") != family:
        found.append(causes.invalid("addressType", family, causes.IMMUTABLE))
    if len(endpoints) > ENDPOINTS_MOST:
        return [*found, causes.too_many("endpoints", len(endpoints), ENDPOINTS_MOST)]
    if len(ports) > PORTS_MOST:
        return [*found, causes.too_many("ports", len(ports), PORTS_MOST)]
    for index, endpoint in enumerate(endpoints):
        found += _endpoint_causes(endpoint, family, f"endpoints[{index}]")
    return [*found, *_port_causes(ports, "ports")]


def _endpoint_causes(endpoint: Fields, family: str, path: str) -> list[Cause]:
    found: list[Cause] = []
    addresses = endpoint.get("addresses") or []
    at = f"{path}.addresses"
    if not addresses:
        found.append(causes.required(at, "must contain at least 1 address"))
    elif len(addresses) > ADDRESSES_MOST:
        found.append(causes.too_many(at, len(addresses), ADDRESSES_MOST))
    seen: set[str] = set()
    for index, address in enumerate(addresses):
        if address in seen:
            found.append(causes.duplicate(f"{at}[{index}]", address))
        seen.add(address)
        found += _of_family(address, family, f"{at}[{index}]")
    for field, check in (("hostname", names.dns_label), ("nodeName", names.dns_subdomain)):
        if endpoint.get(field) and (wrong := check(endpoint[field])):
            found.append(causes.invalid(f"{path}.{field}", endpoint[field], wrong))
    return found


def _of_family(address: str, family: str, path: str) -> list[Cause]:
    if family == "FQDN":
        wrong = names.dns_subdomain(address)
        return [causes.invalid(path, address, wrong)] if wrong else []
    if wrong := names.ip_address(address):
        return [causes.invalid(path, address, wrong)]
    parsed = ipaddress.ip_address(address)
    if family in ("IPv4", "IPv6") and f"IPv{parsed.version}" != family:
        return [causes.invalid(path, address, f"must be an {family} address")]
    return _reachable(address, path)


def _reachable(address: str, path: str) -> list[Cause]:
    """An endpoint must not turn a Service into a door to the node itself."""
    parsed = ipaddress.ip_address(address)
    for wrong, detail in (
        (parsed.is_unspecified, f"may not be unspecified ({address})"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (parsed.is_multicast, "may not be in the multicast range (224.0.0.0/4, ff00::/8)"),
    ):
        if wrong:
            return [causes.invalid(path, address, detail)]
    return []


def _port_causes(ports: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    listed = list(ports)
    seen: set[str] = set()
    for index, port in enumerate(listed):
        at = f"{path}[{index}]"
        name = port.get("name") or ""
        if name and (wrong := names.dns_label(name)):
            found.append(causes.invalid(f"{at}.name", name, wrong))
        if name in seen:
            found.append(causes.duplicate(f"{at}.name", name))
        seen.add(name)
        protocol = port.get("protocol") or ""
        if protocol not in PROTOCOLS:
            found.append(causes.not_supported(f"{at}.protocol", protocol, PROTOCOLS))
        number = port.get("port")
        if number is not None and (wrong := names.port_number(number)):
            found.append(causes.invalid(f"{at}.port", number, wrong))
    return found


def _endpoints_causes(new: Object, _old: Object | None) -> list[Cause]:
    found: list[Cause] = []
    for index, subset in enumerate(new.get("subsets") or []):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            found.append(causes.required(at, "must specify `addresses` or `notReadyAddresses`"))
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or []):
                ip, where = address.get("ip") or "", f"{at}.{field}[{number}].ip"
                wrong = names.ip_address(ip)
                found += [causes.invalid(where, ip, wrong)] if wrong else _reachable(ip, where)
        ports = subset.get("ports") or []
        if len(ports) > 1:
            found += [
                causes.required(f"{at}.ports[{number}].name")
                for number, port in enumerate(ports)
                if not port.get("name")
            ]
        found += [
            causes.required(f"{at}.ports[{number}].port")
            for number, port in enumerate(ports)
            if port.get("port") is None
        ]
        found += _port_causes(ports, f"{at}.ports")
    return found


def _fields(obj: Object) -> Mapping[str, str]:
    return {"metadata.name": name_of(obj), "metadata.namespace": namespace_of(obj)}


def _slice_ports(endpointslice: Object) -> str:
    listed = [
        str(port["port"]) if port.get("port") is not None else port.get("name") or "*"
        for port in endpointslice.get("ports") or []
    ]
    return some_of(listed, UNSET)


def _slice_addresses(endpointslice: Object) -> str:
    endpoints = endpointslice.get("endpoints") or []
    return some_of((address for entry in endpoints for address in entry.get("addresses") or []), UNSET)


def _addresses(endpoints: Object) -> str:
    listed = []
    for subset in endpoints.get("subsets") or []:
        addresses = [str(address.get("ip")) for address in subset.get("addresses") or []]
        ports = subset.get("ports") or []
        listed += (
            [_joined(ip, port.get("port")) for port in ports for ip in addresses] if ports else addresses
        )
    if len(listed) > MOST:
        return f"{','.join(listed[:MOST])} + {len(listed) - MOST} more..."
    if not endpoints.get("subsets"):
        return NONE
    return ",".join(listed)


def _joined(ip: str, port: object) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


ENDPOINTSLICE_KIND = Kind(
    resource=ENDPOINTSLICES,
    default=defaulting(ENDPOINTSLICE, _default_slice),
    validate=validating(ENDPOINTSLICES, ENDPOINTSLICE, _slice_causes),
    columns=(
        NAME,
        Column("AddressType", "string", lambda obj: obj.get("addressType") or ""),
        Column("Ports", "string", _slice_ports),
        Column("Endpoints", "string", _slice_addresses),
        AGE,
    ),
    fields=_fields,
)

ENDPOINTS_KIND = Kind(
    resource=ENDPOINTS,
    default=defaulting(ENDPOINTS_SHAPE, _default_endpoints),
    validate=validating(ENDPOINTS, ENDPOINTS_SHAPE, _endpoints_causes),
    columns=(NAME, Column("Endpoints", "string", _addresses), AGE),
    fields=_fields,
)
