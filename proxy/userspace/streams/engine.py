"""Accepting clients, dialling endpoints, and trying another one before the client notices.

Why one room: from accept(2) to a connected endpoint is one decision after another (whose pool, whose turn,
whose address, how long to wait), and a connection that fails here is what users call a broken Service.
"""

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

from proxy.balance import Ejections
from proxy.userspace import sockets
from proxy.userspace.dialing import Dialer
from proxy.userspace.listeners import Listener
from proxy.userspace.poller import Poller
from proxy.userspace.sources import Client
from proxy.userspace.streams.admission import Admission, Host
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.ledger import Ledger
from proxy.userspace.streams.lifetimes import Lifetimes
from proxy.userspace.streams.moving import Mover
from proxy.userspace.streams.pipes import Pipe
from proxy.userspace.streams.preface import of_accepted
from proxy.userspace.streams.relay import Half
from proxy.userspace.streams.relaying import Relay
from proxy.userspace.syscalls import accept, read
from proxy.userspace.traffic import TIMED_ONE_IN

ACCEPTS: Final = 32  # connections taken from one listener before the others get their turn
TICK: Final = 0.05  # how often connects that have not been heard of are looked at
WAITS: Final = (
    0.25,
    0.5,
    1.0,
    2.0,
)  # kube-proxy's userspace mode waited as long for a first, second, ... endpoint
# Errors of a connect that are the endpoint's, or its route's (ip-route(8): unreachable, prohibit, blackhole).
ITS_OWN: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
    }
)
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Those that another endpoint may not have; the rest is this process's, and would say the same of all.
TRY_ANOTHER: Final = ITS_OWN | {errno.EADDRNOTAVAIL, errno.EADDRINUSE}


