"""What a runtime may ask for besides the configuration, from its three places: runtimeConfig goes before args.cni,
and that before CNI_ARGS. Pure.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Any

from cni.errors import CniError, Code
from netplane.config import IPAddress

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SPELLED = {
    name.lower(): name
    for name in (
        *("hostPort", "containerPort", "protocol", "hostIP"),
        *("ingressRate", "ingressBurst", "egressRate", "egressBurst"),
        *("subnet", "rangeStart", "rangeEnd", "gateway"),
        *("servers", "searches", "options"),
    )
}
_DNS = {"servers": "nameservers", "searches": "search", "options": "options"}  # runtimeConfig → result


def spelled(value: Any) -> Any:
    """A capability's argument with its keys as the conventions write them. Go reads keys whatever their case, and so
    containerd writes `HostPort` and `IngressRate`.
    """
    match value:
        case dict():
            return {_SPELLED.get(key.lower(), key): spelled(inner) for key, inner in value.items()}
        case list():
            return [spelled(inner) for inner in value]
        case _:
            return value


def first(
    document: Mapping[str, Any], arguments: Mapping[str, str], key: str, argument: str
) -> tuple[str, Any]:
    """(where, value) of the first place that asks for ``key``; ("", None) where none does."""
    runtime, cni = document.get("runtimeConfig") or {}, (document.get("args") or {}).get("cni") or {}
    for where, table in (("runtimeConfig", runtime), ("args.cni", cni)):
        if not isinstance(table, Mapping):
            raise _invalid(where, table, "must be an object")
        if table.get(key):
            return f"{where}.{key}", table[key]
    return (f"CNI_ARGS {argument}", arguments[argument]) if arguments.get(argument) else ("", None)


def mac(document: Mapping[str, Any], arguments: Mapping[str, str]) -> str | None:
    """The address the pod's link is to have, in lower case. Raises CniError INVALID_CONFIG."""
    where, value = first(document, arguments, "mac", "MAC")
    if not where:
        return None
    found = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not _MAC.fullmatch(found) or int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise _invalid(where, value, "is not the address of one interface, such as 06:00:00:00:00:01")
    return found


def ips(document: Mapping[str, Any], arguments: Mapping[str, str]) -> tuple[IPAddress, ...]:
    """Addresses the pod is to have, their prefixes left out. Raises CniError INVALID_CONFIG."""
    where, value = first(document, arguments, "ips", "IP")
    if not where:
        return ()
    entries = value.split(",") if where.startswith("CNI_ARGS") else value
    if not isinstance(entries, list):
        raise _invalid(where, value, "must be a list of addresses")
    try:
        return tuple(ip_interface(entry if isinstance(entry, str) else "").ip for entry in entries)
    except ValueError as error:
        raise _invalid(where, value, f"must be a list of addresses: {error}") from None


def dns(document: Mapping[str, Any], configured: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration's ``dns``, and over it what the runtime asks for."""
    asked = (document.get("runtimeConfig") or {}).get("dns") or {}
    if not isinstance(asked, Mapping) or not all(isinstance(asked.get(key, []), list) for key in _DNS):
        raise _invalid("runtimeConfig.dns", asked, "must be an object of lists: servers, searches, options")
    return {**configured, **{name: asked[key] for key, name in _DNS.items() if asked.get(key)}}


def _invalid(where: str, value: Any, cause: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"cannot use the network configuration: {where} {value!r} {cause}")
