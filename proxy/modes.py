"""The data paths there are, and the one that this node uses.

Why the relay is part of every mode: the kernel cannot translate a connection to ::1, and one to 127.0.0.1 only with a
setting that opens the node to its neighbours (route_localnet). So a NodePort at a loopback address is a socket of ours.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_address
from time import monotonic
from typing import Any

from netplane.config import Paths
from netplane.errors import KernelError, NetplaneError
from netplane.linux.rtmessages import QUEUES, ROUTES, Notices
from proxy.datapath import DataPath, SyncReport
from proxy.diff import diff
from proxy.ebpf import datapath as hooks
from proxy.ebpf.datapath import EbpfDataPath
from proxy.ebpf.hostrouting.deciding import HostRouting
from proxy.ebpf.probe import where
from proxy.model import Frontend, IPAddress, NodeFacts, Protocol, ServicePort, Snapshot, Target
from proxy.nftables import flows as translated
from proxy.nftables import leaving
from proxy.nftables.datapath import NftablesDataPath
from proxy.targets import Targets
from proxy.unheard import Unheard
from proxy.userspace import plumbing
from proxy.userspace.datapath import UserspaceDataPath

log = logging.getLogger(__name__)

LOOPBACK: Mapping[int, IPAddress] = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


class Mode(StrEnum):
    """The data paths by name; ``auto`` stands for the best that a node's kernel can do (``proxy.choice``)."""

    AUTO = "auto"
    USERSPACE = "userspace"
    NFTABLES = "nftables"
    EBPF = "ebpf"


class Trace(StrEnum):
    """What data paths leave in the kernel; one may be shared by several modes."""

    RELAY = "relay"
    TABLE = "table"
    HOOKS = "hooks"


USES: Mapping[Mode, frozenset[Trace]] = {
    Mode.USERSPACE: frozenset({Trace.RELAY}),
    Mode.NFTABLES: frozenset({Trace.TABLE}),
    Mode.EBPF: frozenset({Trace.TABLE, Trace.HOOKS}),
}


def _with_hooks(paths: Paths, routing: HostRouting) -> DataPath:
    at = where(paths)
    return EbpfDataPath(
        NftablesDataPath(), cgroup=at.cgroup, mount=at.mount, directory=at.directory, host_routing=routing
    )


KERNEL: Mapping[Mode, Callable[[Paths, HostRouting], DataPath]] = {
    Mode.NFTABLES: lambda _paths, _routing: NftablesDataPath(),
    Mode.EBPF: _with_hooks,
}
SETTLE = 1.0  # seconds in which a handshake that began at a listener of ours ends there
TEND_EVERY = (
    1.0  # seconds between two looks whether a time to drain is over, or the kernel's tables have changed
)
LEAVING_EVERY = 2.0  # seconds between two looks whether the last connection of a mode that was left has ended


