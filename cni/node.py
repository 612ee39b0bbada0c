"""What every verb works on, in one value."""

from dataclasses import dataclass, field

from cni.journal import Journal
from cni.leases import Leases
from cni.locks import Locks
from cni.observe import Underlay


@dataclass(frozen=True, slots=True)
class Node:
    """This node's store and settings. ``mtu`` None: that of the underlay."""

    leases: Leases
    boot_id: str
    journal: Journal
    mtu: int | None = None
    locks: Locks = field(default_factory=Locks)
    underlay: Underlay = field(default_factory=Underlay)
