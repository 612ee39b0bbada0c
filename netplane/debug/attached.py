"""How a pod is attached to this node: the host's end of its link, and the network namespace at the other end.

A pod is known by its address, and an address is no identity: another cluster on the same machine may use the same
ones. So a namespace counts as the pod's only where a link joins it with ours, by the kernel's numbers for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netplane.debug.facts import Lookup
from netplane.debug.routing import ask
from netplane.errors import KernelError
from netplane.linux.rtnl import rtnl

IFF_UP = 1
OWN = Path("/proc/thread-self/ns/net")


@dataclass(frozen=True, slots=True)
class Inside:
    """A namespace and a process in it. ``link``: the index of our end of the link that has the pod's address."""

    inode: int
    pid: int
    link: int = 0


@dataclass(frozen=True, slots=True)
class Attachment:
    """``device``: the host's end, "" without one; ``routed``: by a route to exactly the pod's address.

    ``inside``: None where no process in the pod's namespace is visible from here.
    """

    device: str
    routed: bool
    up: bool
    inside: Inside | None


def attachment(ipr: IPRoute, address: str) -> Attachment:
    """What this node's kernel has of a pod of this node."""
    device = device_of(ipr, address)
    link = _link(ipr, device) if device else None
    if link is not None and link.get_attr("IFLA_LINK_NETNSID") is not None:
        inside = _at_the_other_end(ipr, link)
    else:  # a link that is down has taken its route along
        inside = _holder(address)
        link = next(iter(ipr.get_links(inside.link)), None) if link is None and inside else link
    name = link.get_attr("IFLA_IFNAME") if link is not None else ""
    return Attachment(name, bool(device), link is not None and bool(link["flags"] & IFF_UP), inside)


def process_in(address: str) -> int:
    """A process in the network namespace of the local pod with this address; 0 where none is visible."""
    with rtnl() as ipr:
        inside = attachment(ipr, address).inside
    return inside.pid if inside else 0


def device_of(ipr: IPRoute, address: str) -> str:
    """The host's end of a local pod's link, by the route to exactly its address; "" without one."""
    route = ask(ipr, Lookup(to=address))
    exact = f"{address}/{ip_address(address).max_prefixlen}"
    return route.device if not route.error and route.network == exact else ""


def _link(ipr: IPRoute, device: str) -> Any:
    (index,) = ipr.link_lookup(ifname=device)
    return next(iter(ipr.get_links(index)))


def _at_the_other_end(ipr: IPRoute, link: Any) -> Inside | None:
    """The namespace of a link's peer: the link has our number for it."""
    for one in _namespaces():
        try:
            if _number(ipr, Path(f"/proc/{one.pid}/ns/net")) == link.get_attr("IFLA_LINK_NETNSID"):
                return one
        except (OSError, NetlinkError):
            continue  # it ended meanwhile
    return None


def _holder(address: str) -> Inside | None:
    """The namespace in which a link has the address, and its other end is with us."""
    for one in _namespaces():
        try:
            with rtnl(f"/proc/{one.pid}/ns/net") as inside:
                indexes = [e["index"] for e in inside.get_addr() if e.get_attr("IFA_ADDRESS") == address]
                for link in (next(iter(inside.get_links(index))) for index in indexes):
                    if link.get_attr("IFLA_LINK_NETNSID") == _number(inside, OWN):
                        return Inside(one.inode, one.pid, link.get_attr("IFLA_LINK"))
        except (OSError, KernelError, NetlinkError):
            continue  # it ended meanwhile
    return None


def _number(ipr: IPRoute, namespace: Path) -> int:
    """What the links of the socket's namespace call another one; negative where none of them leads there."""
    with namespace.open("rb") as opened:
        return int(ipr.get_netnsid(fd=opened.fileno())["nsid"])


def _namespaces() -> Iterator[Inside]:
    """Network namespaces other than our own, once each, with a process in it."""
    seen = {OWN.stat().st_ino}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inode = (entry / "ns/net").stat().st_ino
            except OSError:
                continue  # it ended meanwhile
            if inode not in seen:
                seen.add(inode)
                yield Inside(inode, int(entry.name))
