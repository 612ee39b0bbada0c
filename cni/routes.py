"""The node's routes and links where there may be thousands, one or two a pod: read without a library between.

pyroute2 takes a third of a millisecond a route, whatever of it is asked for. Here are the few fields that mending and
the MTU need (rtnetlink(7): struct rtmsg, RTA_DST, RTA_OIF). A node with 10,000 pods is read in some 50 ms.
"""

import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni import templates
from cni.kernel import NetlinkSocket
from netplane.config import IPAddress

_MESSAGE = struct.Struct("=IHHII8BI")  # struct nlmsghdr, struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_DST, _OIF = 1, 4  # RTA_DST, RTA_OIF
_GET_FLAGS, _GET_MTU = 0x8913, 0x8921  # netdevice(7): SIOCGIFFLAGS, SIOCGIFMTU
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


@dataclass(frozen=True, slots=True)
class Route:
    """``dst`` None: a default route. ``link`` 0: by several links, or none."""

    table: int
    protocol: int
    length: int
    dst: IPAddress | None
    link: int


def routes() -> Iterator[Route]:
    """Of both families, of the namespace the thread is in. Raises OSError."""
    with NetlinkSocket() as kernel:
        for family, address in ((socket.AF_INET, IPv4Address), (socket.AF_INET6, IPv6Address)):
            for message in kernel.dump(templates.get_routes(family).fill()):
                yield _parsed(message, address)


def _parsed(message: bytes, address: type[IPv4Address] | type[IPv6Address]) -> Route:
    _, _, _, _, _, _, length, _, _, table, protocol, _, _, _ = _MESSAGE.unpack_from(message)
    found: dict[int, bytes] = {}
    at = _MESSAGE.size
    while at < len(message):
        size, name = _ATTRIBUTE.unpack_from(message, at)
        found[name] = message[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    link = _NUMBER.unpack(found[_OIF])[0] if _OIF in found else 0
    return Route(table, protocol, length, address(found[_DST]) if _DST in found else None, link)


def link_names() -> dict[int, str]:
    """By index, of the namespace the thread is in."""
    return dict(socket.if_nameindex())


def mtu(name: str) -> int | None:
    """Of a link that is up and is not the loopback, else None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16s24x", name.encode())
        try:
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(asking, _GET_FLAGS, request), 16)
            (found,) = struct.unpack_from("=i", fcntl.ioctl(asking, _GET_MTU, request), 16)
        except OSError:  # it is gone by now
            return None
    return int(found) if flags & _IFF_UP and not flags & _IFF_LOOPBACK else None