class Forwarding:
    """See ``proxy.datapath.DataPath``: the relay alone, or a kernel's data path with the relay at loopback.

    ``switch`` changes the mode while connections go on: the new one serves before the old one is asked to leave, and
    what the old one carries is left to it until it ends (``leave_behind``).
    """

    def __init__(
        self,
        mode: Mode,
        relay: UserspaceDataPath,
        paths: Paths | None = None,
        host_routing: HostRouting = HostRouting.AUTO,
        *,
        endpoint_metrics: bool = False,
    ) -> None:
        self.mode = mode
        self.relay = relay
        self._paths = paths or Paths()
        self._host_routing = host_routing
        self._endpoint_metrics = endpoint_metrics
        self._kernel = self._made(mode)
        self._loopback = Loopback()
        self._unheard = self._unheard_in(mode)
        self._want: Snapshot | None = None
        self._lock = asyncio.Lock()
        self._settled_at = 0.0
        self._leaving: set[Trace] = set()
        self._left = asyncio.Event()
        self._begun = False

    @property
    def name(self) -> str:
        """The mode's name."""
        return self.mode.value

    @property
    def leaving(self) -> list[str]:
        """What of other modes is still needed by connections that they carry."""
        return sorted(self._leaving)

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last, and works."""
        return self.relay.targets if self._kernel is None else self._kernel.targets

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        """The kernel first. Raises KernelError naming the step."""
        async with self._lock:
            report = await self._sync(want, self._kernel, look=look)
            self._want = want
            warnings = (*report.warnings, *self._unheard.of(want.targets))
            if not self._begun:  # the process before us may have had another mode
                self._begun = True
                self._leave_all_but(self.mode)
            return replace(report, warnings=warnings)

    async def switch(self, mode: Mode) -> str:
        """Serve by another data path; what was done, in words. Raises KernelError: then nothing has changed."""
        async with self._lock:
            if mode is self.mode:
                return f"mode is {mode} already"
            if self._want is None:
                raise KernelError(f"cannot switch to mode {mode}: nothing is forwarded yet", "Try again")
            before, kernel = self.name, self._made(mode)
            try:
                report = await self._sync(self._want, kernel, settling=True)
            except NetplaneError:
                if kernel is not None:
                    await kernel.close(keep=True)
                self._leave_all_but(self.mode)
                raise
            left, self._kernel, self.mode = self._kernel, kernel, mode
            self._unheard = self._unheard_in(mode)
            if left is not None:
                await left.close(keep=True)
            self._settled_at = monotonic() + SETTLE
            self._leave_all_but(mode)
        done = f"mode {mode} serves; connections of mode {before} go on until they end"
        if self.host_routing:
            done += f"; host routing is {self.host_routing}"
        done += "".join(f"; {warning}" for warning in report.warnings)
        done += "".join(f"; not served: {entry}" for entry in report.unserved)
        log.info("%s", done)
        return done

    async def observe(self) -> Mapping[Frontend, Target]:
        """What is being forwarded, as the kernel tells it."""
        return await (self.relay if self._kernel is None else self._kernel).observe()

    async def count(self) -> int:
        """How many frontends that are."""
        return await (self.relay if self._kernel is None else self._kernel).count()

    async def counted(self) -> tuple[int, int]:
        """How many frontends are forwarded, as the kernel tells it, and how many should be.

        Where a sync goes on meanwhile nobody can say the second, so it is the first.
        """
        want, found = self._want, await self.count()
        moved = self._lock.locked() or self._want is not want
        return found, found if moved else len(self.targets)

    async def told(self) -> Mapping[Frontend, Target]:
        """For tools: what the kernel says; of the relay, what it was told and what works."""
        return self.targets if self._kernel is None else await self._kernel.observe()

    async def translated(self) -> list[dict[str, Any]]:
        """The connections that the kernel sends to endpoints, in words; also those of a mode that was left."""
        told = await self._kernel.conversations() if isinstance(self._kernel, EbpfDataPath) else []
        if self._kernel is None and Trace.TABLE not in self._leaving:
            return told
        return told + await asyncio.to_thread(translated.describe)

    @property
    def connections(self) -> Mapping[tuple[ServicePort, Protocol], int]:
        """How many each Service port has had, where the kernel counts them."""
        return self._kernel.connections() if isinstance(self._kernel, EbpfDataPath) else {}

    @property
    def host_routing(self) -> str:
        """How packets between pods of this node go, and why; "" in the modes that have no choice."""
        return self._kernel.host_routing if isinstance(self._kernel, EbpfDataPath) else ""

    async def tend(self) -> None:
        """Until cancelled: what the kernel is to be told between two syncs, as pods come and go, and time passes."""
        with Notices(ROUTES | QUEUES) as notices:
            while True:
                changed = await notices.heard(TEND_EVERY)
                try:
                    if isinstance(self._kernel, EbpfDataPath):
                        await self._kernel.tend(changed)
                except NetplaneError as error:
                    log.warning("cannot tend to mode %s, trying again: %s", self.name, error)

    async def close(self, *, keep: bool) -> None:
        """End it."""
        await self.relay.close(keep=keep)  # while the routes are there that its sockets are closed by
        if self._kernel is not None:
            await self._kernel.close(keep=keep)

    async def leave_behind(self) -> None:
        """Until cancelled: take away what other modes have left, once the connections that need it have ended."""
        while True:
            await self._left.wait()
            self._left.clear()
            await asyncio.sleep(max(0.0, self._settled_at - monotonic()))
            while self._leaving:
                try:
                    async with self._lock:
                        await self._leave_one_step()
                except NetplaneError as error:
                    log.warning("cannot leave what another mode needs no more, trying again: %s", error)
                if self._leaving:
                    await asyncio.sleep(LEAVING_EVERY)

    async def _sync(
        self, want: Snapshot, kernel: DataPath | None, *, settling: bool = False, look: bool = False
    ) -> SyncReport:
        if kernel is None:
            self.relay.plumbed = True
            return await self.relay.sync(want, look=look)
        report = await kernel.sync(want, look=look)
        if settling or monotonic() < self._settled_at:
            return report  # listeners stay for those who are in their queues
        self.relay.plumbed = False
        beside = await self.relay.sync(replace(want, targets=self._loopback.of(want)))
        return replace(report, unserved=(*report.unserved, *beside.unserved))

    def _made(self, mode: Mode) -> DataPath | None:
        return KERNEL[mode](self._paths, self._host_routing) if mode in KERNEL else None

    def _unheard_in(self, mode: Mode) -> Unheard:
        return Unheard(mode, endpoint_metrics=self._endpoint_metrics)

    def _leave_all_but(self, mode: Mode) -> None:
        self._leaving = set(Trace) - USES[mode]
        self._left.set()

    async def _leave_one_step(self) -> None:
        if self._kernel is not None and self._want is not None:
            await self._sync(self._want, self._kernel)  # listeners go now
        for trace in list(self._leaving):
            if await self._leave(trace):
                self._leaving.discard(trace)

    async def _leave(self, trace: Trace) -> bool:
        match trace:
            case Trace.RELAY:
                if await self._relayed():
                    return False
                await asyncio.to_thread(plumbing.remove_own)
                return True
            case Trace.TABLE:
                return await asyncio.to_thread(leaving.leave)
            case Trace.HOOKS:  # nothing needs them: what was told an endpoint speaks to it
                await asyncio.to_thread(hooks.remove, self._paths.bpf_mount, self._paths.bpf_root)
                return True

    async def _relayed(self) -> int:
        """How many flows of the relay need its plumbing: all but those at loopback addresses."""
        carrier = self.relay.carrier
        await carrier.refresh()
        beside = [flow for flow in await carrier.describe() if _is_loopback(flow["frontend"])]
        return carrier.active - len(beside)


def _is_loopback(frontend: str) -> bool:
    return frontend.startswith((f"{LOOPBACK[4]}:", f"[{LOOPBACK[6]}]:"))


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
