"""The userspace data path: keeps the node's plumbing and one listener a frontend true to a snapshot.

Why listeners are closed rather than idle: a frontend that nobody can serve must be refused by the kernel at
once. Why they are kept by the supervisor: a process that dies must not take the node's Services with it.
"""

import asyncio
import os
import socket
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from time import monotonic

from netplane.errors import KernelError
from proxy import routes
from proxy.datapath import SyncReport, Unserved
from proxy.diff import Changes, diff
from proxy.model import Frontend, IPAddress, IPNetwork, NodeFacts, Protocol, Snapshot, Target
from proxy.userspace import observe, plumbing
from proxy.userspace.datagrams import IDLE_QUERY, IDLE_STREAM
from proxy.userspace.demands import Demands
from proxy.userspace.listeners import Cannot, adoptable, kept_name, open_listener, retire
from proxy.userspace.plumbing import Plan
from proxy.userspace.sources import within
from proxy.userspace.traffic import TrafficKey
from proxy.userspace.worker import CONNECT_DEADLINE, Worker

MEND_EVERY = 30.0  # seconds after which a sync looks at the kernel again though nothing has changed


class Keeper(typing.Protocol):
    """Whoever keeps our descriptors for the next process (``netplane.runner.Daemon`` is one)."""

    def store(self, name: str, *descriptors: int) -> None:
        """Keep copies under a name."""

    def unstore(self, name: str) -> None:
        """Forget what is kept under a name."""


class Carrier(typing.Protocol):
    """Whoever carries the traffic: a ``Worker``, or a ``Crew`` of processes with one each."""

    def set_node(self, node: NodeFacts) -> None:
        """Facts that decide whose address an endpoint sees."""

    def point(self, frontend: Frontend, target: Target, sock: socket.socket) -> None:
        """Serve a frontend's clients from ``target`` from now on."""

    def shut(self, frontend: Frontend) -> object:
        """Serve it no longer; its TCP flows go on."""

    def forget(self, ended: Iterable[TrafficKey]) -> None:
        """Counters and affinities end with their Service, once its last flow has ended."""

    @property
    def active(self) -> int:
        """How many flows there are, as of the last ``refresh``."""
        ...

    async def refresh(self) -> None:
        """Ask what is carried."""

    async def describe(self) -> list[dict[str, typing.Any]]:
        """The flows with an endpoint, in words."""
        ...

    async def settled(self) -> None:
        """Until all this is so. Raises KernelError where it cannot be."""

    async def close(self, *, keep: bool) -> None:
        """Carry no more. ``keep``: flows may go on without us, where somebody can carry them."""


class _Nobody:
    """Keeps nothing."""

    def store(self, name: str, *descriptors: int) -> None:
        """Forget at once."""

    def unstore(self, name: str) -> None:
        """Nothing to forget."""


