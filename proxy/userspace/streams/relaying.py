"""The life of each flow, from its client's socket to the last close(2).

Why on bare descriptors: no byte stays in user space past a turn of the loop. So a flow is nothing but descriptors
and flags, memory is bounded by the kernel, and another process can go on with it. ``moving`` moves the bytes.
"""

import os
from collections.abc import Sequence
from time import monotonic

from proxy.userspace import sockets
from proxy.userspace.poller import Poller
from proxy.userspace.streams.flow import Flow, Owner, Side
from proxy.userspace.streams.ledger import PREFACED, Ledger
from proxy.userspace.streams.pipes import Pipe, PipePool
from proxy.userspace.streams.relay import FLOWING, OUT, READING, Half, interest


class Relay:
    """All flows of one process. ``owner`` is told of what happens at their sockets."""

    owner: Owner

    def __init__(self, poller: Poller, ledger: Ledger) -> None:
        self._poller = poller
        self._peers = ledger.peers
        self.pipes = PipePool(ledger)
        self.active = 0

    # -- beginning -------------------------------------------------------------------------------------

    def open(self, flow: Flow, client_fd: int) -> None:
        """A flow begins with its client's socket; it is watched once an endpoint is dialled."""
        self.active += 1
        flow.traffic.active += 1
        flow.client_side = Side(client_fd, flow, self.owner)

    def preface(self, flow: Flow, data: bytes) -> None:
        """What the endpoint is to read before anything of the client. Raises OSError where it cannot be kept."""
        side = flow.client_side
        assert side is not None
        self._peers[side.fd] = PREFACED
        side.pipe = pipe = self.pipes.take(side.fd)
        pipe.held += os.write(pipe.writer, data)
        side.half = Half.HELD

    def attach(self, flow: Flow, endpoint_fd: int) -> None:
        """Give the flow a (new) endpoint's socket; what the client sent meanwhile is kept for it."""
        client = flow.client_side
        assert client is not None
        side = Side(endpoint_fd, flow, self.owner)
        side.peer, client.peer = client, side
        flow.endpoint_side = side
        mask = READING
        if client.half is FLOWING:
            self._peers[client.fd] = endpoint_fd  # before anything is read
        else:
            self._peers[client.fd] = self._peers[client.fd] & PREFACED | endpoint_fd
            flow.young, mask = 1, READING | OUT
        if flow.started:
            mask = READING | OUT
        self._poller.add(side, mask)
        if client.mask < 0:
            self._poller.add(client, READING)

    def detach(self, flow: Flow) -> None:
        """Take away an endpoint's socket that never connected."""
        side = flow.endpoint_side
        flow.discount()
        if side is not None:
            assert side.peer is not None
            self._peers[side.peer.fd] &= PREFACED
            self._poller.bury(side)
            side.peer = None
            flow.endpoint_side = None

    def connected(self, flow: Flow) -> None:
        """The endpoint has answered."""
        flow.connected = True
        if flow.started:
            flow.traffic.connected(monotonic() - flow.started)
            flow.started = 0.0
            self.watch(flow)

    def settle(self, flow: Flow) -> None:
        """The flow lives on: give its endpoint's socket what a short one does without."""
        if flow.young and flow.open and flow.endpoint_side is not None:
            flow.young = 0
            sockets.settle(flow.endpoint_side.fd)

    # -- from one process to another -------------------------------------------------------------------

    def adopt(
        self,
        flow: Flow,
        fds: Sequence[int],
        halves: Sequence[Half],
        pipes: Sequence[Pipe | None],
        prefaced: bool,
    ) -> None:
        """Go on with a flow of another process: the client's socket first, then the endpoint's.

        ``prefaced``: a header of ours was the first that the endpoint was given, or is to be given.
        """
        self.active += 1
        flow.traffic.active += 1
        flow.young = 1  # whether it was settled is not known; twice does no harm
        client, endpoint = [Side(fd, flow, self.owner) for fd in fds]
        flow.client_side, flow.endpoint_side = client, endpoint
        client.peer, endpoint.peer = endpoint, client
        for side, half, pipe in zip((client, endpoint), halves, pipes, strict=True):
            side.half, side.pipe = half, pipe
            if pipe is not None:
                self.pipes.adopt(side.fd, pipe)
        self._peers[client.fd] = endpoint.fd | PREFACED if prefaced else endpoint.fd
        self.watch_again(flow)

    def watch_again(self, flow: Flow) -> None:
        """Watch a connected flow that is not watched."""
        for side in flow.sides():
            if side.peer is not None:
                self._poller.add(side, interest(side.peer.half))

    def let_go(self, flow: Flow) -> None:
        """Another process has the flow now: close our descriptors, which tells its peers nothing."""
        if flow.client_side is not None:
            self._peers[flow.client_side.fd] = 0
        for side in flow.sides():
            if side.pipe is not None:
                side.pipe.held = -1  # it is another's now, not to be used again
            self.release(side)
            os.close(side.fd)
            side.peer = None
        flow.open = False
        flow.client_side = flow.endpoint_side = None
        self.active -= 1

    # -- going on, and ending --------------------------------------------------------------------------

    def watch(self, flow: Flow) -> None:
        """Wait for what the directions' states ask for."""
        client, endpoint = flow.client_side, flow.endpoint_side
        if client is not None and endpoint is not None:
            self._poller.change(client, interest(endpoint.half))
            self._poller.change(endpoint, interest(client.half))

    def release(self, side: Side) -> None:
        """Give back the pipe of what is read from here."""
        if side.pipe is not None:
            self.pipes.give(side.fd, side.pipe)
            side.pipe = None

    def reset(self, flow: Flow) -> None:
        """End a flow by RST in both directions."""
        for side in flow.sides():
            sockets.reset_at_close(side.fd)
        self.close(flow)

    def close(self, flow: Flow) -> None:
        """End a flow. Its objects let go of one another, so that they need no garbage collector."""
        if not flow.open:
            return
        flow.open = False
        if flow.load is not None:
            flow.discount()
        client, endpoint = flow.client_side, flow.endpoint_side
        flow.client_side = flow.endpoint_side = None
        if client is not None:
            self._peers[client.fd] = 0
            self._end(client)
        if endpoint is not None:
            self._end(endpoint)
        flow.traffic.active -= 1
        self.active -= 1

    def tidy(self) -> None:
        """Give back the descriptors of flows that were ended outside of an event."""
        self._poller.flush()

    def _end(self, side: Side) -> None:
        self._poller.bury(side)
        if side.pipe is not None:
            self.release(side)
        side.peer = None
