"""The ebpf data path: sockets of this node are told endpoints; all else is left to the nftables table beneath.

Why two: connect() is seen only of programs that run here. What comes from outside, what no socket hook can decide
(silence, source ranges), and whatever does not run in the node's cgroup goes the way of ``outside``, another data
path that is given the same snapshot. So whatever the hooks let pass is answered, and answered the same.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any

from netplane.errors import KernelError
from netplane.linux import bpf
from proxy.datapath import DataPath, SyncReport
from proxy.diff import diff
from proxy.ebpf import pins, sockets
from proxy.ebpf.hostrouting import programs
from proxy.ebpf.hostrouting.deciding import HostRouting
from proxy.ebpf.hostrouting.shortway import ShortWay
from proxy.ebpf.layout import address_bytes
from proxy.ebpf.pins import Pins
from proxy.ebpf.routes import Route, route_of, service_name
from proxy.ebpf.tables import MAPS, Lost, Tables, read, service_names
from proxy.model import Frontend, IPAddress, NodeFacts, Pool, Protocol, ServicePort, Snapshot, Target
from proxy.targets import copied

MACHINES_MOUNT = Path("/sys/fs/bpf")  # there before us, and not ours to take away
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, kernel 5.14
_LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
MEND_EVERY = 30.0  # seconds after which a sync looks at the hooks again though nothing has changed


@dataclass(frozen=True, slots=True)
class Ending:
    """Conversations with these endpoints end: in so many seconds, or (once it has begun) at that monotonic time."""

    protocol: Protocol
    due: float
    lost: Lost


log = logging.getLogger(__name__)


class EbpfDataPath:
    """See ``proxy.datapath.DataPath``. ``outside`` serves what the hooks do not.

    ``cgroup``: the cgroup v2 directory of the node, whose processes' sockets are told endpoints. ``mount``: where a
    BPF file system is, or is to be, mounted; ``directory``: where on it the pins are. ``host_routing``: how packets
    between this node's pods go. Lives in the node's network namespace.
    """

    def __init__(
        self,
        outside: DataPath,
        *,
        cgroup: Path,
        mount: Path,
        directory: Path,
        host_routing: HostRouting = HostRouting.AUTO,
    ) -> None:
        self.outside = outside
        self._cgroup, self._mount = cgroup, mount
        self._pins = Pins(directory)
        self._short = ShortWay(directory, host_routing)
        self._tables: Tables | None = None
        self._have: Mapping[Frontend, Target] = {}
        self._node: NodeFacts | None = None
        self._mended_at = 0.0
        self._cannot_end = ""
        self._endings: list[Ending] = []
        self._turn = asyncio.Lock()  # what a sync changes, no thread may be reading

    @property
    def name(self) -> str:
        """The mode's name."""
        return "ebpf"

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        """First what lies beneath, then the maps. Raises KernelError naming the step; what was forwarded still is."""
        async with self._turn:
            report = await self.outside.sync(want, look=look)
            try:
                done = await self._sync(want, look=look)
            except KernelError:
                self._forget()  # the next sync reads the kernel
                raise
            self._have = want.targets
            cannot = tuple(filter(None, (self._cannot_end, self._short.problem, self._full)))
            return replace(report, warnings=(*report.warnings, *cannot), done=(*report.done, *done))

    async def observe(self) -> Mapping[Frontend, Target]:
        """What lies beneath says, where maps and hooks agree; where they do not, with the endpoints they have."""
        found = await self.outside.observe()
        routes = await asyncio.to_thread(self._read)
        beside = {frontend: _alone(route) for frontend, route in routes.items() if frontend not in found}
        return beside | {
            frontend: seen
            for frontend, target in found.items()
            if (seen := _seen(target, self._told(frontend, target), routes.get(frontend))) is not None
        }

    async def count(self) -> int:
        """What lies beneath says, less what sockets are to be told and are not."""
        found = await self.outside.count()
        async with self._turn:
            wanted = len(self._tables.routes) if self._tables is not None else 0
        untold = wanted - await asyncio.to_thread(self._told_count) if wanted else 0
        return max(0, found - max(0, untold))

    async def close(self, *, keep: bool) -> None:
        """End. ``keep``: programs, maps and links stay, and go on forwarding."""
        async with self._turn:
            self._forget()
        await asyncio.to_thread(self._short.close)
        if not keep:
            await asyncio.to_thread(remove, self._mount, self._pins.directory)
        await self.outside.close(keep=keep)

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last."""
        return self._have

    @property
    def host_routing(self) -> str:
        """How packets between pods of this node go, and why: ``bpf``, or ``legacy: ...``."""
        return self._short.described

    async def tend(self, changed: bool) -> None:
        """Call it every second or so, and when the node's links or routes have ``changed``. Raises KernelError."""
        if self._tables is not None:
            await asyncio.to_thread(self._short.tend, changed)
        await self.end_due()

    async def end_due(self) -> None:
        """End the connections whose endpoint has left, and whose time to drain is over."""
        if not self._turn.locked():  # else a sync goes on, and does it when it knows where endpoints are
            async with self._turn:
                await self._end_due()

    async def conversations(self) -> list[dict[str, Any]]:
        """The connections of this node's sockets that were told an endpoint, in the form of the other modes."""
        async with self._turn:
            if self._tables is None:
                return []
            return await asyncio.to_thread(sockets.describe, self._tables.maps, self._cgroup)

    def connections(self) -> Mapping[tuple[ServicePort, Protocol], int]:
        """How many each Service port has had."""
        return self._tables.connections() if self._tables is not None else {}

    # --- parts --------------------------------------------------------------------------------------------

    async def _sync(self, want: Snapshot, *, look: bool) -> list[str]:
        """Programs and maps; what was mended, in words."""
        done: list[str] = []
        if self._tables is not None and (look or monotonic() - self._mended_at >= MEND_EVERY):
            done += await asyncio.to_thread(self._mend, self._tables, maps_too=look)
        if self._tables is None:
            gone = await asyncio.to_thread(self._begin, copied(want.targets), want.node)
        else:
            gone = self._follow(self._tables, want)
        if want.node != self._node:
            await asyncio.to_thread(self._settle, self._tables, want.node)
        now = monotonic()
        self._endings += [replace(ending, due=now + ending.due) for ending in gone]
        await self._end_due()
        return done

    async def _end_due(self) -> None:
        now = monotonic()
        due = [ending for ending in self._endings if ending.due <= now]
        if due and self._tables is not None:
            self._endings = [ending for ending in self._endings if ending.due > now]
            await asyncio.to_thread(self._end, self._tables, due)

    def _begin(self, targets: Mapping[Frontend, Target], node: NodeFacts) -> list[Ending]:
        """From whatever the kernel has, to what is wanted; the hooks last, when the maps are true."""
        pins.ensure_mounted(self._mount)
        with pins.programs(self._pins) as made:
            tables = self._tables = Tables({name: made.map(name) for name in MAPS})
            wanted = _routes(targets)
            have = tables.routes
            there = {frontend: target for frontend, target in targets.items() if frontend in have}
            gone = _apply(tables, there, dict.fromkeys(have.keys() - targets.keys()))
            tables.load({frontend: route for frontend, route in wanted.items() if frontend not in have})
            gone += _left_before(tables, targets, self._cgroup)
            self._settle(tables, node)
            pins.attach(self._pins, made, self._cgroup)
        self._short.settle()
        self._mended_at = monotonic()
        return gone

    def _settle(self, tables: Tables | None, node: NodeFacts) -> None:
        """What depends on the node alone."""
        if tables is not None:
            tables.serve_at(_node_port_addresses(node))
        self._node = node

    def _follow(self, tables: Tables, want: Snapshot) -> list[Ending]:
        """What has changed since the last sync."""
        changes = diff(self._have, want.targets)
        waiting = {
            frontend: want.targets[frontend] for frontend in tables.left_out if frontend in want.targets
        }
        pointed = {**waiting, **changes.changed, **changes.added}
        return _apply(tables, pointed, {frontend: self._have.get(frontend) for frontend in changes.removed})

    def _end(self, tables: Tables, endings: Sequence[Ending]) -> None:
        """Abort connections to endpoints that are (still) out. A kernel that cannot is said once, by a warning."""
        try:
            for protocol in Protocol:
                lost = {one for ending in endings if ending.protocol is protocol for one in ending.lost}
                lost = {one for one in lost if tables.lacks(*one)}
                if lost and (ended := sockets.end(tables.maps, self._cgroup, lost, [protocol])):
                    log.info("ended %d %s sockets of endpoints that have left", ended, protocol)
            self._cannot_end = ""
        except KernelError as error:
            self._cannot_end = str(error)

    def _mend(self, tables: Tables, *, maps_too: bool) -> list[str]:
        """Begin anew where somebody has taken a hook or a map away, or changed one; what was found, in words."""
        lost = [f"the hooks {', '.join(hooks)}"] if (hooks := pins.missing_hooks(self._cgroup)) else []
        if not self._pins.maps.is_dir():
            lost.append(f"the maps pinned in {self._pins.maps}")
        elif maps_too and (there := tables.read()) != (told := tables.routes):
            changed = [f for f in {*there, *told} if there.get(f) != told.get(f)]
            lost.append(f"{len(changed)} frontends in the maps")
        if lost:
            self._forget()
        else:
            lost += self._short.settle()
        self._mended_at = monotonic()
        return lost

    def _told(self, frontend: Frontend, target: Target) -> Route | None:
        """What sockets are to be told of it."""
        left_out = self._tables is not None and frontend in self._tables.left_out
        return None if left_out else route_of(frontend, target)

    @property
    def _full(self) -> str:
        number = len(self._tables.left_out) if self._tables is not None else 0
        return f"{number} frontends are left to nftables: the maps of ebpf mode are full" if number else ""

    def _read(self) -> dict[Frontend, Route]:
        maps = self._pins.open_maps()
        if maps is None or pins.missing_hooks(self._cgroup):
            return {}
        try:
            return read(maps)
        finally:
            for one in maps.values():
                one.close()

    def _told_count(self) -> int:
        """How many frontends sockets are told of."""
        held = bpf.pinned_map(self._pins.maps / "frontends")
        if held is None:
            return 0
        try:
            return 0 if pins.missing_hooks(self._cgroup) else sum(1 for _ in held.items())
        finally:
            held.close()

    def _forget(self) -> None:
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        self._have = {}