class UserspaceDataPath:
    """See ``proxy.datapath.DataPath``. Lives in the event loop, and the network namespace, of its node.

    ``kept`` are descriptors that an earlier process left; those that still fit are used as they are.
    ``carrier`` is given by whoever wants more than one worker in this very process.
    """

    def __init__(
        self,
        *,
        carrier: Carrier | None = None,
        keeper: Keeper | None = None,
        kept: Mapping[str, Sequence[socket.socket]] | None = None,
        deadline: float = CONNECT_DEADLINE,
        udp_idle: tuple[float, float] = (IDLE_QUERY, IDLE_STREAM),
        by_endpoint: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.carrier = carrier or Worker(deadline=deadline, udp_idle=udp_idle, by_endpoint=by_endpoint)
        self._keeper = keeper or _Nobody()
        self._kept = adoptable(kept or {})
        self._misnamed = set(kept or {}) - {kept_name(frontend) for frontend in self._kept}
        self._clock = clock
        self._sockets: dict[Frontend, socket.socket] = {}
        self._have: Mapping[Frontend, Target] = {}  # what was synced last
        self._missing: set[Frontend] = set()  # of it: what does not work
        self._demands = Demands()
        self._to_keep: list[tuple[str, int | None]] = []
        self._telling: asyncio.Future[None] | None = None
        self.plumbed = True  # False: only what needs no plumbing is wanted, such as loopback addresses
        self._plan: Plan | None = None
        self._mended_at = 0.0
        self._warnings: tuple[str, ...] = ()
        self._others: Mapping[
            IPAddress, str
        ] = {}  # addresses that are another machine's, and how that is known
        self._users: Counter[TrafficKey] = Counter()  # frontends of each Service port

    @property
    def name(self) -> str:
        """The mode's name."""
        return "userspace"

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        """Plumbing first, then listeners. Raises KernelError naming the step; nothing was changed then."""
        if not want.node.addresses:
            raise KernelError(f"cannot forward on node {want.node.name}: it has no address yet")
        before = self._others
        done = await self._ensure_plumbing(self._demands.plan(want), look=look)
        self.carrier.set_node(want.node)
        changes = diff(self._have, want.targets)
        for frontend in changes.removed:
            self._shut(frontend)
            self._missing.discard(frontend)
        self._missing |= _at(before.keys() ^ self._others.keys(), want.targets)
        again = {frontend: want.targets[frontend] for frontend in self._missing}
        unserved = []
        for frontend, target in {**again, **changes.changed, **changes.added}.items():
            cannot = self._point(frontend, target)
            if cannot is None:
                self._missing.discard(frontend)
            else:
                self._missing.add(frontend)  # the next sync tries again
                unserved.append(Unserved(frontend, target.service, cannot.reason, cannot.again))
        if not want.remembered:
            self._drop_unwanted()
        self.carrier.forget(self._unused(changes))
        self._have = want.targets
        await self.carrier.settled()
        await self._tell_keeper()
        counts = (len(changes.added.keys() | again), len(changes.changed), len(changes.removed))
        return SyncReport(want.revision, *counts, tuple(unserved), self._warnings, tuple(done))

    async def observe(self) -> Mapping[Frontend, Target]:
        """The frontends that the kernel really leads to us, or really refuses, with their targets."""
        sockets = {
            Protocol.TCP: await asyncio.to_thread(observe.listening),
            Protocol.UDP: await asyncio.to_thread(observe.receiving),
        }
        places = {protocol: set(listening.values()) for protocol, listening in sockets.items()}
        routed = await asyncio.to_thread(routes.routed)
        networks = [network for network in routed if network.num_addresses > 1]
        singles = {network[0] for network in routed if network.num_addresses == 1}
        found: dict[Frontend, Target] = {}
        for frontend, target in self.targets.items():
            sock = self._sockets.get(frontend)
            if sock is None:
                if (frontend.address, frontend.port) not in places[frontend.protocol]:
                    found[frontend] = target
            elif os.fstat(sock.fileno()).st_ino in sockets[frontend.protocol] and (
                frontend.address in singles or self._reachable(frontend, networks)
            ):
                found[frontend] = target
        return found

    async def count(self) -> int:
        """See ``proxy.datapath.DataPath``: a look at the node's sockets and routes costs little."""
        return len(await self.observe())

    async def close(self, *, keep: bool) -> None:
        """End. ``keep``: listeners stay open where the supervisor has copies, and the plumbing stays."""
        await self.carrier.close(keep=keep)
        await self._tell_keeper()  # while the numbers still mean what they did
        for frontend, sock in list(self._sockets.items()):
            if keep:
                sock.close()
            else:
                self._retire(frontend, sock)
        self._sockets.clear()
        self._have, self._missing = {}, set()
        await self._tell_keeper()
        if not keep:
            await asyncio.to_thread(plumbing.remove)
            self._plan = None

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last, and works."""
        if not self._missing:
            return self._have
        return {f: target for f, target in self._have.items() if f not in self._missing}

    async def _ensure_plumbing(self, plan: Plan, *, look: bool) -> list[str]:
        if not self.plumbed:
            self._plan = None  # it may be taken away meanwhile, and is looked at anew when it is wanted again
            return []
        due = look or self._clock() - self._mended_at >= MEND_EVERY
        if plan is self._plan and not due:
            return []
        led = await asyncio.to_thread(plumbing.ensure, plan)
        self._warnings = tuple(await asyncio.to_thread(plumbing.problems))
        self._plan, self._mended_at, self._others = plan, self._clock(), led.singles.others
        return led.done

    def _point(self, frontend: Frontend, target: Target) -> Cannot | None:
        if another := self._others.get(frontend.address):
            self._shut(frontend)
            return Cannot(another, again=False)
        if target.empty and frontend.protocol in (Protocol.TCP, Protocol.UDP):
            self._shut(frontend)
            return None
        sock: socket.socket | Cannot | None = self._sockets.get(frontend)
        if sock is None:
            sock = self._kept.pop(frontend, None) or open_listener(frontend)
            if isinstance(sock, Cannot):
                return sock
            self._sockets[frontend] = sock
            self._to_keep.append((kept_name(frontend), sock.fileno()))
        assert not isinstance(sock, Cannot)
        self.carrier.point(frontend, target, sock)
        return None

    def _shut(self, frontend: Frontend) -> None:
        sock = self._sockets.pop(frontend, None)
        if sock is not None:
            self.carrier.shut(frontend)
            self._retire(frontend, sock)

    def _retire(self, frontend: Frontend, sock: socket.socket) -> None:
        retire(sock)
        self._to_keep.append((kept_name(frontend), None))

    def _drop_unwanted(self) -> None:
        """Listeners of an earlier process that no frontend wants any more.

        Not before the API has been heard: that process may have learned of them after it last wrote to the disk.
        Until then their clients wait in the kernel's queues.
        """
        for frontend, sock in self._kept.items():
            self._retire(frontend, sock)
        self._kept.clear()
        # What is no listener, or has another name by now, under which it was kept again above.
        self._to_keep += [(name, None) for name in sorted(self._misnamed)]
        self._misnamed.clear()

    def _unused(self, changes: Changes) -> list[TrafficKey]:
        """Service ports that have had their last frontend."""
        touched = set()
        for frontend in {*changes.removed, *changes.changed}:
            key = TrafficKey(self._have[frontend].service, frontend.protocol)
            self._users[key] -= 1
            touched.add(key)
        for frontend, target in {**changes.added, **changes.changed}.items():
            self._users[TrafficKey(target.service, frontend.protocol)] += 1
        unused = [key for key in touched if not self._users[key]]
        for key in unused:
            del self._users[key]
        return unused

    async def _tell_keeper(self) -> None:
        """In order, and in a thread: a supervisor that is slow to read must not hold up the relay."""
        if self._telling is not None:
            await asyncio.wait([self._telling])
        told, self._to_keep = self._to_keep, []
        if told:
            loop = asyncio.get_running_loop()
            self._telling = loop.run_in_executor(None, _tell, self._keeper, told)
            await asyncio.shield(self._telling)  # who waits here may be told to stop, the thread goes on

    def _reachable(self, frontend: Frontend, routed: Sequence[IPNetwork]) -> bool:
        address, node = frontend.address, self._plan.node if self._plan else None
        if address.is_unspecified or address.is_loopback or (node and address in node.addresses):
            return True
        return within(address, routed)


def _at(addresses: AbstractSet[IPAddress], targets: Mapping[Frontend, Target]) -> set[Frontend]:
    """The frontends at these addresses."""
    return {frontend for frontend in targets if frontend.address in addresses} if addresses else set()


def _tell(keeper: Keeper, told: Sequence[tuple[str, int | None]]) -> None:
    for name, descriptor in told:
        if descriptor is None:
            keeper.unstore(name)
        else:
            keeper.store(name, descriptor)
