"""Makes leases and kernel agree again: at the daemon's start, and when an operator asks.

Rows of another boot, rows whose host link is gone (the kernel takes it with the pod's namespace), and rows that
an ADD or a DEL cut short are undone and freed. Links of ours that no row knows are removed. What the host lost
of a live attachment (its route, its nftables elements) is put back. Running pods are not touched.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cni import firewall, netlink, observe, plan
from cni.lease import Lease, State
from cni.node import Node
from netplane.config import IPAddress
from netplane.errors import NetplaneError
from netplane.linux import nft, sysctl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done: attachments freed, links removed, attachments whose host side was put back, failures."""

    freed: tuple[str, ...] = ()
    removed_links: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def mend(node: Node) -> Mended:
    """Idempotent. Raises NetplaneError only where nothing can be read; single failures are reported."""
    with node.locks.alone():
        sysctl.write("net.ipv4.ip_forward", "1")
        links = observe.our_links()
        leases = node.leases.all()
        report = _Report()
        for lease in leases:
            if is_stale(lease, links, node.boot_id):
                report.attempt(report.freed, str(lease.attachment), partial(_free, lease, node))
        for link in sorted(links - {lease.terms.link for lease in leases}):
            report.attempt(report.removed, link, partial(netlink.apply, [plan.DeleteLink(link)]))
        kept = node.leases.all()
        nft.apply(firewall.rebuild(kept))
        routed = observe.routed_addresses()
        for lease in kept:
            if lease.state is State.LIVE and not wanted_routes(lease) <= routed:
                report.attempt(
                    report.restored, str(lease.attachment), partial(netlink.apply, plan.host_side(lease))
                )
    mended = report.mended()
    if mended != Mended():
        log.info("mended: %s", mended)
    return mended


def is_stale(lease: Lease, links: frozenset[str], boot_id: str) -> bool:
    """Whether nothing can be using it: cut short, of another boot, or its host link is gone."""
    return lease.state is not State.LIVE or lease.terms.boot_id != boot_id or lease.terms.link not in links


def wanted_routes(lease: Lease) -> frozenset[tuple[IPAddress, str]]:
    """(pod address, host link) of the host routes a lease must have."""
    return frozenset((address, lease.terms.link) for address in lease.addresses)


def _free(lease: Lease, node: Node) -> None:
    netlink.apply(plan.detach(lease))
    node.leases.release(lease.attachment)


class _Report:
    """Collects what was done, and goes on past what failed."""

    def __init__(self) -> None:
        self.freed: list[str] = []
        self.removed: list[str] = []
        self.restored: list[str] = []
        self._failed: list[str] = []

    def attempt(self, done: list[str], name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except NetplaneError as error:
            self._failed.append(f"{name}: {error}")
        else:
            done.append(name)

    def mended(self) -> Mended:
        return Mended(tuple(self.freed), tuple(self.removed), tuple(self.restored), tuple(self._failed))
