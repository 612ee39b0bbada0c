"""What must be done in the kernel for an ADD, and what undoes it, as values. Nothing here does anything.

The network of a pod is point to point: a veth pair whose far end is made in the pod's namespace, one address
with a full-length prefix, a default route to a link-local gateway that needs no address on the host, and a host
route to the pod. Both neighbour entries are permanent, so the first packet waits for no ARP, and a pod that
answers for another's address is not asked.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from cni.bandwidth import Bucket
from cni.lease import Lease
from cni.protocol import Attachment
from cni.results import Address, Interface, Result, Route
from netplane.config import IPAddress

GATEWAYS: dict[int, IPAddress] = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::1")}
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
ROUTE_PROTOCOL = 97
IPV6_MTU = 1280  # RFC 8200: the kernel has no IPv6 on links below
LINK_GROUP = 97  # given in the message that makes the link: ours from its first instant, alias or not
_ROUTES = {v: Route(ip_network(text), GATEWAYS[v]) for v, text in ((4, "0.0.0.0/0"), (6, "::/0"))}


class Where(StrEnum):
    """The namespace a step works in."""

    HOST = "host"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class CreateVeth:
    """Both ends in one message, down, the pod's made where it belongs (moving it would cost 15 ms)."""

    host: str
    host_mac: str
    pod: str
    pod_mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Label:
    """IFLA_ALIAS of the host's end: whoever runs `ip link` reads which container it is. In the same message the
    link's IPv4 settings: forward, filter by reverse path, accept no redirects; ``localnet``: carry 127.0.0.1.

    ``ipv6``: the link can have addresses of that family, and needs none. What is said before it is up costs little;
    afterwards the kernel would look through all routes for what the change means to them.
    """

    link: str
    text: str
    localnet: bool
    ipv6: bool


@dataclass(frozen=True, slots=True)
class NoLinkLocal:
    """A link of the pod that gets no IPv6 address by itself, and so asks nobody whether it is taken."""

    link: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Bring up a link. The host's end before the pod's, which then has its peer from its first instant."""

    where: Where
    link: str


@dataclass(frozen=True, slots=True)
class Transmit:
    """Have an end send from now on. Its carrier came when the pod's end came up, and until the kernel's link watch has
    run for it, packets to the pod are dropped in silence. Asking for the link runs it (rtnl_getlink, since 6.8).

    The pod's end transmits anyhow, but waits in the link watch's list, which lets go of a hundred such a second and is
    looked through, under the lock for links, whenever any link comes up (__linkwatch_run_queue).
    """

    where: Where
    link: str


@dataclass(frozen=True, slots=True)
class NoMulticastRoute:
    """The host's end without the route to ff00::/8 that came with its carrier (addrconf_add_mroute): the host sends
    its pods nothing by it, and with each link the kernel would look through those of all the others. Absent is fine.
    """

    link: str


@dataclass(frozen=True, slots=True)
class PodAddress:
    """Usable at once: IPv6 without duplicate address detection, nobody else is on the link."""

    link: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry."""

    where: Where
    link: str
    address: IPAddress
    mac: str


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """The pod takes what is sent to this IPv6 address of its own. The kernel's own route for that comes from a work
    queue, some time after the address (addrconf_dad_work), DAD or not; until then packets are dropped.
    """

    link: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class HostRoute:
    """The host's route to one address, on the link."""

    link: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """The pod's, by a gateway that is on the link although no prefix says so."""

    link: str
    gateway: IPAddress


@dataclass(frozen=True, slots=True)
class Setting:
    """A sysctl of the host's namespace; skipped where the kernel was built without IPv6 and it is one of those."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Firewall:
    """The elements of a lease added or taken away, in one nftables transaction."""

    adding: bool
    lease: Lease


@dataclass(frozen=True, slots=True)
class Shape:
    """A token bucket for what leaves by a link."""

    where: Where
    link: str
    bucket: Bucket


@dataclass(frozen=True, slots=True)
class ForgetFlows:
    """UDP flows towards these ports of the node: they were translated, or not, before the mapping changed."""

    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """The host's end, and with it the pod's end, addresses, routes and neighbours. Absent is fine."""

    link: str


Step = (
    CreateVeth
    | Label
    | NoLinkLocal
    | LinkUp
    | Transmit
    | NoMulticastRoute
    | PodAddress
    | Neighbour
    | LocalRoute
    | HostRoute
    | DefaultRoute
    | Setting
    | Firewall
    | Shape
    | ForgetFlows
    | DeleteLink
)


def link_name(attachment: Attachment) -> str:
    """The host's end: `np` and 12 hexadecimal digits of the attachment's identity."""
    return f"np{attachment.digest()[:12]}"


def label(attachment: Attachment) -> str:
    """What whoever runs `ip link` reads of the host's end."""
    return f"netplane {attachment}"


