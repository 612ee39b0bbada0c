"""A worker that follows one that was killed finds its flows in the table of descriptors, and goes on with them.

Why this is safe: no byte is in user space between two events, so a killed worker can have lost one at most in the
midst of one read and its write. The kernel counts both sides; where what was read is not what was given, bytes
are missing, and the flow ends by RST: a client may lose its connection, and never gets a wrong stream.

Why in two steps: to watch all connections takes a few milliseconds, to look at them all twenty times as long. So
those at which something happens are looked at when it does, and the others in between, when there is time.
"""

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from time import monotonic

from proxy.model import Protocol, ServicePort
from proxy.userspace.flow import Flow
from proxy.userspace.listeners import Listener
from proxy.userspace.pipes import Pipe
from proxy.userspace.poller import Watched
from proxy.userspace.relay import READING
from proxy.userspace.takeover import Takeover
from proxy.userspace.worker import Worker
from proxy.userspace.workers import descriptors
from proxy.userspace.workers.reckoning import outcome

log = logging.getLogger(__name__)

BATCH = 16  # connections or other descriptors that are looked at before events get their turn
UNKNOWN = ServicePort("", "", "")


class Recovery:
    """What one worker makes of what another one left. ``left``: its descriptors. ``died``: when (monotonic seconds).

    ``begin``, then ``go_on`` beside the event loop; ``resolve`` once the listeners are known again.
    """

    def __init__(self, worker: Worker, left: set[int], died: float) -> None:
        self._worker = worker
        self._peers = worker.ledger.peers
        self._pipes = worker.ledger.pipes
        self._died = died
        self._left = left
        self._waiting: dict[int, tuple[Waiting, Waiting]] = {}  # both sides, by the client's descriptor
        self._unplaced: list[Flow] = []
        self._fresh: list[int] = []  # accepted clients for whom nothing was done yet
        self._broken: list[int] = []  # to be closed outside of a batch of events, of which some may be theirs
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
        """Watch every connection; go on with those that have a pipe at once, for they hold bytes or are in bulk."""
        left, watch, busy = self._left, self._worker.engine.poller.add, []
        for client, endpoint in enumerate(self._peers[: max(left, default=-1) + 1].tolist()):
            if not endpoint or client not in left:
                continue
            if endpoint not in left:
                self._peers[client] = 0  # and it is sorted out as any other
                continue
            sides = self._waiting[client] = (Waiting(self, client, client), Waiting(self, client, endpoint))
            for side in sides:
                watch(side, READING)
                left.discard(side.fd)
                if (ends := self._worker.ledger.pipe_of(side.fd)) is not None:
                    left.difference_update(ends)
                    busy.append(client)
        for client in busy:
            self.look_at(client, busy=True)
        self._longest = max(self._longest, monotonic() - self._died)

    async def go_on(self) -> None:
        """Look at all that is left, some at a time."""
        for number, fd in enumerate(self._left):
            self._sort_out(fd, broken=False)
            if number % BATCH == 0:
                await asyncio.sleep(0)
        self._left = set()
        while self._waiting or self._broken:
            for client in list(islice(self._waiting, BATCH)):
                self.look_at(client, busy=False)
            while self._broken:
                self._sort_out(self._broken.pop(), broken=True)
            await asyncio.sleep(0)
        if self.flows or self.fresh or self.reset:
            log.info(
                "went on with %s; %d clients begin anew, %d sockets were reset",
                self.takeover,
                self.fresh,
                self.reset,
            )

    def look_at(self, client: int, *, busy: bool) -> None:
        """Go on with one connection, or end it. ``busy``: something has happened there."""
        sides = self._waiting.pop(client, None)
        if sides is None:
            return
        for side in sides:
            self._worker.engine.poller.forget(side)
        flow = _resume(self._worker, client, sides[1].fd)
        if flow is None:
            self._peers[client] = 0
            self._broken += [side.fd for side in sides]
            return
        self.flows += 1
        if busy:
            self._longest = max(self._longest, monotonic() - self._died)
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
        self._worker.forget([(UNKNOWN, Protocol.TCP)])

    def _place(self, flow: Flow) -> None:
        listener = self._worker.served(flow.listener.frontend)
        if listener is not None and flow.open and not isinstance(flow.listener, Listener):
            flow.traffic.active -= 1
            flow.listener, flow.traffic = listener, listener.traffic
            flow.traffic.active += 1
            self._worker.limit_age(flow)

    def _serve(self, fd: int) -> None:
        with suppress(OSError):  # it has gone meanwhile
            listener = self._worker.served(descriptors.frontend(fd))
            if listener is not None:
                client, _ = descriptors.name(fd, peer=True)
                self._worker.engine.serve_accepted(listener, fd, client)
                return
        descriptors.reset(fd)

    def _sort_out(self, fd: int, *, broken: bool) -> None:
        """A descriptor of no whole flow: a client for whom nothing was done yet, or something to be ended."""
        half_done = self._pipes[fd] != 0
        self._pipes[fd] = 0
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


class Waiting(Watched):
    """A socket of a connection that nobody has looked at yet: whatever happens there, somebody does."""

    __slots__ = ("_client", "_recovery")

    def __init__(self, recovery: Recovery, client: int, fd: int) -> None:
        self._recovery = recovery
        self._client = client
        self.fd = fd
        self.mask = -1

    def ready(self, events: int) -> None:
        """Something has happened; whoever goes on with the socket is told again."""
        self._recovery.look_at(self._client, busy=True)

    def broken(self) -> None:
        """A bug of ours met it: the connection is found in its turn."""


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
        one, other = (descriptors.reading(fd) for fd in fds)
        halves = outcome(one, other, *(0 if pipe is None else pipe.held for pipe in pipes))
        if halves is None:
            return None
        whose, _ = descriptors.name(client, peer=True)
        frontend, whom = descriptors.frontend(client), descriptors.endpoint(endpoint)
        flow = worker.former_flow(frontend, UNKNOWN, whose, whom)
    except OSError:
        return None
    worker.engine.adopt(flow, fds, halves, pipes)
    return flow


def _pipe(worker: Worker, fd: int) -> Pipe | None:
    ends = worker.ledger.pipe_of(fd)
    if ends is None:
        return None
    reader, writer = ends
    return Pipe(reader, writer, descriptors.number(reader, descriptors.UNREAD))
