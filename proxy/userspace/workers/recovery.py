"""A worker that follows one that was killed finds its flows in the table of descriptors, and goes on with them.

Why this is safe: no byte is in user space between two events, so a killed worker can have lost one at most in the
midst of one read and its write. The kernel counts both sides; where what was read is not what was given, bytes
are missing, and the flow ends by RST: a client may lose its connection, and never gets a wrong stream.

Why in two steps: to look at all connections takes a quarter of a second with 5,000. So those at which something waits
are looked at first, and the others in between, when there is time. Until its turn a connection stays where the
killed worker had it, in an epoll set that outlived that worker as everything in the table did.
"""

import asyncio
import logging
import os
import select
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from proxy.model import Protocol, ServicePort
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.listeners import Listener
from proxy.userspace.poller import Poller, Watched
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.ledger import PREFACED
from proxy.userspace.streams.pipes import Pipe
from proxy.userspace.streams.preface import LENGTH
from proxy.userspace.traffic import TrafficKey
from proxy.userspace.worker import Worker
from proxy.userspace.workers import descriptors
from proxy.userspace.workers.reckoning import outcome

log = logging.getLogger(__name__)

EVENTS = 256  # taken from the former set at once
BATCH = 16  # connections or other descriptors that are looked at before events get their turn
UNKNOWN = ServicePort("", "", "")


@dataclass(frozen=True, slots=True)
class Left:
    """What there is of a worker that was killed: open descriptors, and those of them at which something waits.

    ``died``: when that was, in monotonic seconds.
    """

    descriptors: set[int]
    ready: set[int]
    died: float


class Recovery:
    """What one worker makes of what another one left.

    ``begin``, then ``go_on`` beside the event loop; ``resolve`` once the listeners are known again.
    """

    def __init__(self, worker: Worker, left: Left) -> None:
        self._worker = worker
        self._ledger = worker.ledger
        self._died = left.died
        self._ready = left.ready
        self._rest = set(left.descriptors)
        self._waiting: dict[
            int, int
        ] = {}  # connections to be looked at: the client's descriptor, the endpoint's
        self._clients: dict[int, int] = {}  # and from the endpoint's
        self._former: FormerSet | None = None
        self._unplaced: list[Flow] = []
        self._fresh: list[int] = []  # accepted clients for whom nothing was done yet
        # To be closed outside of a batch of events, of which some may be theirs; and whether the endpoint was given
        # anything: then its client is not served anew, unread though its bytes may be (``moving``).
        self._broken: list[tuple[int, bool]] = []
        self._resolved = False
        self.flows = self.reset = self.fresh = 0
        self._longest = 0.0  # that a flow stood still which had something to be relayed

    @property
    def waiting(self) -> int:
        """Connections that nobody has looked at yet; they are open and watched."""
        return len(self._waiting)

    @property
    def takeover(self) -> Takeover:
        """What has gone on so far, and all that is watched."""
        return Takeover(self.flows + self.waiting, self._longest)

    def begin(self) -> None:
        """Go on with the connections at which something waits, and those in bulk, which have a pipe."""
        busy = self._find()
        if self._former is None:  # a recovery before this one was cut short: where they are is not known
            busy = list(self._waiting)
        for client in busy:
            self._look_at(client)
        self._worker.engine.poller.dispatch()
        if self._waiting or self.flows:
            self._longest = monotonic() - self._died

    def _find(self) -> list[int]:
        """Learn which connections there are; those that may not wait, by their client's descriptors."""
        rest, ready, peers, busy = self._rest, self._ready, self._ledger.peers, []
        for client, peer in enumerate(peers[: max(rest, default=-1) + 1].tolist()):
            if not peer or client not in rest:
                continue
            endpoint = self._ledger.endpoint_of(client)
            if endpoint not in rest:
                peers[client] = 0  # and it is sorted out as any other
                continue
            self._waiting[client] = endpoint
            self._clients[endpoint] = client
            rest.discard(client)
            rest.discard(endpoint)
            pipes = [ends for fd in (client, endpoint) if (ends := self._ledger.pipe_of(fd)) is not None]
            if pipes or client in ready or endpoint in ready:
                busy.append(client)
                rest.difference_update(*pipes)
        if self._ledger.doubt[0]:
            self._end_doubtful()
        watch, self._ledger.watch[0] = self._ledger.watch[0], 0
        if watch in rest:
            rest.discard(watch)
            self._former = FormerSet(self, self._worker.engine.poller, watch)
        return busy

    def _end_doubtful(self) -> None:
        """The worker was killed while flows passed from or to another process, which may have these now."""
        for fd in list(self._rest):
            with suppress(OSError):
                if descriptors.is_connection(fd):
                    self._rest.discard(fd)
                    self._ledger.pipes[fd] = 0
                    self.reset += 1
                    descriptors.reset(fd)
        self._ledger.doubt[0] = 0

    async def go_on(self) -> None:
        """Look at all that is left, some at a time."""
        for number, fd in enumerate(self._rest):
            self._sort_out(fd, broken=False, half_done=False)
            if number % BATCH == 0:
                await asyncio.sleep(0)
        while self._waiting or self._broken:
            for client in list(islice(self._waiting, BATCH)):
                self._look_at(client)
            while self._broken:
                fd, given = self._broken.pop()
                self._sort_out(fd, broken=True, half_done=given)
            await asyncio.sleep(0)
        if self._former is not None:
            self._former.close()
            self._former = None
        self._clients, self._rest, self._ready = {}, set(), set()
        self._ledger.watch[0] = self._worker.engine.poller.fileno()
        if self.flows or self.fresh or self.reset:
            log.info(
                "went on with %s; %d clients begin anew, %d sockets were reset",
                self.takeover,
                self.fresh,
                self.reset,
            )

    def happened(self, fd: int) -> bool:
        """Something has happened at a descriptor; whether it is of a connection that waited to be looked at."""
        client = fd if fd in self._waiting else self._clients.get(fd, -1)
        if client not in self._waiting:
            return False
        self._look_at(client)
        return True

    def _look_at(self, client: int) -> None:
        """Go on with one connection, or end it."""
        endpoint = self._waiting.pop(client)
        if self._former is not None:
            self._former.forget(client, endpoint)
        flow = _resume(self._worker, client, endpoint)
        if flow is None:
            self._ledger.peers[client] = 0
            given = _was_given_anything(endpoint)
            self._broken += [(client, given), (endpoint, given)]
            return
        self.flows += 1
        if self._resolved:
            self._place(flow)
        else:
            self._unplaced.append(flow)

    def resolve(self) -> None:
        """The listeners are known again: flows are counted where they belong, and clients who waited are served."""
        self._resolved = True
        for flow in self._unplaced:
            self._place(flow)
        for fd in self._fresh:
            self._serve(fd)
        self._unplaced.clear()
        self._fresh.clear()
        self._worker.forget([TrafficKey(UNKNOWN, Protocol.TCP)])

    def _place(self, flow: Flow) -> None:
        listener = self._worker.served(flow.listener.frontend)
        if listener is not None and flow.open and not isinstance(flow.listener, Listener):
            flow.listener = listener
            flow.count_at_endpoint()
            self._worker.take_up(flow)

    def _serve(self, fd: int) -> None:
        with suppress(OSError):  # it has gone meanwhile
            listener = self._worker.served(descriptors.frontend(fd))
            if listener is not None:
                client, _ = descriptors.name(fd, peer=True)
                self._worker.engine.serve_accepted(listener, fd, client)
                return
        descriptors.reset(fd)

    def _sort_out(self, fd: int, *, broken: bool, half_done: bool) -> None:
        """A descriptor of no whole flow: a client for whom nothing was done yet, or something to be ended."""
        if self._former is not None:
            self._former.forget(fd)
        half_done = half_done or self._ledger.pipes[fd] != 0
        self._ledger.pipes[fd] = 0
        with suppress(OSError):
            if not descriptors.is_connection(fd):
                os.close(fd)
                return
            found = descriptors.reading(fd)
            if found.untouched and not half_done:
                self.fresh += 1
                if self._resolved:
                    self._serve(fd)
                else:
                    self._fresh.append(fd)
            elif broken or found.open or half_done:
                self.reset += 1
                descriptors.reset(fd)
            else:
                os.close(fd)  # both directions were over; this passes the last FIN on


