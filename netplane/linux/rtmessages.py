"""Routes, queues and filters of links by rtnetlink messages of our own, and word of their changes.

Why beside pyroute2: a look at all pods of a node is taken whenever one comes or goes, in a process that others wait
for; this way an entry costs a few microseconds and not a hundred. Everything works on the calling thread's network
namespace; what was opened there stays there.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self

from netplane.errors import KernelError
from netplane.linux.nlattr import attributes
from netplane.linux.nlmsg import DUMP, REQUEST, message, messages, opened

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_MIN_INGRESS and _EGRESS of a clsact
ROUTES, QUEUES = 1 << 6 | 1 << 10, 1 << 3  # RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE; RTMGRP_TC

_GET_LINK, _GET_ROUTE, _GET_QDISC, _GET_FILTER = 18, 26, 38, 46
_GONE = {19: "ENODEV", 2: "ENOENT", 22: "EINVAL: no such hook"}  # what is asked about, when it is asked
_SECONDS = 10
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg
_DESTINATION, _OUT, _GATEWAY, _HOPS, _TABLE, _VIA = 1, 4, 5, 9, 15, 18  # RTA_…
_HOP_SIZE = 8  # of a struct rtnexthop
_LINK_INFO, _INFO_KIND, _PEER_NAMESPACE = 18, 1, 37  # IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_LINK_NETNSID
_KIND, _OPTIONS, _BPF_NAME = 1, 2, 7  # TCA_KIND, TCA_OPTIONS, TCA_BPF_NAME
_BITS = {socket.AF_INET: 32, socket.AF_INET6: 128}
_READ_BYTES = 1 << 18
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK: the kernel chooses by what is asked
_SETTLE = 0.05  # seconds in which what belongs together is said


def host_routes(protocol: int) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    """Address and link of the routes to a single address that a route protocol has. Raises KernelError."""
    for family, bits in _BITS.items():
        ask = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
        for body in _dump(_GET_ROUTE, ask):
            found, length, _, _, _, by, _, _, _ = _ROUTE.unpack_from(body)
            if (found, length, by) == (family, bits, protocol):  # kernels before 4.20 do not choose
                said = attributes(body[_ROUTE.size :])
                if _DESTINATION in said and _OUT in said:
                    yield ip_address(said[_DESTINATION]), _number(said[_OUT])


class Route(NamedTuple):
    """One route. ``kind``: enum rtn_type (1 unicast, 2 local); ``protocol``: who made it; ``gateways``: next hops."""

    destination: IPv4Network | IPv6Network
    table: int
    kind: int
    protocol: int
    gateways: tuple[IPv4Address | IPv6Address, ...]


def routes(family: socket.AddressFamily, protocol: int = 0) -> Iterator[Route]:
    """All routes of an address family (that a route protocol has), of every table. Raises KernelError."""
    for body in _dump(_GET_ROUTE, _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)):
        found, length, _, _, table, by, _, kind, _ = _ROUTE.unpack_from(body)
        if found == family and protocol in (0, by):
            said = attributes(body[_ROUTE.size :])
            first = said.get(_DESTINATION, bytes(_BITS[family] // 8))
            table = _number(said[_TABLE]) if _TABLE in said else table
            yield Route(ip_network((first, length)), table, kind, by, tuple(_gateways(said)))


def _gateways(said: Mapping[int, bytes]) -> Iterator[IPv4Address | IPv6Address]:
    if _GATEWAY in said:
        yield ip_address(said[_GATEWAY])
    if _VIA in said:  # a gateway of the other family: struct rtvia
        yield ip_address(said[_VIA][2:])
    hops = said.get(_HOPS, b"")  # struct rtnexthop, its attributes after it
    while len(hops) >= _HOP_SIZE:
        size = int.from_bytes(hops[:2], sys.byteorder)
        yield from _gateways(attributes(hops[_HOP_SIZE:size]))
        hops = hops[max(_HOP_SIZE, (size + 3) & ~3) :]


def queues() -> dict[int, set[str]]:
    """The kinds of queueing disciplines that each link has. Raises KernelError."""
    found: dict[int, set[str]] = {}
    for body in _dump(_GET_QDISC, _TC.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        found.setdefault(_TC.unpack_from(body)[1], set()).add(_text(attributes(body[_TC.size :])[_KIND]))
    return found


def filters(link: int, hook: int) -> set[str]:
    """The filters of a link at a hook of its clsact: a BPF program's name, else the kind. Raises KernelError."""
    found = set()
    for body in _dump(_GET_FILTER, _TC.pack(socket.AF_UNSPEC, link, 0, hook, 0)):
        said = attributes(body[_TC.size :])
        if _OPTIONS in said:  # the first entry of a filter says only that there is one
            name = attributes(said[_OPTIONS]).get(_BPF_NAME)
            found.add(_text(name) if name else _text(said[_KIND]))
    return found


def leads_into_a_namespace(link: int) -> bool:
    """Whether a link is a veth whose other end is in another network namespace. Raises KernelError."""
    for body in _asked(_GET_LINK, REQUEST, _LINK.pack(0, 0, link, 0, 0)):
        said = attributes(body[_LINK.size :])
        kind = attributes(said.get(_LINK_INFO, b"")).get(_INFO_KIND, b"")
        return _text(kind) == "veth" and _PEER_NAMESPACE in said
    return False


class Notices:
    """Word of what changes, from the kernel; ``groups``: ROUTES, QUEUES. Opened within an event loop's thread."""

    def __init__(self, groups: int) -> None:
        self._socket = opened(socket.NETLINK_ROUTE, _SECONDS)
        self._socket.bind((0, groups))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def heard(self, seconds: float) -> bool:
        """Wait for a change, or so long; whether there was one. What follows at once is heard with it."""
        there = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), there.set)
        try:
            async with asyncio.timeout(seconds):
                await there.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._socket.fileno())
        await asyncio.sleep(_SETTLE)
        while True:
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:  # ENOBUFS: more was said than we could hear
                continue


def _dump(kind: int, ask: bytes) -> Iterator[bytes]:
    return _asked(kind, REQUEST | DUMP, ask)


def _asked(kind: int, flags: int, ask: bytes) -> Iterator[bytes]:
    """The bodies of an answer. What is asked about and is gone has none."""
    with opened(socket.NETLINK_ROUTE, _SECONDS) as sock:
        sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
        sock.send(message(kind, flags, ask))
        while True:
            try:
                data = sock.recv(_READ_BYTES)
            except OSError as error:
                raise KernelError(f"cannot look at links and routes: {error.strerror}") from None
            for one in messages(data):
                if one.ends:
                    if one.status and one.status not in _GONE:
                        raise KernelError(f"cannot look at links and routes: {os.strerror(one.status)}")
                    return
                yield bytes(one.body)
            if flags == REQUEST:
                return


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode()
