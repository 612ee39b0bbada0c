"""All worker processes of a proxy as one: each serves all frontends, and the least one can do alone is one's own.

Why listeners are shared and not one a worker (SO_REUSEPORT): clients then wait in one queue, which whoever is free
takes from, a worker that is full or dead leaves nobody behind, and a queue does not end with its worker.
Why some frontends have one worker only: UDP flows and session affinity need all of a client's traffic in one place.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from netplane.errors import KernelError
from proxy.model import Frontend, NodeFacts, Protocol, Target
from proxy.userspace.handover import protocol as handover
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.traffic import Traffic, TrafficKey
from proxy.userspace.workers import counts
from proxy.userspace.workers.leavers import LINGER, Leavers
from proxy.userspace.workers.process import Options
from proxy.userspace.workers.remote import Remote
from proxy.userspace.workers.starting import Starter

log = logging.getLogger(__name__)

T = TypeVar("T")
SHORT_LIFE = 1.0  # seconds; one that ended sooner is started again after as long
LOOK_EVERY = 1.0  # seconds between looks at how full the workers are
SWEEPS = 5  # looks for endpoints that have left, while the counters of one linger
MOST = 16
FEW = 0.25  # of what one worker may have is left over all workers: time for another one


def justified(cores: int) -> int:
    """How many workers to begin with: relaying is mostly the kernel's work, on the client's core or the endpoint's."""
    return max(1, min(8, cores // 2))


class Crew:
    """See ``datapath.Carrier``. ``directory``: where flows are handed over. Seconds: ``deadline``, ``drain``.

    ``by_endpoint``: count traffic by endpoint. ``linger``: seconds until the counters of one that has left end.
    """

    def __init__(
        self,
        directory: Path,
        *,
        workers: int,
        deadline: float,
        drain: float,
        by_endpoint: bool = False,
        linger: float = LINGER,
    ) -> None:
        self._directory = directory
        self._deadline = deadline
        self._drain = drain
        self._by_endpoint = by_endpoint
        self._linger = linger
        self._leavers = Leavers(linger)
        self._former = handover.waiting(directory)
        self._starter = Starter()
        self._remotes: list[Remote] = []
        self._wanted: dict[Frontend, tuple[Target, socket.socket]] = {}
        self._node: NodeFacts | None = None
        self._lives = 0
        self.inherited = Takeover()  # the last time that flows were handed over
        for _ in range(max(workers, len(self._former))):
            self._add()

    async def run(self) -> None:
        """Keep them running, and start another one when there is little room left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for remote in self._remotes:
                    tasks.create_task(self._keep(remote))
                if self._by_endpoint:
                    tasks.create_task(self._forget_leavers())
                while True:
                    await asyncio.sleep(LOOK_EVERY)
                    await self._each(lambda remote: remote.refresh(traffic=False))
                    most = max(remote.most for remote in self._remotes)
                    if self.room < most * FEW and len(self._remotes) < MOST:
                        log.info("room for %d more connections: starting another worker", self.room)
                        tasks.create_task(self._keep(self._add()))
        finally:
            self._starter.close()

    async def _keep(self, remote: Remote) -> None:
        """One life after another; flows of a worker that lost its keeper go to the next as those of a former proxy."""
        former: Path | None = None
        while True:
            path = self._directory / handover.NAME.format(pid=f"{os.getpid()}-{self._lives}")
            self._lives += 1
            began = monotonic()
            try:
                async with asyncio.TaskGroup() as tasks:
                    if former is not None:
                        tasks.create_task(self._inherit(remote, former))
                    await remote.live(Options(str(path), self._deadline, self._drain, self._by_endpoint))
                log.warning("%s has lost its keeper: another worker takes its flows over", remote.name)
                former = path
            except* KernelError as errors:  # as where there are no more processes to be had
                log.warning("%s is away: %s", remote.name, errors.exceptions[0])
            await asyncio.sleep(0.0 if monotonic() - began > SHORT_LIFE else SHORT_LIFE)

    async def _forget_leavers(self) -> None:
        """Counters end some time after their endpoint has left, and its last flow has ended."""
        while True:
            await asyncio.sleep(self._linger / SWEEPS)
            await self.refresh()
            wanted = ((frontend, target) for frontend, (target, _) in self._wanted.items())
            if over := self._leavers.over(self.traffic, wanted, monotonic()):
                self.forget(over)

    def _note_leavers(self, frontend: Frontend, after: Target | None) -> None:
        before = self._wanted.get(frontend)
        if self._by_endpoint and before is not None:
            self._leavers.note(frontend, before[0], after, monotonic())

    async def _inherit(self, remote: Remote, former: Path) -> None:
        self.inherited = await remote.inherit(str(former))

    def _add(self) -> Remote:
        remote = Remote(f"worker {len(self._remotes)}", self._starter)
        self._remotes.append(remote)
        if self._node is not None:
            remote.set_node(self._node)
        for frontend, (target, sock) in self._wanted.items():
            self._point(remote, frontend, target, sock)
        return remote

    # -- the carrier of a data path --------------------------------------------------------------------

    def set_node(self, node: NodeFacts) -> None:
        """See ``Worker.set_node``."""
        self._node = node
        for remote in self._remotes:
            remote.set_node(node)

    def point(self, frontend: Frontend, target: Target, sock: socket.socket) -> None:
        """See ``Worker.point``."""
        self._note_leavers(frontend, target)
        self._wanted[frontend] = target, sock
        for remote in self._remotes:
            self._point(remote, frontend, target, sock)

    def _point(self, remote: Remote, frontend: Frontend, target: Target, sock: socket.socket) -> None:
        alone = frontend.protocol is Protocol.UDP or target.affinity is not None
        if alone and remote is not self._remotes[0]:
            remote.shut(frontend)
        else:
            remote.point(frontend, target, sock)

    def shut(self, frontend: Frontend) -> None:
        """See ``Worker.shut``."""
        self._note_leavers(frontend, None)
        self._wanted.pop(frontend, None)
        for remote in self._remotes:
            remote.shut(frontend)

    def forget(self, ended: Iterable[TrafficKey]) -> None:
        """See ``Worker.forget``."""
        keys = list(ended)
        for remote in self._remotes:
            remote.forget(keys)

    async def settled(self) -> None:
        """See ``Remote.settled``."""
        await self._each(Remote.settled)

    async def close(self, *, keep: bool) -> None:
        """Leave all flows to the next proxy (``keep``), or end them."""
        for remote in self._remotes:
            remote.stop(hold=keep)

    # -- what there is ---------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Learn the counters as they are now."""
        await self._each(Remote.refresh)

    async def inherit(self) -> Takeover:
        """Take over the flows of proxies before this one. Call it after the first sync."""
        workers = len(self._remotes)
        former = enumerate(self._former)
        found = await asyncio.gather(*(self._remotes[n % workers].inherit(str(p)) for n, p in former))
        self.inherited = Takeover.of(found)
        return self.inherited

    async def describe(self) -> list[dict[str, Any]]:
        """All flows in words."""
        return [flow for flows in await self._each(Remote.describe) for flow in flows]

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._remotes)

    @property
    def traffic(self) -> counts.Counts:
        """The counters of all workers, as ``refresh`` found them; zero where nobody came yet."""
        wanted = {
            TrafficKey(target.service, frontend.protocol) for frontend, (target, _) in self._wanted.items()
        }
        total: counts.Counts = {key: Traffic() for key in wanted}
        for remote in self._remotes:
            counts.add(total, remote.traffic)
        return total

    @property
    def active(self) -> int:
        """How many flows there are."""
        return sum(remote.active for remote in self._remotes)

    @property
    def room(self) -> int:
        """How many more connections the workers there are have room for."""
        return sum(remote.room for remote in self._remotes)

    @property
    def recovered(self) -> Takeover:
        """Flows that workers which were killed have left to those there are."""
        return Takeover.of(remote.recovered for remote in self._remotes)

    @property
    def ejected(self) -> list[str]:
        """Endpoints that new connections pass over for now, at one worker at least."""
        return sorted({one for remote in self._remotes for one in remote.ejected})

    async def _each(self, question: Callable[[Remote], Awaitable[T]]) -> Sequence[T]:
        return await asyncio.gather(*(question(remote) for remote in self._remotes))
