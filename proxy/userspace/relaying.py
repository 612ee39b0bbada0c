"""The moving of bytes between the two sides of each flow.

Why on bare descriptors: no byte stays in user space past a turn of the loop. What a sink does not take goes
into the flow's pipe, so a flow is nothing but descriptors and flags, and memory is bounded by the kernel.
What is decided (when to read, hold and end) stands in ``relay``; here it is carried out.
"""

import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from time import monotonic

from proxy.userspace.dialing import settle
from proxy.userspace.flow import Flow, Side
from proxy.userspace.ledger import Ledger
from proxy.userspace.pipes import PIPE_BYTES, Pipe, PipePool
from proxy.userspace.poller import Poller
from proxy.userspace.relay import NEXT, READING, Event, Half, finished, interest, passes_fin
from proxy.userspace.syscalls import end_writing, send_more

CHUNK = 32 * 1024  # one copied read; it fits into a pipe of the default size
BULK_AFTER = 3  # full reads in a row that turn a direction to splice(2)
BULK_CREDIT = 16  # small splices until it turns back to copying
SMALL = 4096
SPLICES = 4  # per event, so that one bulk flow does not starve the others
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close(2) sends RST
OUT, ERR, PRI, RDHUP = select.EPOLLOUT, select.EPOLLERR, select.EPOLLPRI, select.EPOLLRDHUP
FLOWING, ENDED = Half.FLOWING, Half.ENDED
read, write = os.read, os.write