def remove(mount: Path, directory: Path) -> None:
    """Take everything away; what is not there is fine. Blocking."""
    programs.remove(directory)
    pins.remove(Pins(directory))
    unmount(mount)


def unmount(mount: Path) -> bool:
    """Take away a BPF file system that was mounted for the pins alone, and is empty; whether there was one."""
    return mount != MACHINES_MOUNT and pins.unmount(mount)


def _apply(
    tables: Tables, pointed: Mapping[Frontend, Target], removed: Mapping[Frontend, Target | None]
) -> list[Ending]:
    """Write what differs; which conversations are to end: UDP's at once, TCP's where the Service says when."""
    endings = []
    for frontend, target in (*removed.items(), *pointed.items()):  # what goes makes room
        route = route_of(frontend, target) if frontend in pointed and target is not None else None
        lost = tables.remove(frontend) if route is None else tables.point(frontend, route)
        drain = 0 if frontend.protocol is Protocol.UDP else target.drain if target is not None else None
        if lost and drain is not None:
            endings.append(Ending(frontend.protocol, drain, lost))
    return endings


def _left_before(tables: Tables, targets: Mapping[Frontend, Target], cgroup: Path) -> list[Ending]:
    """The endings that an earlier process did not live to see: sockets with an endpoint that their Service has lost.

    Their time begins anew. Of a Service that has been deleted meanwhile nobody knows any more whether it has a time.
    """
    drains = {
        service_name(target.service, frontend.protocol): 0
        if frontend.protocol is Protocol.UDP
        else target.drain
        for frontend, target in targets.items()
        if frontend.protocol is Protocol.UDP or target.drain is not None
    }
    if not drains:
        return []
    names = dict(service_names(tables.maps["services"]))
    endings = []
    for one in sockets.conversations(tables.maps, cgroup):
        drain = drains.get(names.get(one.service, ""))
        lost = (one.service, one.endpoint.address, one.endpoint.port)
        if drain is not None and tables.lacks(*lost):
            endings.append(Ending(one.asked.protocol, drain, frozenset({lost})))
    return endings


def _routes(targets: Mapping[Frontend, Target]) -> dict[Frontend, Route]:
    routes = ((frontend, route_of(frontend, target)) for frontend, target in targets.items())
    return {frontend: route for frontend, route in routes if route is not None}


def _seen(target: Target, wanted: Route | None, has: Route | None) -> Target | None:
    """A target as clients on this node meet it; None where the maps should serve it and do not."""
    if has == wanted:
        return target
    if has is None:
        return None
    pool = replace(target.inside, endpoints=has.endpoints)
    return replace(target, service=has.service, inside=pool, affinity=has.affinity or None)


def _alone(route: Route) -> Target:
    """What only sockets are told: nobody should be, but the kernel has it."""
    pool = Pool(route.endpoints)
    return Target(route.service, pool, pool, route.affinity or None)


def _node_port_addresses(node: NodeFacts) -> dict[bytes, int]:
    """Where NodePorts are served: everywhere on this node for all, on loopback for the node's own programs."""
    networks = node.node_port_networks

    def serves(address: IPAddress) -> bool:
        return not networks or any(address in network for network in networks)

    here = {address_bytes(address): 0 for address in node.addresses if serves(address)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        cookie = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    return here | {address_bytes(address): cookie for address in _LOOPBACK if serves(address)}