class FormerSet(Watched):
    """The epoll set of the worker that was killed, as ours watches it: it tells of connections not yet looked at."""

    __slots__ = ("_epoll", "_poller", "_recovery")

    def __init__(self, recovery: Recovery, poller: Poller, fd: int) -> None:
        self._recovery = recovery
        self._poller = poller
        self._epoll = select.epoll.fromfd(fd)
        self.fd = fd
        self.mask = -1
        poller.add(self, select.EPOLLIN)

    def ready(self, events: int) -> None:
        """Something has happened there."""
        for fd, _ in self._epoll.poll(0, EVENTS):
            if not self._recovery.happened(fd):
                self.forget(fd)

    def broken(self) -> None:
        """A bug of ours met it: connections are found in their turn."""
        self._poller.forget(self)

    def forget(self, *fds: int) -> None:
        """Tell no more of these."""
        for fd in fds:
            with suppress(OSError):  # it was not there
                self._epoll.unregister(fd)

    def close(self) -> None:
        """Nothing is left in it that anybody waits for."""
        self._poller.forget(self)
        self._epoll.close()


def end_all(worker: Worker, left: Iterable[int]) -> None:
    """Close all that was left: going on with it has failed too often."""
    for fd in left:
        worker.ledger.peers[fd] = worker.ledger.pipes[fd] = 0
        with suppress(OSError):
            if descriptors.is_connection(fd):
                descriptors.reset(fd)
            else:
                os.close(fd)


def _resume(worker: Worker, client: int, endpoint: int) -> Flow | None:
    """Go on with one flow, or None where that cannot be."""
    fds = (client, endpoint)
    try:
        pipes = [_pipe(worker, fd) for fd in fds]
        one, other = [descriptors.reading(fd) for fd in fds]
        up, down = [0 if pipe is None else pipe.held for pipe in pipes]
        frontend, whom = descriptors.frontend(client), descriptors.endpoint(endpoint)
        prefaced = worker.ledger.peers[client] & PREFACED != 0
        halves = outcome(one, other, up, down, LENGTH[frontend.address.version] if prefaced else 0)
        if halves is None:
            return None
        whose, _ = descriptors.name(client, peer=True)
        flow = worker.former_flow(frontend, UNKNOWN, whose, whom)
    except OSError:
        return None
    worker.engine.adopt(flow, fds, halves, pipes, prefaced)
    return flow


def _was_given_anything(endpoint: int) -> bool:
    try:
        return descriptors.reading(endpoint).written(called=True) > 0
    except OSError:
        return True


def _pipe(worker: Worker, fd: int) -> Pipe | None:
    ends = worker.ledger.pipe_of(fd)
    if ends is None:
        return None
    reader, writer = ends
    return Pipe(reader, writer, descriptors.number(reader, descriptors.UNREAD))
