"""The userspace data path: keeps the node's plumbing and one listener a frontend true to a snapshot.

Why listeners are closed rather than idle: a frontend that nobody can serve must be refused by the kernel at
once. Why they are kept by the supervisor: a process that dies must not take the node's Services with it.
"""

import asyncio
import logging
import os
import socket
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from time import monotonic

from netplane.errors import KernelError
from proxy import routes
from proxy.balance import Affinity, Ejections
from proxy.datapath import SyncReport, Unserved
from proxy.diff import Changes, diff
from proxy.model import Frontend, IPNetwork, Protocol, ServicePort, Snapshot, Target, joined
from proxy.userspace import handover, observe, plumbing
from proxy.userspace.datagrams import IDLE_QUERY, IDLE_STREAM, Datagrams, Exchange
from proxy.userspace.demands import Demands
from proxy.userspace.dialing import Dialer
from proxy.userspace.engine import Engine
from proxy.userspace.flow import Flow
from proxy.userspace.listeners import Cannot, Listener, adoptable, kept_name, open_listener, retire
from proxy.userspace.plumbing import Plan
from proxy.userspace.poller import Poller
from proxy.userspace.sources import within
from proxy.userspace.traffic import Traffic

log = logging.getLogger(__name__)

TrafficKey = tuple[ServicePort, Protocol]
CONNECT_DEADLINE = 5.0  # seconds in which a client's connection must find an endpoint
MEND_EVERY = 30.0  # seconds after which a sync looks at the kernel again though nothing has changed


class Keeper(typing.Protocol):
    """Whoever keeps our descriptors for the next process (``netplane.runner.Daemon`` is one)."""

    def store(self, name: str, *descriptors: int) -> None:
        """Keep copies under a name."""

    def unstore(self, name: str) -> None:
        """Forget what is kept under a name."""


class _Nobody:
    """Keeps nothing."""

    def store(self, name: str, *descriptors: int) -> None:
        """Forget at once."""

    def unstore(self, name: str) -> None:
        """Nothing to forget."""


