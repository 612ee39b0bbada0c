"""Makes leases and kernel agree again: at the daemon's start, and when an operator asks.

DELs that were promised while the daemon was down are done first. Rows of another boot, rows whose host link is
gone (the kernel takes it with the pod's namespace), and rows that an ADD or a DEL cut short are undone and freed.
Links of ours that no row knows are removed. What the host lost of a live attachment (its route, its nftables
elements) is put back. Running pods are not touched.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cni import firewall, netlink, observe, plan
from cni.lease import Lease, State
from cni.node import Node
from cni.protocol import Attachment
from netplane.config import IPAddress
from netplane.errors import NetplaneError
from netplane.linux import nft, sysctl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done: attachments detached as promised while the daemon was down, attachments freed, links removed,
    attachments whose host side was put back, failures.
    """

    promised: tuple[str, ...] = ()
    freed: tuple[str, ...] = ()
    removed_links: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def mend(node: Node) -> Mended:
    """Idempotent. Raises NetplaneError only where nothing can be read; single failures are reported."""
    with node.locks.alone():
        for name in plan.forwarding(node.leases.all()):
            sysctl.write(name, "1")
        links = observe.our_links({lease.terms.link for lease in node.leases.all()})
        report = _Report()
        report.promised, report.failed = node.journal.keep(partial(_detach, node=node))
        leases = node.leases.all()
        for lease in leases:
            if is_stale(lease, links, node.boot_id):
                report.attempt(report.freed, str(lease.attachment), partial(_free, lease, node))
        for link in sorted(links - {lease.terms.link for lease in leases}):
            report.attempt(
                report.removed, link, partial(netlink.apply, [plan.DeleteLink(link)], node.sockets)
            )
        kept = node.leases.all()
        nft.apply(firewall.rebuild(kept))
        routed = observe.routed_addresses()
        for lease in kept:
            if lease.state is State.LIVE and not wanted_routes(lease) <= routed:
                report.attempt(
                    report.restored,
                    str(lease.attachment),
                    partial(netlink.apply, plan.host_side(lease), node.sockets),
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


def _detach(attachment: Attachment, node: Node) -> None:
    lease = node.leases.begin_release(attachment)
    if lease is not None:
        _free(lease, node)


def _free(lease: Lease, node: Node) -> None:
    netlink.apply(plan.detach(lease), node.sockets)
    node.leases.release(lease.attachment)


class _Report:
    """Collects what was done, and goes on past what failed."""

    def __init__(self) -> None:
        self.promised: list[str] = []
        self.freed: list[str] = []
        self.removed: list[str] = []
        self.restored: list[str] = []
        self.failed: list[str] = []

    def attempt(self, done: list[str], name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except NetplaneError as error:
            self.failed.append(f"{name}: {error}")
        else:
            done.append(name)

    def mended(self) -> Mended:
        return Mended(
            *(tuple(done) for done in (self.promised, self.freed, self.removed, self.restored, self.failed))
        )
