"""The DNS address on this node: routed to the node itself, and bound to exactly that address.

A local route instead of an address on ``lo``: only a route can say that the node's own queries leave with the
node's address. With the DNS address as their source, the answers would be addressed to a Service address, and the
proxy's guard rejects what reaches an unconnected (wildcard) UDP socket there.

The route is this room's own (protocol 99); it stays when the daemon stops, so that a query in between is refused at
once instead of being routed away. A wildcard socket would answer on every address of the node: never one here.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pyroute2.netlink.exceptions import NetlinkError

from netplane.config import IPAddress
from netplane.errors import KernelError
from netplane.linux.rtnl import rtnl

IPV6_FREEBIND = 78  # include/uapi/linux/in6.h
IP_FREEBIND = 15  # include/uapi/linux/in.h
ROUTE_PROTOCOL = 99
LOCAL_TABLE = 255  # RT_TABLE_LOCAL
RTN_LOCAL = 2
SCOPE_HOST = 254
BACKLOG = 256


def own(addresses: Sequence[IPAddress], sources: Sequence[IPAddress] = ()) -> None:
    """Route the addresses to this namespace itself; no change where they are. For a worker thread.

    ``sources``: the node's addresses, one an IP version, that its own queries are to come from. Raises KernelError
    naming the address.
    """
    with rtnl() as ipr:
        (lo,) = ipr.link_lookup(ifname="lo")
        ipr.link("set", index=lo, state="up")
        for address in addresses:
            route = _route(address, lo)
            source = next((s for s in sources if s.version == address.version), None)
            if source is not None:
                route["prefsrc"] = str(source)
            try:
                ipr.route("replace", **route)
            except NetlinkError as error:
                raise KernelError(
                    f"cannot route the DNS address {address} to lo: {error}", "Run as root"
                ) from None


def disown(addresses: Sequence[IPAddress]) -> None:
    """Take the routes away again (uninstall); absent ones are fine."""
    with rtnl() as ipr:
        (lo,) = ipr.link_lookup(ifname="lo")
        for address in addresses:
            with suppress(NetlinkError):
                ipr.route("del", **_route(address, lo))


def _route(address: IPAddress, lo: int) -> dict[str, Any]:
    return {
        "dst": f"{address}/{address.max_prefixlen}",
        "oif": lo,
        "table": LOCAL_TABLE,
        "type": RTN_LOCAL,
        "scope": SCOPE_HOST,
        "proto": ROUTE_PROTOCOL,
        "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
    }


def node_addresses(server: str) -> tuple[IPAddress, ...]:
    """The node's address as its API server sees it: the source the kernel picks towards ``server`` (a URL).

    Empty where that is a loopback address, or where the name does not resolve: then any source will do.
    """
    parts = urlsplit(server)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as sock:
            sock.connect(found[0][4])
            address = ip_address(sock.getsockname()[0].partition("%")[0])
    except OSError:
        return ()
    return () if address.is_loopback or address.is_link_local else (address,)


def bind(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket on exactly this address, listening if it is a stream. Raises KernelError naming it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if address.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise KernelError(
            f"cannot listen on {address}:{port}: {error.strerror}", "Another DNS server may hold this address"
        ) from None
    return sock
