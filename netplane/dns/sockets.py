"""The DNS address on this node: put on ``lo``, and bound to exactly that address.

The address is this room's own; it stays when the daemon stops, so that a query in between is refused at once
instead of being routed away. A wildcard socket would answer on every address of the node: never one here.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress

from pyroute2.netlink.exceptions import NetlinkError

from netplane.config import IPAddress
from netplane.errors import KernelError
from netplane.linux.rtnl import rtnl

IPV6_FREEBIND = 78  # include/uapi/linux/in6.h
IP_FREEBIND = 15  # include/uapi/linux/in.h
SCOPE_HOST = 254  # never chosen as the source of the node's own packets to elsewhere
BACKLOG = 256


def own(addresses: Sequence[IPAddress]) -> None:
    """Put the addresses on ``lo`` of this namespace; no change where they are. For a worker thread.

    Raises KernelError naming the address.
    """
    with rtnl() as ipr:
        (lo,) = ipr.link_lookup(ifname="lo")
        ipr.link("set", index=lo, state="up")
        for address in addresses:
            try:
                ipr.addr(
                    "replace",
                    index=lo,
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                    scope=SCOPE_HOST,
                )
            except NetlinkError as error:
                raise KernelError(
                    f"cannot put the DNS address {address} on lo: {error}", "Run as root"
                ) from None


def disown(addresses: Sequence[IPAddress]) -> None:
    """Take the addresses away again (uninstall); absent ones are fine."""
    with rtnl() as ipr:
        (lo,) = ipr.link_lookup(ifname="lo")
        for address in addresses:
            with suppress(NetlinkError):
                ipr.addr("del", index=lo, address=str(address), prefixlen=address.max_prefixlen)


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
