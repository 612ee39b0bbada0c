"""What the network configuration asks of this plugin, read once into a frozen value.

Keys of other plugins and of later specifications are let through, as the specification says. What is ours and
wrong is 7; what is known and not offered is 2. Both name the key and the value: nothing asked for is dropped
in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import orjson

from cni import bandwidth, ports, wishes
from cni.bandwidth import Bandwidth
from cni.errors import CniError, Code
from cni.ipam import Pool, Range
from cni.ports import PortMapping
from netplane.config import IPAddress, IPNetwork

MTU_RANGE = range(576, 65536)
MTU_RANGE_IPV6 = range(1280, 65536)  # RFC 8200: a link below that cannot carry IPv6

# Known to runtimes, not offered here. An empty value asks for nothing.
_REFUSED = ("deviceID", "infinibandGUID")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One address of each pool for a pod; ``exclude`` is None where nothing is masqueraded."""

    pools: tuple[Pool, ...]
    exclude: tuple[IPNetwork, ...] | None = None
    mtu: int | None = None
    dns: Mapping[str, Any] = field(default_factory=dict)
    ports: tuple[PortMapping, ...] = ()
    mac: str | None = None
    ips: tuple[IPAddress, ...] = ()
    bandwidth: Bandwidth | None = None


def parse(document: Mapping[str, Any], arguments: Mapping[str, str] | None = None) -> NetworkConfig:
    """Raises CniError INVALID_CONFIG or UNSUPPORTED_FIELD, naming the key and its value."""
    if asked_for := _object(document, "runtimeConfig"):
        document = {**document, "runtimeConfig": wishes.spelled(asked_for)}
    _refuse_what_is_not_offered(document)
    ipam, more = (
        _object(document, "ipam"),
        _list(_object(document, "runtimeConfig"), "ipRanges", "runtimeConfig"),
    )
    if more:
        ipam = {**ipam, "ranges": [*more, *_list(ipam, "ranges", "ipam")]}
    pools = _pools(orjson.dumps(ipam))
    masquerade = _masquerade(orjson.dumps(document.get("masquerade")))
    mtu = _mtu(document, pools)
    dns = wishes.dns(document, _object(document, "dns"))
    ips = wishes.ips(document, arguments or {})
    _in_pools(ips, pools)
    asked = (_ports(document, pools), wishes.mac(document, arguments or {}), ips, _bandwidth(document))
    return NetworkConfig(pools, masquerade, mtu, dns, *asked)


def _refuse_what_is_not_offered(document: Mapping[str, Any]) -> None:
    if document.get("ipMasq"):
        raise _unsupported("ipMasq", document["ipMasq"], "use masquerade.exclude")
    arguments = _object(_object(document, "args"), "cni", "args")
    for where, table in (("runtimeConfig", _object(document, "runtimeConfig")), ("args.cni", arguments)):
        for key in _REFUSED:
            if table.get(key):
                raise _unsupported(f"{where}.{key}", table[key])


def _in_pools(ips: tuple[IPAddress, ...], pools: tuple[Pool, ...]) -> None:
    """Each wish is an address of a pool of its own."""
    left = list(pools)
    for address in ips:
        pool = next((pool for pool in left if address in pool), None)
        if pool is None:
            raise _invalid("ips", str(address), "is not an address of a range, or the second of one")
        left.remove(pool)


@lru_cache(maxsize=64)
def _pools(text: bytes) -> tuple[Pool, ...]:
    """From the text of ``ipam``, because one network's pods all have the same."""
    ipam = orjson.loads(text)
    _only(ipam, "ipam", ("ranges", "type"))
    if ipam.get("type", "netplane") != "netplane":
        raise _unsupported("ipam.type", ipam["type"], "netplane gives the addresses itself")
    pools = tuple(_pool(entry, f"ipam.ranges[{i}]") for i, entry in enumerate(_list(ipam, "ranges", "ipam")))
    if not pools:
        raise _invalid("ipam.ranges", ipam.get("ranges"), "must be a list with at least one list of CIDRs")
    _disjoint(pools)
    return pools


@lru_cache(maxsize=64)
def _masquerade(text: bytes) -> tuple[IPNetwork, ...] | None:
    """From the text of ``masquerade``, as above."""
    document = {"masquerade": orjson.loads(text)}
    if document["masquerade"] is None:
        return None
    table = _object(document, "masquerade")
    _only(table, "masquerade", ("exclude",))
    entries = _list(table, "exclude", "masquerade")
    return tuple(_network(entry, f"masquerade.exclude[{i}]") for i, entry in enumerate(entries))


