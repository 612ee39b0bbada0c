"""The routes that make Service addresses this node's own, in every mode of the proxy.

Why local routes: the node's own clients need a route to a ClusterIP and a source address for it before any rule can
translate them, and a packet to an address that no Service has must end here. A Service address outside the Service
networks may be somebody's: ``proxy.singles``. Everything is observed first and changed
only where it differs. Blocking: call it from a worker thread in the node's network namespace.

A Service network that is not one would make strangers' addresses this node's own, or cut the node off from its
neighbours: ``refuse_overlaps`` comes before everything else.

Owned kernel objects: routes of protocol 96 in the local table, and how the node's link answers ARP.
"""

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from netplane.errors import ConfigError, KernelError
from netplane.linux import rtmessages, sysctl
from netplane.linux.rtnl import rtnl
from proxy.model import IPAddress, IPNetwork, NodeFacts
from proxy.singles import Around, Singles, decide

IPInterface = IPv4Interface | IPv6Interface

ROUTE_PROTOCOL = 96
LOCAL_TABLE = 255  # RT_TABLE_LOCAL
DIVERT_TABLE = 91  # the relay's (``proxy.userspace.plumbing``)
RTN_UNICAST, RTN_LOCAL = 1, 2
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Led:
    """``done``: what was changed, in words; ``singles``: which addresses outside the Service networks are led here."""

    done: list[str]
    singles: Singles


def ensure(node: NodeFacts, addresses: Iterable[IPAddress], *, sockets: bool) -> Led:
    """Lead the Service networks to this node, and of the Service addresses outside them those that it may take.

    ``sockets``: see ``proxy.singles``. Raises KernelError naming the step, and ConfigError as ``refuse_overlaps``.
    """
    single = [a for a in addresses if a not in node.addresses and not among(a, node.service_cidrs)]
    refuse_overlaps(node.service_cidrs, node.addresses)
    try:
        with rtnl() as ipr:
            done = _quiet_arp(ipr, node)
            held = {version: of_table(ipr, FAMILIES[version], LOCAL_TABLE) for version in node.versions}
            singles = decide(single, _around(node, single), _held(held), sockets=sockets)
            for version, have in held.items():
                done += _ensure_local_routes(ipr, node, singles.own, version, have)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"cannot look at this node's routes: {error}") from None
    return Led(done, singles)


def refuse_overlaps(service_cidrs: Sequence[IPNetwork], own: Sequence[IPAddress] = ()) -> None:
    """Raise ConfigError where a Service network overlaps one that this machine is connected to, or its own addresses.

    Single addresses (/32, /128) other than the node's own may be Service addresses that somebody serves here
    (NodeLocal DNSCache, kube-proxy's IPVS), so they are let be.
    """
    connected = _interfaces({network.version for network in service_cidrs})
    for network in service_cidrs:
        if found := overlap(network, connected, own):
            raise ConfigError(
                f"cannot lead Service network {network} to this node: it overlaps {found}, which this node has",
                "Give the cluster's Service networks (serviceCidrs, --service-cidrs), or none: then each Service's "
                "address is led here by itself",
            )


def overlap(
    network: IPNetwork, connected: Iterable[IPInterface], own: Sequence[IPAddress]
) -> IPInterface | None:
    """The first of the addresses with which a Service network cannot be on one node."""
    for interface in connected:
        if interface.version != network.version:
            continue
        single = interface.network.prefixlen == interface.max_prefixlen
        if (not single or interface.ip in own) and interface.network.overlaps(network):
            return interface
    return None


def own_addresses() -> list[IPAddress]:
    """All addresses of this machine, loopback included. Raises KernelError."""
    return [interface.ip for interface in _interfaces(set(FAMILIES))]


def _interfaces(versions: set[int]) -> list[IPInterface]:
    try:
        with rtnl() as ipr:
            return [
                _interface(message)
                for version in sorted(versions)
                for message in ipr.get_addr(family=FAMILIES[version])
            ]
    except (NetlinkError, OSError) as error:
        raise KernelError(f"cannot look at this node's addresses: {error}") from None


def _interface(message: Any) -> IPInterface:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ip_interface(f"{address}/{message['prefixlen']}")


def remove() -> None:
    """Take them away; what is not there is fine."""
    with rtnl() as ipr:
        for family in FAMILIES.values():
            for route in of_table(ipr, family, LOCAL_TABLE):
                call(f"remove route {route['dst']}", ipr.route, "del", **route)


def routed() -> list[IPNetwork]:
    """The networks that the kernel leads to this node for the proxy, as it says itself. Raises KernelError."""
    return [
        route.destination
        for family in FAMILIES.values()
        for route in rtmessages.routes(family, ROUTE_PROTOCOL)
        if route.table == LOCAL_TABLE
    ]


