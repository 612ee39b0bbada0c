"""What an ADD answers, in each shape the specification has had since 0.1.0.

One value in memory, with everything version 1.1.0 can say; ``render`` leaves out what an older version has no
word for, ``parse`` reads any version back (``prevResult``). Sources: SPEC.md of each version, "Result".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from cni.errors import CniError, Code
from netplane.config import IPAddress, IPNetwork

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]


@dataclass(frozen=True, slots=True)
class Interface:
    """A link that was made; ``sandbox`` is the pod's namespace, empty for the host's."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int | None = None
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """An address and its prefix's length; ``interface`` indexes ``Result.interfaces``."""

    ip: IPAddress
    prefix: int
    gateway: IPAddress | None = None
    interface: int | None = None

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route inside the pod."""

    dst: IPNetwork
    gw: IPAddress | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The whole answer."""

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)

    def followed_by(self, other: "Result") -> "Result":
        """Both, as a chained plugin reports them: what was there stays, indices of ``other`` are shifted."""
        offset = len(self.interfaces)
        moved = tuple(
            Address(a.ip, a.prefix, a.gateway, None if a.interface is None else a.interface + offset)
            for a in other.addresses
        )
        return Result(
            self.interfaces + other.interfaces,
            self.addresses + moved,
            self.routes + other.routes,
            {**self.dns, **other.dns},
        )


def render(result: Result, version: str) -> dict[str, Any]:
    """The JSON object of ``result`` in ``version``, which is one of ``VERSIONS``."""
    if version in ("0.1.0", "0.2.0"):
        return {"cniVersion": version, **_families(result), "dns": dict(result.dns)}
    newest = version == NEWEST
    document: dict[str, Any] = {
        "cniVersion": version,
        "interfaces": [_interface(interface, newest) for interface in result.interfaces],
        "ips": [_address(address, named=version.startswith("0.")) for address in result.addresses],
        "routes": [_route(route, newest) for route in result.routes],
        "dns": dict(result.dns),
    }
    return {key: value for key, value in document.items() if value or key == "dns"}


def _families(result: Result) -> dict[str, Any]:
    """0.1.0 and 0.2.0 know one address of each family and no links."""
    found: dict[str, Any] = {}
    for address in result.addresses:
        key = f"ip{address.ip.version}"
        if key in found:
            continue
        routes = [_route(r, newest=False) for r in result.routes if r.dst.version == address.ip.version]
        entry = {"ip": str(address), "gateway": _text(address.gateway), "routes": routes}
        found[key] = {name: value for name, value in entry.items() if value}
    return found


def _interface(interface: Interface, newest: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"name": interface.name, "mac": interface.mac, "sandbox": interface.sandbox}
    if newest:
        extra = {"mtu": interface.mtu, "socketPath": interface.socket_path, "pciID": interface.pci_id}
        document.update(extra)
    return {key: value for key, value in document.items() if value}


def _address(address: Address, *, named: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"version": str(address.ip.version)} if named else {}
    document["address"] = str(address)
    if address.gateway is not None:
        document["gateway"] = str(address.gateway)
    if address.interface is not None:
        document["interface"] = address.interface
    return document


_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


def _route(route: Route, newest: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"dst": str(route.dst)}
    if route.gw is not None:
        document["gw"] = str(route.gw)
    if newest:
        numbers = {name: getattr(route, name) for name in _ROUTE_NUMBERS}
        document.update({name: value for name, value in numbers.items() if value is not None})
    return document


def _text(value: object) -> str:
    return "" if value is None else str(value)


def parse(document: Any, where: str = "prevResult") -> Result:
    """A result of any version. Raises CniError 1 for an unknown version, 6 for a malformed value, naming it."""
    table = _table(document, where)
    version = table.get("cniVersion") or "0.1.0"
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"cannot read {where}: cniVersion {version!r} is not supported"
        )
    dns = _table({} if table.get("dns") is None else table["dns"], f"{where}.dns")
    if version in ("0.1.0", "0.2.0"):
        addresses, routes = _parse_families(table, where)
        return Result((), addresses, routes, dns)
    return Result(
        _each(table, "interfaces", where, _parse_interface),
        _each(table, "ips", where, _parse_address),
        _each(table, "routes", where, _parse_route),
        dns,
    )


def _parse_families(table: Mapping[str, Any], where: str) -> tuple[tuple[Address, ...], tuple[Route, ...]]:
    addresses: list[Address] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        if table.get(key) is None:
            continue
        entry = _table(table[key], f"{where}.{key}")
        renamed = {"address": entry.get("ip"), "gateway": entry.get("gateway")}
        addresses.append(_parse_address(renamed, f"{where}.{key}"))
        routes.extend(_each(entry, "routes", f"{where}.{key}", _parse_route))
    return tuple(addresses), tuple(routes)


def _parse_interface(entry: Mapping[str, Any], where: str) -> Interface:
    texts = [_string(entry, key, where) for key in ("name", "mac", "sandbox", "socketPath", "pciID")]
    if not texts[0]:
        raise _malformed(f"{where}.name", "is missing")
    return Interface(texts[0], texts[1], texts[2], _number(entry, "mtu", where), texts[3], texts[4])


def _parse_address(entry: Mapping[str, Any], where: str) -> Address:
    address = _convert(ip_interface, entry.get("address"), f"{where}.address")
    length = address.network.prefixlen
    return Address(address.ip, length, _gateway(entry, "gateway", where), _number(entry, "interface", where))


def _parse_route(entry: Mapping[str, Any], where: str) -> Route:
    numbers = {name: _number(entry, name, where) for name in _ROUTE_NUMBERS}
    dst = _convert(lambda text: ip_network(text, strict=False), entry.get("dst"), f"{where}.dst")
    return Route(dst, _gateway(entry, "gw", where), **numbers)


def _gateway(entry: Mapping[str, Any], key: str, where: str) -> IPAddress | None:
    return _convert(ip_address, entry[key], f"{where}.{key}") if entry.get(key) else None


T = TypeVar("T")


def _each(
    table: Mapping[str, Any], key: str, where: str, parse_one: Callable[[Mapping[str, Any], str], T]
) -> tuple[T, ...]:
    entries = table.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise _malformed(f"{where}.{key}", "is not a list")
    named = ((f"{where}.{key}[{index}]", entry) for index, entry in enumerate(entries))
    return tuple(parse_one(_table(entry, name), name) for name, entry in named)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(where, "is not an object")
    return value


def _string(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise _malformed(f"{where}.{key}", f"is not a string: {value!r}")
    return value or ""


def _number(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    value = entry.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise _malformed(f"{where}.{key}", f"is not a whole number: {value!r}")
    return value


def _convert(make: Callable[[str], T], value: Any, where: str) -> T:
    if not isinstance(value, str):
        raise _malformed(where, f"is not a string: {value!r}")
    try:
        return make(value)
    except ValueError as error:
        raise _malformed(where, f"is not valid: {error}") from None


def _malformed(where: str, cause: str) -> CniError:
    return CniError(Code.DECODING_FAILURE, f"cannot read {where}: it {cause}")