def _ports(document: Mapping[str, Any], pools: tuple[Pool, ...]) -> tuple[PortMapping, ...]:
    entries = _list(_object(document, "runtimeConfig"), "portMappings", "runtimeConfig")
    versions = {pool.ranges[0].subnet.version for pool in pools} if entries else set()
    found: list[PortMapping] = []
    for index, entry in enumerate(entries):
        where = f"runtimeConfig.portMappings[{index}]"
        if not isinstance(entry, Mapping):
            raise _invalid(where, entry, "must be an object")
        try:
            mapping = ports.parse(entry)
        except ValueError as error:
            raise _invalid(where, dict(entry), f"cannot be: {error}") from None
        if mapping is not None:
            if why := mapping.dead(versions):
                raise _invalid(where, dict(entry), f"cannot be: {why}")
            found.append(mapping)
    if pair := ports.conflict(found, ()):
        raise _invalid("runtimeConfig.portMappings", str(pair[0]), f"conflicts with {pair[1]}")
    return tuple(found)


def _bandwidth(document: Mapping[str, Any]) -> Bandwidth | None:
    entry = _object(_object(document, "runtimeConfig"), "bandwidth", "runtimeConfig")
    try:
        return bandwidth.parse(entry)
    except ValueError as error:
        raise _invalid("runtimeConfig.bandwidth", dict(entry), f"cannot be: {error}") from None


def _mtu(document: Mapping[str, Any], pools: tuple[Pool, ...]) -> int | None:
    value = document.get("mtu")
    if value is None:
        return None
    dual = any(r.subnet.version == 6 for pool in pools for r in pool.ranges)
    allowed = MTU_RANGE_IPV6 if dual else MTU_RANGE
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        raise _invalid("mtu", value, f"must be a whole number from {allowed.start} to {allowed.stop - 1}")
    return value


def _pool(entry: Any, where: str) -> Pool:
    if not isinstance(entry, list) or not entry:
        raise _invalid(where, entry, "must be a list with at least one CIDR")
    ranges = tuple(_range(item, f"{where}[{i}]") for i, item in enumerate(entry))
    if len({r.subnet.version for r in ranges}) > 1:
        raise _invalid(where, entry, "mixes IPv4 and IPv6: a list gives one address, write one list a family")
    return Pool(ranges)


def _range(entry: Any, where: str) -> Range:
    if not isinstance(entry, Mapping):
        return Range.of(_network(entry, where))
    _only(entry, where, ("subnet", "rangeStart", "rangeEnd", "gateway"))
    ends = [_address(entry, key, where) for key in ("rangeStart", "rangeEnd", "gateway")]
    subnet = _network(entry.get("subnet"), f"{where}.subnet")
    try:
        return Range.of(subnet, first=ends[0], last=ends[1], gateway=ends[2])
    except ValueError as error:
        raise _invalid(where, dict(entry), str(error)) from None


def _disjoint(pools: tuple[Pool, ...]) -> None:
    seen: list[IPNetwork] = []
    for r in (r for pool in pools for r in pool.ranges):
        for other in seen:
            if r.subnet.version == other.version and r.subnet.overlaps(other) and r.subnet != other:
                raise _invalid("ipam.ranges", str(r.subnet), f"overlaps {other}")
        seen.append(r.subnet)


def _network(value: Any, where: str) -> IPNetwork:
    if not isinstance(value, str):
        raise _invalid(where, value, "must be a CIDR such as 10.244.1.0/24")
    try:
        return ip_network(value)
    except ValueError as error:
        raise _invalid(where, value, str(error)) from None


def _address(table: Mapping[str, Any], key: str, where: str) -> IPv4Address | IPv6Address | None:
    value = table.get(key)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            found: IPAddress = ip_address(value)
            return found
    except ValueError:
        pass
    raise _invalid(f"{where}.{key}", value, "must be an address")


def _object(table: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    value = table.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _invalid(f"{where}.{key}".lstrip("."), value, "must be an object")
    return value


def _list(table: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid(f"{where}.{key}", value, "must be a list")
    return value


def _only(table: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise _invalid(
                f"{where}.{key}", table[key], f"is not a known key (known: {', '.join(sorted(known))})"
            )


def _invalid(where: str, value: Any, cause: str) -> CniError:
    shown = orjson.dumps(value, default=str).decode()
    return CniError(Code.INVALID_CONFIG, f"cannot use the network configuration: {where} {shown} {cause}")


def _unsupported(where: str, value: Any, hint: str = "") -> CniError:
    shown = orjson.dumps(value, default=str).decode()
    message = f"cannot use the network configuration: {where} {shown} is not supported by netplane"
    return CniError(Code.UNSUPPORTED_FIELD, message, hint)