def machines_addresses(version: int) -> Iterator[IPAddress]:
    """What the kernel takes as this machine's own, without our routes. Raises KernelError."""
    for route in rtmessages.routes(FAMILIES[version]):
        if (
            route.kind == RTN_LOCAL
            and route.protocol != ROUTE_PROTOCOL
            and route.destination.num_addresses == 1
        ):
            yield route.destination[0]


def among(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Whether an address is in one of the networks."""
    return any(address in network for network in networks if network.version == address.version)


def _around(node: NodeFacts, addresses: Iterable[IPAddress]) -> Around:
    """What routes of others say where these addresses are.

    A node that is told no Service networks cannot tell a ClusterIP from an address of somebody's: it may take either
    from a default route.
    """
    here: list[IPNetwork] = []
    beyond: list[IPNetwork] = []
    gateways: set[IPAddress] = set()
    relayed = False
    for version in sorted({address.version for address in addresses}):
        told = any(network.version == version for network in node.service_cidrs)
        for route in rtmessages.routes(FAMILIES[version]):
            if route.protocol == ROUTE_PROTOCOL:
                relayed = relayed or route.table == DIVERT_TABLE
            elif route.kind == RTN_LOCAL:
                here.append(route.destination)
            elif route.kind == RTN_UNICAST:
                if told or route.destination.prefixlen:
                    beyond.append(route.destination)
                gateways.update(route.gateways)
    return Around(tuple(here), tuple(beyond), frozenset(gateways), relayed)


def _held(routes: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[IPAddress]:
    networks = [ip_network(route["dst"]) for found in routes.values() for route in found]
    return [network[0] for network in networks if network.num_addresses == 1]


def _ensure_local_routes(
    ipr: IPRoute,
    node: NodeFacts,
    singles: Iterable[IPAddress],
    version: int,
    found: Sequence[Mapping[str, Any]],
) -> list[str]:
    """`ip route add local NETWORK dev lo src NODE`: without src the node's own clients would have the
    Service's address as their source."""
    family, done = FAMILIES[version], []
    loopback = ipr.link_lookup(ifname="lo")[0]
    source = str(node.address(version))
    networks = [*node.service_cidrs, *map(ip_network, singles)]
    wanted = {str(network): source for network in networks if network.version == version}
    have = {route["dst"]: route.get("prefsrc") for route in found}
    for destination, prefsrc in wanted.items():
        if have.get(destination) != prefsrc:
            call(
                f"route {destination} to the proxy",
                ipr.route,
                "replace",
                dst=destination,
                oif=loopback,
                prefsrc=prefsrc,
                table=LOCAL_TABLE,
                type=RTN_LOCAL,
                proto=ROUTE_PROTOCOL,
                scope=254,
                family=family,
            )
            done.append(f"route local {destination} src {prefsrc}")
    for route in found:
        if route["dst"] not in wanted:
            call(f"remove route {route['dst']}", ipr.route, "del", **route)
            done.append(f"no route local {route['dst']}")
    return done


def of_table(ipr: IPRoute, family: int, table: int) -> list[dict[str, Any]]:
    """Our routes of a table, in the form that deletes them."""
    found = []
    for message in ipr.get_routes(family=family, table=table):
        if message["proto"] != ROUTE_PROTOCOL:
            continue
        destination = message.get_attr("RTA_DST") or ("0.0.0.0" if family == socket.AF_INET else "::")
        route = {
            "dst": f"{destination}/{message['dst_len']}",
            "oif": message.get_attr("RTA_OIF"),
            "table": table,
            "type": message["type"],
            "proto": ROUTE_PROTOCOL,
            "scope": message["scope"],
            "family": family,
        }
        if message.get_attr("RTA_PREFSRC"):
            route["prefsrc"] = message.get_attr("RTA_PREFSRC")
        found.append(route)
    return found


def _quiet_arp(ipr: IPRoute, node: NodeFacts) -> list[str]:
    """A Service address is local to every node, so none of them may answer for it on the shared link."""
    address = node.address(4)
    if address is None:
        return []
    for message in ipr.get_addr(family=socket.AF_INET):
        if message.get_attr("IFA_LOCAL") == str(address):
            link = ipr.get_links(message["index"])[0].get_attr("IFLA_IFNAME").replace(".", "/")
            settings = (
                (f"net.ipv4.conf.{link}.arp_ignore", "1"),
                (f"net.ipv4.conf.{link}.arp_announce", "2"),
            )
            return [f"{name}={value}" for name, value in settings if sysctl.write(name, value)]
    raise KernelError(
        f"cannot keep ARP quiet for Service addresses: no interface has the node's address {address}",
        "The node's address must be one of this machine's",
    )


def call(step: str, function: Any, *arguments: Any, **options: Any) -> None:
    """A change by pyroute2; what is already gone need not be deleted. Raises KernelError naming ``step``."""
    try:
        function(*arguments, **options)
    except NetlinkError as error:
        if error.code in (errno.ENOENT, errno.ESRCH) and arguments[:1] == ("del",):
            return
        raise KernelError(f"cannot {step}: {error}") from None