def macs(attachment: Attachment) -> tuple[str, str]:
    """(host, pod): chosen by us, so that neighbour entries are known before the links are."""
    digest = attachment.digest()
    pairs = [digest[i : i + 2] for i in range(12, 32, 2)]
    return ":".join(["02", *pairs[:5]]), ":".join(["06", *pairs[5:10]])


def ends(lease: Lease) -> tuple[str, str]:
    """(host, pod): the link addresses of an attachment."""
    host, pod = macs(lease.attachment)
    return host, lease.terms.mac or pod


def attach(lease: Lease) -> tuple[Step, ...]:
    """From nothing to a pod that can talk, in order."""
    link, pod_link = lease.terms.link, lease.attachment.ifname
    host_mac, pod_mac = ends(lease)
    versions = sorted({address.version for address in lease.addresses})
    return (
        CreateVeth(link, host_mac, pod_link, pod_mac, lease.terms.mtu),
        *((Setting(_FORWARDING[6], "1"),) if 6 in versions else ()),
        Label(link, label(lease.attachment), bool(lease.terms.ports), _has_ipv6(lease)),
        LinkUp(Where.HOST, link),
        LinkUp(Where.POD, "lo"),
        *((NoLinkLocal(pod_link),) if _has_ipv6(lease) and 6 not in versions else ()),
        LinkUp(Where.POD, pod_link),
        Transmit(Where.POD, pod_link),
        *(PodAddress(pod_link, address) for address in lease.addresses),
        *(LocalRoute(pod_link, address) for address in lease.addresses if address.version == 6),
        *(Neighbour(Where.POD, pod_link, GATEWAYS[v], host_mac) for v in versions),
        *(DefaultRoute(pod_link, GATEWAYS[v]) for v in versions),
        *host_side(lease),
        Transmit(Where.HOST, link),
        *((NoMulticastRoute(link),) if _has_ipv6(lease) else ()),
        *_shapes(lease),
        Firewall(True, lease),
        *_flows(lease),
    )


def host_side(lease: Lease) -> tuple[Step, ...]:
    """What the host needs to reach the pod: also what mending puts back."""
    link, pod_mac = lease.terms.link, ends(lease)[1]
    return (
        *(Neighbour(Where.HOST, link, address, pod_mac) for address in lease.addresses),
        *(HostRoute(link, address) for address in lease.addresses),
    )


def forwarding(leases: Iterable[Lease]) -> list[str]:
    """The settings of the host without which these pods are reached from nowhere but the host."""
    versions = {address.version for lease in leases for address in lease.addresses} | {4}
    return [_FORWARDING[version] for version in sorted(versions)]


def detach(lease: Lease) -> tuple[Step, ...]:
    """From any state an ADD can have left to nothing. The firewall last: no packet leaves unmasked."""
    return (DeleteLink(lease.terms.link), Firewall(False, lease), *_flows(lease))


def _shapes(lease: Lease) -> Iterator[Shape]:
    """What the pod receives leaves by the host's end, what it sends by its own: both go with the link."""
    asked = lease.terms.bandwidth
    if asked is not None and asked.ingress is not None:
        yield Shape(Where.HOST, lease.terms.link, asked.ingress)
    if asked is not None and asked.egress is not None:
        yield Shape(Where.POD, lease.attachment.ifname, asked.egress)


def _flows(lease: Lease) -> tuple[ForgetFlows, ...]:
    ports = frozenset(mapping.host_port for mapping in lease.terms.ports if mapping.protocol == "udp")
    return (ForgetFlows(ports),) if ports else ()


def undo(step: Step, lease: Lease) -> Step | None:
    """What takes one step back; None for what goes with its link."""
    match step:
        case CreateVeth():
            return DeleteLink(step.host)
        case Firewall():
            return Firewall(False, lease)
        case _:
            return None


def result(lease: Lease, dns: Mapping[str, Any], netns: str) -> Result:
    """What the runtime is told: exactly what ``attach`` made."""
    host_mac, pod_mac = ends(lease)
    mtu = lease.terms.mtu
    versions = sorted({address.version for address in lease.addresses})
    return Result(
        interfaces=(
            Interface(lease.terms.link, host_mac, mtu=mtu),
            Interface(lease.attachment.ifname, pod_mac, netns, mtu=mtu),
        ),
        addresses=tuple(
            Address(address, address.max_prefixlen, GATEWAYS[address.version], 1)
            for address in lease.addresses
        ),
        routes=tuple(_ROUTES[v] for v in versions),
        dns=dns,
    )


def _has_ipv6(lease: Lease) -> bool:
    return lease.terms.mtu >= IPV6_MTU
