"""Reads of the kernel: what an attachment really has, which links are ours, how large a packet may be.

For CHECK, for mending at the daemon's start, and for the MTU. Nothing here changes anything.
"""

import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cni import firewall, routes
from cni.check import Link, Observed
from cni.plan import LINK_GROUP, ROUTE_PROTOCOL
from netplane.config import IPAddress
from netplane.linux import nft
from netplane.linux.namespaces import CLONE_NEWNET, entered_netns

DEFAULT_MTU = 1500
FRESH_SECONDS = 2.0  # reading costs as much as there are links: once for a burst of pods,
READING_SHARE = 100  # and at the most a hundredth of the time
_PEER_ROUTE_PROTOCOL = 98  # the node agent's routes to other nodes' pods
_OUR_LINK = re.compile(r"np[0-9a-f]{12}")
_IFF_UP = 0x1
_PERMANENT = 0x80
_MAIN_TABLE = 254
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


def attachment(link: str, ifname: str, netns: int) -> Observed:
    """Read both sides of the veth pair ``link`` / ``ifname``; ``netns`` is a descriptor. Raises KernelError."""
    table = nft.listing(firewall.FAMILY, firewall.TABLE) or []
    with _socket() as host, _socket(netns) as pod:
        host_index, host_link = _link(host, link)
        pod_index, pod_link = _link(pod, ifname)
        loopback = _link(pod, "lo")[1]
        addresses = pod.get_addr(index=pod_index) if pod_index else ()
        return Observed(
            host_link,
            pod_link,
            loopback is not None and loopback.up,
            frozenset(ip_address(a.get_attr("IFA_ADDRESS")) for a in addresses),
            frozenset(_gateways(pod, pod_index)) if pod_index else frozenset(),
            frozenset(_routed(host, host_index)) if host_index else frozenset(),
            frozenset(_neighbours(host, host_index)) if host_index else frozenset(),
            firewall.observed(table),
            firewall.has_rules(table),
        )


def our_links(known: Container[str] = ()) -> frozenset[str]:
    """Host ends that are there: those ``known``, and others that are ours by name and by group."""
    names = [name for name in routes.link_names().values() if _OUR_LINK.fullmatch(name)]
    with _socket() as host:
        return frozenset(name for name in names if name in known or _is_in_our_group(host, name))


def _is_in_our_group(host: IPRoute, name: str) -> bool:
    entry = _entry(host, name)
    return entry is not None and entry.get_attr("IFLA_GROUP") == LINK_GROUP


def routed_addresses() -> frozenset[tuple[IPAddress, str]]:
    """(pod address, host link) of every host route of ours."""
    names = routes.link_names()
    return frozenset(
        (route.dst, names.get(route.link, ""))
        for route in routes.routes()
        if route.protocol == ROUTE_PROTOCOL
        and route.dst is not None
        and route.length == route.dst.max_prefixlen
    )


def underlay_mtu() -> int:
    """The MTU a pod's packet must fit in: that of the link to the other nodes, encapsulation already taken off.

    That is where the node agent's routes to other nodes lead; before it has any, the default route's link; else
    the smallest of the links that are up; ``DEFAULT_MTU`` where there is none.
    """
    names = routes.link_names()
    main = [route for route in routes.routes() if route.table == _MAIN_TABLE]
    towards_peers = {route.link for route in main if route.protocol == _PEER_ROUTE_PROTOCOL}
    by_default = {route.link for route in main if route.length == 0}
    others = {index for index, name in names.items() if not _OUR_LINK.fullmatch(name)}
    for candidates in (towards_peers, by_default, others):
        found = [routes.mtu(names[index]) for index in candidates if index in names]
        if mtus := [mtu for mtu in found if mtu is not None]:
            return min(mtus)
    return DEFAULT_MTU


class Underlay:
    """The MTU of the underlay, read again when what was read is older than ``FRESH_SECONDS``, and older than
    ``READING_SHARE`` times what the reading took: with thousands of links that is seconds.
    """

    def __init__(
        self, read: Callable[[], int] = underlay_mtu, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._now = read, now
        self._lock = threading.Lock()
        self._mtu, self._until = 0, 0.0

    def mtu(self) -> int:
        """Bytes. Any thread may ask."""
        with self._lock:
            began = self._now()
            if began >= self._until:
                self._mtu, ended = self._read(), self._now()
                self._until = ended + max(FRESH_SECONDS, READING_SHARE * (ended - began))
            return self._mtu


def netns_inode(descriptor: int) -> str:
    """The identity of a namespace while it lives: `device:inode`."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def is_netns(descriptor: int) -> bool:
    """Whether an open file is a network namespace."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def boot_id() -> str:
    """Changes with every boot of the kernel, and so says which rows cannot have anything in it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@contextmanager
def _socket(netns: int | None = None) -> Iterator[IPRoute]:
    if netns is None:
        socket = IPRoute()
    else:
        with entered_netns(netns):
            socket = IPRoute()
    try:
        yield socket
    finally:
        socket.close()


def _link(socket: IPRoute, name: str) -> tuple[int, Link | None]:
    entry = _entry(socket, name)
    if entry is None:
        return 0, None
    up = bool(entry["flags"] & _IFF_UP)
    return entry["index"], Link(name, entry.get_attr("IFLA_ADDRESS"), entry.get_attr("IFLA_MTU"), up)


def _entry(socket: IPRoute, name: str) -> Any | None:
    """What the kernel says of a link; None where there is none, or none any more: its pod may end at any time."""
    try:
        return next(iter(socket.link("get", ifname=name)), None)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def _gateways(pod: IPRoute, index: int) -> Iterator[IPAddress]:
    for family in (2, 10):
        for route in pod.get_routes(family=family, oif=index):
            gateway = route.get_attr("RTA_GATEWAY")
            if route["dst_len"] == 0 and gateway is not None:
                yield ip_address(gateway)


def _our_routes(host: IPRoute) -> Iterator[Any]:
    for family, length in ((2, 32), (10, 128)):
        for route in host.get_routes(family=family):
            if route["proto"] == ROUTE_PROTOCOL and route["dst_len"] == length:
                yield route


def _routed(host: IPRoute, index: int) -> Iterator[IPAddress]:
    return (ip_address(r.get_attr("RTA_DST")) for r in _our_routes(host) if r.get_attr("RTA_OIF") == index)


def _neighbours(host: IPRoute, index: int) -> Iterator[tuple[IPAddress, str]]:
    for entry in host.get_neighbours(ifindex=index):
        mac = entry.get_attr("NDA_LLADDR")
        if entry["state"] & _PERMANENT and mac is not None:
            yield ip_address(entry.get_attr("NDA_DST")), mac
