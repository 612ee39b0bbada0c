"""What every verb works on, in one value."""

from dataclasses import dataclass, field
from functools import partial

from cni import netlink
from cni.bursts import Bursts
from cni.journal import Journal
from cni.kernel import HostSockets
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
    underlay: Underlay = field(default_factory=Underlay)
    sockets: HostSockets = field(default_factory=HostSockets)
    detach: Bursts[tuple[Step, ...], None] = field(init=False)

    def __post_init__(self) -> None:
        """One place where DELs meet."""
        object.__setattr__(self, "detach", Bursts(partial(netlink.detach, self.sockets)))

    def close(self) -> None:
        """Close what it opened itself; the store is its opener's."""
        self.sockets.close()