class UserspaceDataPath:
    """See ``proxy.datapath.DataPath``. Lives in the event loop, and the network namespace, of its node.

    ``kept`` are descriptors that an earlier process left; those that still fit are used as they are.
    """

    def __init__(
        self,
        *,
        keeper: Keeper | None = None,
        kept: Mapping[str, Sequence[socket.socket]] | None = None,
        deadline: float = CONNECT_DEADLINE,
        udp_idle: tuple[float, float] = (IDLE_QUERY, IDLE_STREAM),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keeper = keeper or _Nobody()
        self._kept = adoptable(kept or {})
        self._deadline = deadline
        self._clock = clock
        self._udp_idle = udp_idle
        self._engine: Engine | None = None
        self._datagrams: Datagrams | None = None
        self._dialer: Dialer | None = None
        self._listeners: dict[Frontend, Listener] = {}
        self._have: Mapping[Frontend, Target] = {}  # what was synced last
        self._missing: set[Frontend] = set()  # of it: what does not work
        self._demands = Demands()
        self._to_keep: list[tuple[str, int | None]] = []
        self._retired: set[Frontend] = set()  # sockets of ours were here of which the supervisor has copies
        self.plumbed = True  # False: only what needs no plumbing is wanted, such as loopback addresses
        self._plan: Plan | None = None
        self._mended_at = 0.0
        self._warnings: tuple[str, ...] = ()
        self._ejections = Ejections()
        self._affinity: dict[ServicePort, Affinity] = {}
        self.traffic: dict[TrafficKey, Traffic] = {}
        self._users: Counter[TrafficKey] = Counter()  # frontends of each Service port
        self._unused: set[TrafficKey] = set()  # without any, and perhaps with flows still

    @property
    def name(self) -> str:
        """The mode's name."""
        return "userspace"

    async def sync(self, want: Snapshot) -> SyncReport:
        """Plumbing first, then listeners. Raises KernelError naming the step; nothing was changed then."""
        if not want.node.addresses:
            raise KernelError(f"cannot forward on node {want.node.name}: it has no address yet")
        await self._ensure_plumbing(self._demands.plan(want))
        dialer = self._dialer = self._dialer or Dialer(want.node)
        dialer.set_node(want.node)
        if self._engine is None:
            poller = Poller()
            self._engine = Engine(poller, dialer, self._ejections, deadline=self._deadline)
            self._datagrams = Datagrams(poller, dialer, most=self._engine.limit // 4, idle=self._udp_idle)
        changes = diff(self._have, want.targets)
        for frontend in changes.removed:
            self._shut(frontend)
            self._missing.discard(frontend)
        again = {frontend: want.targets[frontend] for frontend in self._missing}
        unserved = []
        for frontend, target in {**again, **changes.changed, **changes.added}.items():
            cannot = self._point(frontend, target)
            if cannot is None:
                self._missing.discard(frontend)
            else:
                self._missing.add(frontend)  # the next sync tries again
                unserved.append(Unserved(frontend, target.service, cannot.reason, cannot.again))
        self._drop_unwanted()
        self._forget_unused(changes, want)
        self._have = want.targets
        await self._tell_keeper()
        counts = (len(changes.added.keys() | again), len(changes.changed), len(changes.removed))
        return SyncReport(want.revision, *counts, unserved=tuple(unserved), warnings=self._warnings)

    async def observe(self) -> Mapping[Frontend, Target]:
        """The frontends that the kernel really leads to us, or really refuses, with their targets."""
        sockets = {
            Protocol.TCP: await asyncio.to_thread(observe.listening),
            Protocol.UDP: await asyncio.to_thread(observe.receiving),
        }
        routed = await asyncio.to_thread(routes.routed)
        found: dict[Frontend, Target] = {}
        for frontend, target in self.targets.items():
            listener, listening = self._listeners.get(frontend), sockets[frontend.protocol]
            if listener is None:
                if (frontend.address, frontend.port) not in listening.values():
                    found[frontend] = target
            elif os.fstat(listener.fd).st_ino in listening and self._reachable(frontend, routed):
                found[frontend] = listener.target
        return found

    async def close(self, *, keep: bool) -> None:
        """End. ``keep``: listeners stay open where the supervisor has copies, and the plumbing stays."""
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        for frontend, listener in list(self._listeners.items()):
            if keep:
                listener.sock.close()
            else:
                self._shut(frontend)
        self._listeners.clear()
        self._have, self._missing = {}, set()
        await self._tell_keeper()
        if not keep:
            await asyncio.to_thread(plumbing.remove)
            self._plan = None

    def leave(self, directory: Path, seconds: float) -> int:
        """Leave all TCP flows to a process that holds them for the next proxy, or ``seconds``; how many.

        Call it when nothing is to be accepted any more, and ``close(keep=True)`` after it.
        """
        if self._engine is None:
            return 0
        self._engine.stop_accepting()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        count = self._engine.active
        try:
            left = handover.leave(self._engine, directory, seconds)
        except OSError as error:
            log.warning("cannot leave %d flows to the next proxy, they end now: %s", count, error)
            return 0
        if left:
            self._engine.forsake()
            self._engine = None
        return count

    async def adopt(self, directory: Path) -> int:
        """Take over the flows of proxies that have been stopped; how many. Call it after the first sync."""
        return sum([await self._adopt_from(path) for path in handover.waiting(directory)])

    async def _adopt_from(self, path: Path) -> int:
        assert self._engine is not None
        assert self._dialer is not None
        heir = handover.Heir(self._engine, self._dialer, self._traffic_for)
        ended = asyncio.Event()

        def take(sock: socket.socket) -> None:
            try:
                if heir.take(sock):
                    return
            except BlockingIOError:
                return
            except (OSError, ValueError, KeyError) as error:
                log.warning("cannot take over more flows from %s: %s", path, error)
            loop.remove_reader(sock)
            ended.set()

        loop = asyncio.get_running_loop()
        connection = handover.connect(path)
        if connection is None:
            return 0
        with connection as sock:
            loop.add_reader(sock, take, sock)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(sock)
        return heir.taken

    def flows(self) -> Iterator[Flow | Exchange]:
        """All flows with an endpoint, at this moment."""
        if self._engine is None or self._datagrams is None:
            return iter(())
        return chain(self._engine.flows(), self._datagrams.exchanges())

    @property
    def active(self) -> int:
        """How many flows there are."""
        return sum(part.active for part in (self._engine, self._datagrams) if part is not None)

    @property
    def room(self) -> int:
        """How many more connections the descriptor limit allows."""
        return self._engine.room if self._engine is not None else 0

    @property
    def ejected(self) -> list[str]:
        """Endpoints that new connections pass over for now."""
        return [joined(ip_address(address), port) for address, port in self._ejections.out(self._clock())]

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last, and works."""
        if not self._missing:
            return self._have
        return {f: target for f, target in self._have.items() if f not in self._missing}

    async def _ensure_plumbing(self, plan: Plan) -> None:
        due = self._clock() - self._mended_at >= MEND_EVERY
        if due and self._ejections:
            self._forget_ejected()
        if self.plumbed and (plan is not self._plan or due):
            await asyncio.to_thread(plumbing.ensure, plan)
            self._warnings = tuple(await asyncio.to_thread(plumbing.problems))
            self._plan, self._mended_at = plan, self._clock()

    def _point(self, frontend: Frontend, target: Target) -> Cannot | None:
        if target.empty and frontend.protocol in (Protocol.TCP, Protocol.UDP):
            self._shut(frontend)
            return None
        listener = self._listeners.get(frontend)
        if listener is not None:
            listener.point_at(target)
            listener.traffic = self._traffic_of(target, frontend)
            listener.affinity = self._affinity.setdefault(target.service, Affinity())
            if frontend.protocol is Protocol.UDP:
                assert self._datagrams is not None
                self._datagrams.repoint(listener)
            return None
        sock = self._kept.pop(frontend, None) or open_listener(frontend, replaces=frontend in self._retired)
        if isinstance(sock, Cannot):
            return sock
        self._retired.discard(frontend)
        affinity = self._affinity.setdefault(target.service, Affinity())
        listener = Listener(
            frontend, sock, target, self._traffic_of(target, frontend), affinity, self._ejections
        )
        self._listeners[frontend] = listener
        self._to_keep.append((kept_name(frontend), listener.fd))
        self._mover_of(frontend).add(listener)
        return None

    def _mover_of(self, frontend: Frontend) -> Engine | Datagrams:
        mover = self._datagrams if frontend.protocol is Protocol.UDP else self._engine
        assert mover is not None
        return mover

    def _shut(self, frontend: Frontend) -> None:
        listener = self._listeners.pop(frontend, None)
        if listener is None:
            return
        if self._engine is not None:
            self._mover_of(frontend).remove(listener)
        self._retire(frontend, listener.sock)

    def _retire(self, frontend: Frontend, sock: socket.socket) -> None:
        retire(sock)
        self._retired.add(frontend)
        self._to_keep.append((kept_name(frontend), None))

    def _drop_unwanted(self) -> None:
        """Listeners of an earlier process that no frontend wants any more."""
        for frontend, sock in self._kept.items():
            self._retire(frontend, sock)
        self._kept.clear()

    def _forget_unused(self, changes: Changes, want: Snapshot) -> None:
        """Counters and affinities end with their Service, once its last flow has ended."""
        for frontend in {*changes.removed, *changes.changed}:
            self._use(frontend, self._have[frontend], -1)
        for frontend, target in {**changes.added, **changes.changed}.items():
            self._use(frontend, target, 1)
        for key in [key for key in self._unused if key in self._users or not self._in_use(key)]:
            self._unused.discard(key)
            if key not in self._users:
                self.traffic.pop(key, None)
                self._affinity.pop(key[0], None)

    def _forget_ejected(self) -> None:
        pools = (pool for target in self._have.values() for pool in (target.inside, target.outside))
        self._ejections.forget({(str(e.address), e.port) for pool in pools for e in pool.endpoints})

    def _use(self, frontend: Frontend, target: Target, by: int) -> None:
        key = (target.service, frontend.protocol)
        self._users[key] += by
        if not self._users[key]:
            del self._users[key]
            self._unused.add(key)

    def _in_use(self, key: TrafficKey) -> bool:
        counted = self.traffic.get(key)
        return counted is not None and counted.active > 0

    async def _tell_keeper(self) -> None:
        """In order, and in a thread: a supervisor that is slow to read must not hold up the relay."""
        told, self._to_keep = self._to_keep, []
        if told:
            await asyncio.to_thread(_tell, self._keeper, told)

    def _traffic_of(self, target: Target, frontend: Frontend) -> Traffic:
        return self._traffic_for(target.service, frontend.protocol)

    def _traffic_for(self, service: ServicePort, protocol: Protocol) -> Traffic:
        return self.traffic.setdefault((service, protocol), Traffic())

    def _reachable(self, frontend: Frontend, routed: Sequence[IPNetwork]) -> bool:
        address, node = frontend.address, self._plan.node if self._plan else None
        if address.is_unspecified or address.is_loopback or (node and address in node.addresses):
            return True
        return within(address, routed)


def _tell(keeper: Keeper, told: Sequence[tuple[str, int | None]]) -> None:
    for name, descriptor in told:
        if descriptor is None:
            keeper.unstore(name)
        else:
            keeper.store(name, descriptor)
