"""The netlink message of each step. Nothing here sends anything.

``index`` is that of both ends of the pair; where it is not known, 0, and the host's end is looked up by its name.
"""

import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence

from cni import firewall, templates
from cni.firewall import Element
from cni.lease import Lease
from cni.plan import (
    LINK_GROUP,
    ROUTE_PROTOCOL,
    CreateVeth,
    DefaultRoute,
    DeleteLink,
    Firewall,
    HostRoute,
    Label,
    LinkUp,
    LocalRoute,
    Neighbour,
    NoLinkLocal,
    NoMulticastRoute,
    PodAddress,
    Step,
    Transmit,
    Where,
)
from netplane.errors import KernelError

_LOOPBACK = 1
_NFPROTO_INET = 1
ALIAS_LIMIT = 255  # IFALIASZ less its NUL


def batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps that can be done in one go, in order."""
    for _, together in itertools.groupby(steps, place):
        yield list(together)


def place(step: Step) -> object:
    """Where a step works; what makes or unmakes something that others need stands alone."""
    match step:
        case Neighbour() | LinkUp() | Transmit():
            return step.where
        case Label() | HostRoute() | NoMulticastRoute():
            return Where.HOST
        case NoLinkLocal() | PodAddress() | LocalRoute() | DefaultRoute():
            return Where.POD
        case DeleteLink() | Firewall():
            return (type(step), getattr(step, "adding", False))
        case _:
            return type(step)


def veth(step: CreateVeth, index: int, netns: int) -> bytearray:
    """Both ends get one index that we choose, so that nothing has to be looked up afterwards."""
    names = {"host": step.host, "host_mac": step.host_mac, "pod": step.pod, "pod_mac": step.pod_mac}
    template = templates.veth(len(step.host), len(step.pod.encode()))
    return template.fill(index=index, mtu=step.mtu, group=LINK_GROUP, netns=netns, **names)


def of(step: Step, index: int, *, ipv6: bool) -> bytearray:
    """Of a step that is one message of rtnetlink; ``ipv6``: whether this kernel has it. Raises KernelError."""
    match step:
        case Label():
            text = alias(step.text)
            template = templates.label(len(text.encode()), localnet=step.localnet, ipv6=step.ipv6 and ipv6)
            return template.fill(index=index or _index(step.link), alias=text)
        case NoLinkLocal():
            return templates.no_link_local().fill(index=index)
        case LinkUp():
            return templates.link_up().fill(index=_LOOPBACK if step.link == "lo" else index)
        case Transmit():
            return templates.get_link().fill(index=_end(step, index))
        case NoMulticastRoute():
            return templates.no_multicast_route().fill(index=index or _index(step.link))
        case PodAddress():
            return templates.address(step.address.version).fill(index=index, address=step.address)
        case LocalRoute():
            return templates.local_route(ROUTE_PROTOCOL).fill(index=index, address=step.address)
        case Neighbour():
            template = templates.neighbour(step.address.version)
            return template.fill(index=_end(step, index), address=step.address, mac=step.mac)
        case HostRoute():
            template = templates.host_route(step.address.version, ROUTE_PROTOCOL)
            return template.fill(index=index or _index(step.link), address=step.address)
        case DefaultRoute():  # beside another interface's: a container may have several of ours
            template = templates.default_route(step.gateway.version, ROUTE_PROTOCOL)
            return template.fill(index=index, gateway=step.gateway)
    raise TypeError(f"{step} is no message")


def elements(lease: Lease, *, adding: bool) -> Sequence[bytearray]:
    """Of nftables: a lease's elements."""
    return [_element(adding, element) for element in firewall.of_lease(lease)]


def alias(text: str) -> str:
    """As much of a label as a link can bear."""
    return text.encode()[:ALIAS_LIMIT].decode(errors="ignore")


def _element(adding: bool, element: Element) -> bytearray:
    kind = templates.NFT_NEWSETELEM if adding else templates.NFT_DELSETELEM
    key, value = firewall.packed(element.key), firewall.packed(element.value)
    size = len(value) if adding else 0
    template = templates.element(kind, _NFPROTO_INET, firewall.TABLE, element.name, len(key), size)
    return template.fill(key=key, value=value) if size else template.fill(key=key)


def _end(step: Transmit | Neighbour, index: int) -> int:
    return index if step.where is Where.POD else index or _index(step.link)


def _index(link: str) -> int:
    try:
        return socket.if_nametoindex(link)
    except OSError:
        raise KernelError(f"cannot find the link {link} in the host's network namespace") from None