class Engine(Host):
    """All flows of one process, run by the event loop it is made in. ``deadline``: seconds to find an endpoint."""

    def __init__(
        self, poller: Poller, dialer: Dialer, ejections: Ejections, ledger: Ledger, *, deadline: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.poller = poller
        self.relay = Relay(poller, ledger)
        self.admission = Admission(poller, self.relay, self, ledger.size)
        self._mover = Mover(self.relay, poller, self._refused)
        self.lifetimes = Lifetimes(self.relay, self.flows)
        self._dialer = dialer
        self._ejections = ejections
        self._deadline = deadline
        self._connecting: dict[Flow, None] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._loop.add_reader(self.poller.fileno(), self.poller.dispatch)

    # -- for the data path -----------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many flows there are."""
        return self.relay.active

    def flows(self) -> Iterator[Flow]:
        """All flows with an endpoint."""
        for entry in self.poller.entries():
            flow = getattr(entry, "flow", None)
            if flow is not None and flow.client_side is entry:
                yield flow

    def connecting(self) -> list[Flow]:
        """Flows whose endpoint has not answered yet."""
        return list(self._connecting)

    def adopt(
        self,
        flow: Flow,
        fds: Sequence[int],
        halves: Sequence[Half],
        pipes: Sequence[Pipe | None],
        prefaced: bool = False,
    ) -> None:
        """Go on with a flow of another process (see ``Relay.adopt``)."""
        self.relay.adopt(flow, fds, halves, pipes, prefaced)

    def forsake(self) -> None:
        """From now on ``poller.dispatch`` and ``check_connecting`` are called by somebody else than the loop."""
        self.lifetimes.close()
        self.admission.forsake()
        if self._tick is not None:
            self._tick.cancel()
        self._tick = None
        self._loop.remove_reader(self.poller.fileno())

    def close(self) -> None:
        """End every flow by RST and give all descriptors back, the listeners' excepted."""
        self.lifetimes.close()
        if self._tick is not None:
            self._tick.cancel()
        for flow in [*self.flows(), *self._connecting]:
            self.relay.reset(flow)
        self.admission.close()
        self._loop.remove_reader(self.poller.fileno())
        self.relay.pipes.close()
        self.poller.close()

    # -- accepting -------------------------------------------------------------------------------------

    def accept(self, listener: Listener) -> None:
        """Take waiting clients, a bounded number at a time."""
        if self.admission.refuses(listener):
            return
        now = monotonic()
        for _ in range(ACCEPTS):
            try:
                accepted = accept(listener.fd)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self.admission.shut(error.strerror or "no resources", to_all=True)
                    return
                if error.errno == errno.EINVAL:  # another process has ended this listener
                    self.admission.remove(listener)
                    return
                continue  # accept(2): a client that has gone already is its own affair
            if accepted is None:
                return
            fd, address = accepted
            self._serve(listener, fd, self._dialer.client_at(address), now)
            if self.admission.spent:
                return

    def serve_accepted(self, listener: Listener, fd: int, client: str) -> None:
        """Serve a client that another process had accepted, and for whom it had done nothing."""
        self._serve(listener, fd, self._dialer.client(client), monotonic())

    def _serve(self, listener: Listener, fd: int, client: Client, now: float) -> None:
        target = listener.target
        choice = listener.inside if client.inside else listener.outside
        if not choice.endpoints or (target.allowed and not listener.admits(client.address)):
            listener.traffic.reject("source_range" if choice.endpoints else "no_endpoints")
            sockets.reset_at_close(fd)
            os.close(fd)
            return
        first = listener.first(choice, client.text, now)
        traffic = choice.places[first].traffic
        flow = Flow(listener, traffic, client, choice, first, now + self._deadline)
        self.relay.open(flow, fd)
        if traffic.connections % TIMED_ONE_IN == 0:
            flow.started = monotonic()
        traffic.connections += 1
        if target.max_age is not None:
            self.lifetimes.limit(flow, target.max_age, now)
        if not target.proxy_protocol:
            self._dial(flow, now, b"" if self.relay.pipes.lacking else _early(fd))
        elif self._preface(flow, fd):
            self._dial(flow, now)

    def _preface(self, flow: Flow, fd: int) -> bool:
        try:
            self.relay.preface(flow, of_accepted(fd))
        except OSError:  # the client has gone, or no descriptor is left
            self._give_up(flow, "descriptors")
            return False
        return True

    # -- dialling --------------------------------------------------------------------------------------

    def _dial(self, flow: Flow, now: float, early: bytes = b"") -> None:
        """Dial until a socket is on its way; each endpoint that fails at once is tried once.

        ``early``: what the client has sent already; it goes to the endpoint at once.
        """
        listener, choice = flow.listener, flow.choice
        target = listener.target
        failure = 0
        while True:
            count = len(choice.places)
            if not count or (failure and flow.tried >= count):
                self._give_up(flow, "unreachable" if count else "no_endpoints")
                return
            turn = flow.first
            if flow.tried:
                turn = (turn + flow.tried) % count
                flow.try_again(choice.places[turn].traffic)
            place = choice.places[turn]
            flow.tried += 1
            flow.endpoint, flow.where = place.endpoint, place.where
            try:
                fd = self._dialer.dial(flow.client, place, target.keep_outside_address, early != b"")
                break
            except OSError as error:
                failure = error.errno or errno.EIO
                if failure in EXHAUSTED and self.admission.spend_spare(failure):
                    flow.tried -= 1  # it was not asked
                    continue
                if failure in ITS_OWN:
                    self._ejections.fail(place.where, now)
                if failure not in TRY_ANOTHER:
                    self._give_up(flow, "descriptors" if failure in EXHAUSTED else "unreachable")
                    return
        if target.affinity is not None:
            listener.affinity.remember(flow.client.text, place.endpoint, now + target.affinity)
        if listener.load is not None:
            flow.count_in(listener.load)
        flow.check_at = now + (WAITS[0] if flow.tried == 1 else WAITS[min(flow.tried, len(WAITS)) - 1])
        self._connecting[flow] = None
        self._look_again()
        self.relay.attach(flow, fd)
        if early:
            assert flow.client_side is not None
            self._mover.pass_early(flow.client_side, early)

    def _refused(self, flow: Flow, failure: int) -> bool:
        """An endpoint has refused; True where another one is tried, or the flow has been ended."""
        if failure not in TRY_ANOTHER:
            return False
        now = monotonic()
        if failure in ITS_OWN:
            self._ejections.fail(flow.where, now)
        self.relay.detach(flow)
        if flow.tried >= len(flow.choice.endpoints) or now >= flow.deadline:
            self._give_up(flow, "unreachable")
        else:
            self._dial(flow, now)
        return True

    def check_connecting(self) -> None:
        """Look at connects that neither data nor an error has told of."""
        self._tick = None
        now = monotonic()
        for flow in list(self._connecting):
            if flow.connected or not flow.open:
                del self._connecting[flow]
                self.relay.settle(flow)
                flow.check_at = flow.deadline = 0.0  # 64 bytes a connection
                if self._ejections and flow.connected:
                    self._ejections.succeed(flow.where)
            elif now >= flow.check_at:
                self._overdue(flow, now)
        self.poller.flush()
        if self._connecting:
            self._look_again()
        else:
            self._connecting = {}  # one that was ever large stays so

    def _look_again(self) -> None:
        """Apart: where mypyc has seen it set to None, it takes it for None until the function's end."""
        if self._tick is None:
            self._tick = self._loop.call_later(TICK, self.check_connecting)

    def _overdue(self, flow: Flow, now: float) -> None:
        side = flow.endpoint_side
        if side is not None and sockets.is_connected(side.fd):
            self.relay.connected(flow)
            self.relay.settle(flow)
            self._ejections.succeed(flow.where)
            del self._connecting[flow]
            return
        self._ejections.fail(flow.where, now)
        self.relay.detach(flow)
        if now >= flow.deadline:
            self._give_up(flow, "unreachable")
        else:
            self._dial(flow, now)

    def _give_up(self, flow: Flow, reason: str) -> None:
        flow.traffic.reject(reason)
        self.relay.reset(flow)


def _early(client: int) -> bytes:
    """What a client has sent by the time it is accepted; nothing where that is nothing, or no more."""
    try:
        return read(client) or b""
    except OSError:
        return b""
