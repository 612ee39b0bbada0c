"""The data paths there are, and the one that this node uses.

Why the relay is part of every mode: the kernel cannot translate a connection to ::1, and one to 127.0.0.1 only with a
setting that opens the node to its neighbours (route_localnet). So a NodePort at a loopback address is a socket of ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_address

from proxy.datapath import DataPath, SyncReport
from proxy.diff import diff
from proxy.model import Frontend, IPAddress, NodeFacts, Protocol, Snapshot, Target
from proxy.nftables.datapath import NftablesDataPath
from proxy.targets import Targets
from proxy.userspace.datapath import UserspaceDataPath

LOOPBACK: Mapping[int, IPAddress] = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


class Mode(StrEnum):
    """The data paths by name."""

    USERSPACE = "userspace"
    NFTABLES = "nftables"


KERNEL: Mapping[Mode, Callable[[], DataPath]] = {Mode.NFTABLES: NftablesDataPath}


class Forwarding:
    """See ``proxy.datapath.DataPath``: the relay alone, or a kernel's data path with the relay at loopback."""

    def __init__(self, mode: Mode, relay: UserspaceDataPath) -> None:
        self.mode = mode
        self.relay = relay
        self._kernel = KERNEL[mode]() if mode in KERNEL else None
        self._loopback = Loopback()

    @property
    def name(self) -> str:
        """The mode's name."""
        return self.mode.value

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last, and works."""
        return self.relay.targets if self._kernel is None else self._kernel.targets

    async def sync(self, want: Snapshot) -> SyncReport:
        """The kernel first. Raises KernelError naming the step."""
        self.relay.plumbed = self._kernel is None
        if self._kernel is None:
            return await self.relay.sync(want)
        report = await self._kernel.sync(want)
        beside = await self.relay.sync(replace(want, targets=self._loopback.of(want)))
        return replace(report, unserved=(*report.unserved, *beside.unserved))

    async def observe(self) -> Mapping[Frontend, Target]:
        """What is being forwarded, as the kernel tells it."""
        return await (self.relay if self._kernel is None else self._kernel).observe()

    async def close(self, *, keep: bool) -> None:
        """End it."""
        if self._kernel is not None:
            await self._kernel.close(keep=keep)
        await self.relay.close(keep=keep)


class Loopback:
    """The NodePorts of a snapshot at this node's loopback addresses, kept up at the cost of what changed."""

    def __init__(self) -> None:
        self._seen: Mapping[Frontend, Target] = {}
        self._node: NodeFacts | None = None
        self._targets = Targets()

    def of(self, want: Snapshot) -> Targets:
        """Its loopback frontends."""
        if self._node != want.node:
            self._seen, self._targets, self._node = {}, Targets(), want.node
        changes = diff(self._seen, want.targets)
        edit: dict[Frontend, Target | None] = {}
        for frontend in changes.removed:
            edit |= dict.fromkeys(self._at(frontend, want.node))
        for frontend, target in (*changes.changed.items(), *changes.added.items()):
            edit |= dict.fromkeys(self._at(frontend, want.node), target)
        self._seen = want.targets
        if edit:
            self._targets = self._targets.derive(edit)
        return self._targets

    @staticmethod
    def _at(frontend: Frontend, node: NodeFacts) -> list[Frontend]:
        address = LOOPBACK[frontend.address.version]
        networks = node.node_port_networks
        chosen = not networks or any(address in net for net in networks if net.version == address.version)
        if not frontend.address.is_unspecified or not chosen or frontend.protocol is Protocol.SCTP:
            return []
        return [Frontend(address, frontend.port, frontend.protocol)]
