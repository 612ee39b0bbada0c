"""CHECK as a pure comparison: what a lease promises against what the kernel was seen to hold.

Only what is ours is compared: a later plugin of the chain may have added what it likes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cni import firewall, plan
from cni.lease import Lease
from cni.results import Result
from netplane.config import IPAddress


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel has it."""

    name: str
    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """What one attachment has in the kernel, on both sides."""

    host: Link | None
    pod: Link | None
    loopback_up: bool
    pod_addresses: frozenset[IPAddress]
    pod_gateways: frozenset[IPAddress]
    host_routes: frozenset[IPAddress]
    host_neighbours: frozenset[tuple[IPAddress, str]]
    firewall: frozenset[tuple[str, str]]
    firewall_rules: bool


def differences(lease: Lease, seen: Observed, previous: Result | None) -> list[str]:
    """What is missing or other than promised, in words; empty where all is well."""
    return [*_links(lease, seen), *_pod(lease, seen), *_host(lease, seen), *_reported(lease, previous)]


def _links(lease: Lease, seen: Observed) -> Iterator[str]:
    host_mac, pod_mac = plan.ends(lease)
    ends = (
        (f"link {lease.terms.link} of the host", seen.host, host_mac),
        (f"link {lease.attachment.ifname} of the pod", seen.pod, pod_mac),
    )
    for name, link, mac in ends:
        yield from _link(name, link, mac, lease.terms.mtu)
    if not seen.loopback_up:
        yield "link lo of the pod is down"


def _link(name: str, link: Link | None, mac: str, mtu: int) -> Iterator[str]:
    if link is None:
        yield f"{name} is missing"
        return
    if not link.up:
        yield f"{name} is down"
    if link.mac != mac:
        yield f"{name} has the address {link.mac}, not {mac}"
    if link.mtu != mtu:
        yield f"{name} has MTU {link.mtu}, not {mtu}"


def _pod(lease: Lease, seen: Observed) -> Iterator[str]:
    for address in lease.addresses:
        if address not in seen.pod_addresses:
            yield f"address {address} of the pod is missing"
    for version in sorted({address.version for address in lease.addresses}):
        if plan.GATEWAYS[version] not in seen.pod_gateways:
            yield f"default route of the pod by {plan.GATEWAYS[version]} is missing"


def _host(lease: Lease, seen: Observed) -> Iterator[str]:
    pod_mac = plan.ends(lease)[1]
    for address in lease.addresses:
        if address not in seen.host_routes:
            yield f"route of the host to {address} is missing"
        if (address, pod_mac) not in seen.host_neighbours:
            yield f"neighbour entry of the host for {address} is missing"
    if not seen.firewall_rules:
        yield "rules of nftables table netplane_cni are missing"
    for name, key in sorted(firewall.elements(lease) - seen.firewall):
        yield f"element {key} of nftables {name} is missing"


def _reported(lease: Lease, previous: Result | None) -> Iterator[str]:
    """``prevResult`` must still be about this attachment."""
    if previous is None:
        return
    reported = {address.ip for address in previous.addresses}
    for address in lease.addresses:
        if address not in reported:
            yield f"prevResult does not have the address {address}"
    names = {interface.name for interface in previous.interfaces}
    if previous.interfaces and lease.attachment.ifname not in names:
        yield f"prevResult does not have the interface {lease.attachment.ifname}"