class Relay:
    """Moves bytes for all flows. ``refused`` is told of a connect that another endpoint may serve instead."""

    def __init__(self, poller: Poller, refused: Callable[[Flow, int], bool], ledger: Ledger) -> None:
        self._poller = poller
        self._refused = refused
        self._peers = ledger.peers
        self.pipes = PipePool(ledger)
        self.active = 0

    # -- what the connector uses -----------------------------------------------------------------------

    def open(self, flow: Flow, client_fd: int) -> None:
        """A flow begins with its client's socket; it is watched once an endpoint is dialled."""
        self.active += 1
        flow.traffic.active += 1
        flow.client_side = Side(client_fd, flow, self)

    def preface(self, flow: Flow, data: bytes) -> None:
        """What the endpoint is to read before anything of the client. Raises OSError where it cannot be kept."""
        side = flow.client_side
        assert side is not None
        side.pipe = pipe = self.pipes.take(side.fd)
        pipe.held += os.write(pipe.writer, data)
        side.half = Half.HELD

    def attach(self, flow: Flow, endpoint_fd: int) -> None:
        """Give the flow a (new) endpoint's socket; what the client sent meanwhile is kept for it."""
        client = flow.client_side
        assert client is not None
        side = Side(endpoint_fd, flow, self)
        side.peer, client.peer = client, side
        flow.endpoint_side = side
        self._peers[client.fd] = endpoint_fd  # before anything is read
        mask = READING
        if client.half is not FLOWING:
            flow.young, mask = 1, READING | OUT
        elif flow.started:
            mask = READING | OUT
        self._poller.add(side, mask)
        if client.mask < 0:
            self._poller.add(client, READING)

    def settle(self, flow: Flow) -> None:
        """The flow lives on: give its endpoint's socket what a short one does without."""
        if flow.young and flow.open and flow.endpoint_side is not None:
            flow.young = 0
            settle(flow.endpoint_side.fd)

    def detach(self, flow: Flow) -> None:
        """Take away an endpoint's socket that never connected."""
        side = flow.endpoint_side
        flow.discount()
        if side is not None:
            assert side.peer is not None
            self._peers[side.peer.fd] = 0
            self._poller.bury(side)
            side.peer = None
            flow.endpoint_side = None

    def adopt(
        self, flow: Flow, fds: Sequence[int], halves: Sequence[Half], pipes: Sequence[Pipe | None]
    ) -> None:
        """Go on with a flow of another process: the client's socket first, then the endpoint's."""
        self.active += 1
        flow.traffic.active += 1
        flow.young = 1  # whether it was settled is not known; twice does no harm
        client, endpoint = (Side(fd, flow, self) for fd in fds)
        flow.client_side, flow.endpoint_side = client, endpoint
        client.peer, endpoint.peer = endpoint, client
        for side, half, pipe in zip((client, endpoint), halves, pipes, strict=True):
            side.half, side.pipe = half, pipe
            if pipe is not None:
                self.pipes.adopt(side.fd, pipe)
        self._peers[client.fd] = endpoint.fd
        self.watch_again(flow)

    def watch_again(self, flow: Flow) -> None:
        """Watch a connected flow that is not watched."""
        for side in (flow.client_side, flow.endpoint_side):
            if side is not None and side.peer is not None:
                self._poller.add(side, interest(side.peer.half))

    def let_go(self, flow: Flow) -> None:
        """Another process has the flow now: close our descriptors, which tells its peers nothing."""
        if flow.client_side is not None:
            self._peers[flow.client_side.fd] = 0
        for side in (flow.client_side, flow.endpoint_side):
            if side is not None:
                if side.pipe is not None:
                    side.pipe.held = -1  # it is another's now, not to be used again
                self._release(side)
                os.close(side.fd)
                side.peer = None
        flow.open = False
        flow.client_side = flow.endpoint_side = None
        self.active -= 1

    def connected(self, flow: Flow) -> None:
        """The endpoint has answered."""
        flow.connected = True
        if flow.started:
            flow.traffic.connected(monotonic() - flow.started)
            flow.started = 0.0
            self._watch(flow)

    def tidy(self) -> None:
        """Give back the descriptors of flows that were ended outside of an event."""
        self._poller.flush()

    def reset(self, flow: Flow) -> None:
        """End a flow by RST in both directions."""
        for side in (flow.client_side, flow.endpoint_side):
            if side is not None:
                _set_linger(side.fd)
        self.close(flow)

    def close(self, flow: Flow) -> None:
        """End a flow. Its objects let go of one another, so that they need no garbage collector."""
        if not flow.open:
            return
        flow.open = False
        if flow.load is not None:
            flow.discount()
        if flow.client_side is not None:
            self._peers[flow.client_side.fd] = 0
        for side in (flow.client_side, flow.endpoint_side):
            if side is not None:
                self._poller.bury(side)
                if side.pipe is not None:
                    self._release(side)
                side.peer = None
        flow.client_side = flow.endpoint_side = None
        flow.traffic.active -= 1
        self.active -= 1

    # -- events ----------------------------------------------------------------------------------------

    def ready(self, side: Side, events: int) -> None:
        """Events of one side's socket that are more than something to read."""
        if events & ERR:
            self._error(side)
            return
        self._writable(side)
        if side.flow.open and side.half is FLOWING and events & ~OUT:
            if events & PRI:
                self._urgent(side)
            self.read(side, events)

    def _urgent(self, side: Side) -> None:
        """An urgent byte is on its way: a read stops before it, whatever comes after it, and a splice stays there."""
        side.credit = 0
        self._release(side)
        self._poller.arm(side)

    def _error(self, side: Side) -> None:
        flow = side.flow
        if side is flow.endpoint_side and not flow.connected and self._refused(flow, _error_of(side.fd)):
            return
        self.reset(flow)

    def _writable(self, sink: Side) -> None:
        flow, source = sink.flow, sink.peer
        assert source is not None
        if sink is flow.endpoint_side and not flow.connected:
            self.connected(flow)
        if source.half in (Half.HELD, Half.HELD_LAST) and self._empty(source, sink):
            self._step(source, Event.DRAINED)
            if flow.open and source.half is FLOWING:
                self._poller.arm(source)  # what came meanwhile has been told of

    def read(self, side: Side, events: int, early: bytes = b"") -> None:
        """Move what there is to read from one side to the other, a bounded number of times.

        ``early``: what has been read of it already. Written to be short for small messages, which are most.
        """
        flow, sink = side.flow, side.peer
        assert sink is not None
        if side.credit >= BULK_AFTER:
            self._splice(side)
            return
        try:
            data = early or read(side.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.reset(flow)
            return
        if not data:
            self._ended(side)
            return
        size = len(data)
        last = events & RDHUP and size < CHUNK
        try:
            written = send_more(sink.fd, data) if last else write(sink.fd, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._unwritable(side, data, error.errno or 0)
            return
        if side is flow.client_side:
            flow.traffic.received += size
            if flow.young:
                self._grow(flow)
        else:
            flow.traffic.sent += size
        if written != size:
            self._hold(side, data[written:])
            return
        if not flow.connected:
            self.connected(flow)
        if last or side.credit or size == CHUNK:
            self._go_on(side, size, events)

    def _go_on(self, side: Side, size: int, events: int) -> None:
        """After a read of ``size``: there is more, perhaps in bulk, or the end; or nothing, as far as is known."""
        if size < CHUNK:
            side.credit = 0
            if events & RDHUP:
                self.read(side, events)
        elif side.credit < BULK_AFTER - 1:
            side.credit += 1
            self.read(side, events)
        else:
            side.credit = BULK_AFTER + BULK_CREDIT
            self._splice(side)

    def _grow(self, flow: Flow) -> None:
        if flow.young == 1:
            self.settle(flow)  # a second small message must not wait until the first is acknowledged
        else:
            flow.young = 1

    def _unwritable(self, side: Side, data: bytes, failure: int) -> None:
        """The sink is gone; an endpoint that never was there is replaced, and what was read goes to the next."""
        flow = side.flow
        if side is flow.client_side and not flow.connected:
            self._count(side, len(data))
            self._hold(side, data)
            if not flow.open or self._refused(flow, failure):
                return
        self.reset(flow)

    def _hold(self, side: Side, rest: bytes) -> None:
        self.settle(side.flow)
        try:
            pipe: Pipe | None = side.pipe or self.pipes.take(side.fd)
            assert pipe is not None
            side.pipe = pipe
            pipe.held += os.write(pipe.writer, rest)
        except OSError:
            pipe = None
        if pipe is None or pipe.held != len(rest):  # no descriptor is left: the bytes have nowhere to be
            self._lost(side.flow)
            return
        self._step(side, Event.BLOCKED)

    def _lost(self, flow: Flow) -> None:
        flow.traffic.reject("descriptors")
        self.reset(flow)

    def _splice(self, side: Side) -> None:
        flow, sink = side.flow, side.peer
        assert sink is not None
        try:
            pipe = side.pipe = side.pipe or self.pipes.take(side.fd)
        except OSError:
            side.credit = 0  # no descriptor for a pipe: copying needs none while the sink keeps up
            return
        for _ in range(SPLICES):
            try:
                moved = os.splice(side.fd, pipe.writer, PIPE_BYTES, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return
            except OSError:
                self.reset(flow)
                return
            if not moved:  # the end; or an urgent byte before it, which splice(2) does not tell apart
                side.credit = 0
                self._release(side)
                self.read(side, RDHUP)
                return
            pipe.held += moved
            self._count(side, moved)
            if not self._empty(side, sink):
                if flow.open:
                    self._step(side, Event.BLOCKED)
                return
            side.credit = side.credit - 1 if moved < SMALL else BULK_AFTER + BULK_CREDIT
            if side.credit < BULK_AFTER:
                side.credit = 0
                self._release(side)
                break
        self._poller.arm(side)

    # -- effects ---------------------------------------------------------------------------------------

    def _empty(self, source: Side, sink: Side) -> bool:
        """Move what is held on to the sink; False where some is left, or where the flow had to be reset."""
        pipe = source.pipe
        while pipe is not None and pipe.held:
            try:
                pipe.held -= os.splice(pipe.reader, sink.fd, pipe.held, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                self.reset(source.flow)
                return False
        return True

    def _ended(self, side: Side) -> None:
        flow, sink = side.flow, side.peer
        assert sink is not None
        if not flow.connected:
            if side is flow.client_side:
                self._step(side, Event.EOF_EARLY)
                return
            self.connected(flow)
        if side.credit:
            self._release(side)
        side.half = ENDED  # NEXT[FLOWING, EOF], for which nothing else is to be waited for
        if sink.half is ENDED:
            self.close(flow)  # which passes the FIN on as well
        else:
            end_writing(sink.fd)

    def _step(self, source: Side, event: Event) -> None:
        sink = source.peer
        assert sink is not None
        before, after = source.half, NEXT[source.half, event]
        source.half = after
        if after is Half.ENDED or (after is FLOWING and source.credit < BULK_AFTER):
            self._release(source)
        if passes_fin(before, after):
            if finished(after, sink.half):
                self.close(source.flow)  # which passes the FIN on as well
                return
            end_writing(sink.fd)
        self._watch(source.flow)

    def _watch(self, flow: Flow) -> None:
        client, endpoint = flow.client_side, flow.endpoint_side
        if client is None or endpoint is None:
            return
        self._poller.change(client, interest(endpoint.half))
        self._poller.change(endpoint, interest(client.half))

    def _count(self, side: Side, size: int) -> None:
        traffic = side.flow.traffic
        if side is side.flow.client_side:
            traffic.received += size
        else:
            traffic.sent += size

    def _release(self, side: Side) -> None:
        if side.pipe is not None:
            self.pipes.give(side.fd, side.pipe)
            side.pipe = None


def _error_of(fd: int) -> int:
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    finally:
        sock.detach()


def _set_linger(fd: int) -> None:
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    finally:
        sock.detach()
