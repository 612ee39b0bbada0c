"""What every verb works on, in one value."""

from dataclasses import dataclass, field

from cni import netlink
from cni.bursts import Bursts
from cni.journal import Journal
from cni.leases import Leases
from cni.locks import Locks
from cni.observe import Underlay
from cni.plan import Step


@dataclass(frozen=True, slots=True)
class Node:
    """This node's store and settings. ``mtu`` None: that of the underlay; ``detach`` does the steps of many DELs."""

    leases: Leases
    boot_id: str
    journal: Journal
    mtu: int | None = None
    locks: Locks = field(default_factory=Locks)
    detach: Bursts[tuple[Step, ...], None] = field(default_factory=lambda: Bursts(netlink.detach))
    underlay: Underlay = field(default_factory=Underlay)
