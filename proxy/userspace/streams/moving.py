"""The moving of bytes between the two sides of each flow.

What is decided (when to read, hold and end) stands in ``relay``; here it is carried out. Small messages are copied,
a direction that turns bulk is spliced through a pipe, and what a sink does not take waits in such a pipe. Where no
pipe is to be had it waits unread: it is looked at, passed on, and only then read, as much as the sink has taken.
"""

import os
from collections.abc import Callable
from typing import Final

from proxy.userspace import sockets
from proxy.userspace.poller import Poller
from proxy.userspace.streams.flow import Flow, Owner, Side
from proxy.userspace.streams.pipes import PIPE_BYTES
from proxy.userspace.streams.relay import (
    ENDED,
    ERR,
    FLOWING,
    NEXT,
    OUT,
    PRI,
    RDHUP,
    Event,
    Half,
    finished,
    passes_fin,
)
from proxy.userspace.streams.relaying import Relay
from proxy.userspace.syscalls import CHUNK, end_writing, move, write

BULK_AFTER: Final = 3  # full reads in a row that turn a direction to splice(2)
BULK_CREDIT: Final = 16  # small splices until it turns back to copying
SMALL: Final = 4096
SPLICES: Final = 2  # per event, so that one bulk flow does not starve the others
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Mover(Owner):
    """Moves bytes for all flows. ``refused`` is told of a connect that another endpoint may serve instead."""

    def __init__(self, relay: Relay, poller: Poller, refused: Callable[[Flow, int], bool]) -> None:
        self._relay = relay
        self._poller = poller
        self._refused = refused
        relay.owner = self

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

    def broken(self, flow: Flow) -> None:
        """A bug of ours met this flow: it ends, the others go on."""
        self._relay.reset(flow)

    def _urgent(self, side: Side) -> None:
        """An urgent byte is on its way: a read stops before it, whatever comes after it, and a splice stays there."""
        side.credit = 0
        self._relay.release(side)
        self._poller.arm(side)

    def _error(self, side: Side) -> None:
        flow = side.flow
        if (
            side is flow.endpoint_side
            and not flow.connected
            and self._refused(flow, sockets.error_of(side.fd))
        ):
            return
        self._relay.reset(flow)

    def _writable(self, sink: Side) -> None:
        flow, source = sink.flow, sink.peer
        assert source is not None
        if sink is flow.endpoint_side and not flow.connected:
            self._relay.connected(flow)
        held = source.half in (Half.HELD, Half.HELD_LAST)
        if held and self._empty(source, sink):
            self._step(source, Event.DRAINED)
            if flow.open and source.half is FLOWING:
                self._poller.arm(source)  # what came meanwhile has been told of

    # -- copying ---------------------------------------------------------------------------------------

    def read(self, side: Side, events: int) -> None:
        """Move what there is to read from one side to the other, a bounded number of times.

        Written to be short for small messages, which are most.
        """
        sink = side.peer
        assert sink is not None
        if side.credit >= BULK_AFTER:
            self._splice(side)
            return
        pipes = self._relay.pipes
        if pipes.lacking and not pipes.has_spare():
            self._pass_on(side, events)
            return
        try:
            moved = move(side.fd, sink.fd, events & RDHUP != 0)
        except OSError:
            self._relay.reset(side.flow)
            return
        if not isinstance(moved, int):
            data, written, failure = moved
            self._not_taken(side, data, written, failure)
        elif moved > 0:
            self._taken(side, moved)
            if side.credit or moved == CHUNK or events & RDHUP:
                self._go_on(side, moved, events)
        elif not moved:
            self._ended(side)

    def pass_early(self, side: Side, data: bytes) -> None:
        """Give a new endpoint what the client had sent before it was dialled."""
        sink = side.peer
        assert sink is not None
        try:
            written = write(sink.fd, data)
        except OSError as error:
            self._not_taken(side, data, 0, error.errno or 0)
            return
        if written != len(data):
            self._not_taken(side, data, written, 0)
            return
        self._taken(side, written)
        if written == CHUNK:
            self._go_on(side, written, 0)

    def _taken(self, side: Side, size: int) -> None:
        self._count(side, size)
        if not side.flow.connected:
            self._relay.connected(side.flow)

    def _not_taken(self, side: Side, data: bytes, written: int, failure: int) -> None:
        """The sink did not take all that was read, or is gone for the reason that ``failure`` is the number of."""
        if failure:
            self._unwritable(side, data, failure)
            return
        self._count(side, len(data))
        self._hold(side, data[written:])

    def _pass_on(self, side: Side, events: int) -> None:
        """As ``read``, with nowhere for what the sink does not take: that stays unread until it does.

        One that is killed between the write and the read has given more than it took, by which the next one knows.
        """
        flow, sink = side.flow, side.peer
        assert sink is not None
        try:
            data = sockets.peek(side.fd, CHUNK)
        except OSError:
            self._relay.reset(flow)
            return
        if data is None:
            return
        if not data:
            self._ended(side)
            return
        try:
            written = write(sink.fd, data)
        except OSError as error:
            self._unwritable(side, b"", error.errno or 0)
            return
        self._count(side, written)
        if written and len(os.read(side.fd, written)) != written:
            self._relay.reset(flow)
        elif written != len(data):
            self._wait(side)
        else:
            if not flow.connected:
                self._relay.connected(flow)
            self._go_on(side, written, events)

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

    def _count(self, side: Side, size: int) -> None:
        flow = side.flow
        if side is not flow.client_side:
            flow.traffic.sent += size
            return
        flow.traffic.received += size
        if flow.young == 1:
            self._relay.settle(flow)  # a second small message must not wait until the first is acknowledged
        elif flow.young:
            flow.young = 1

    def _unwritable(self, side: Side, data: bytes, failure: int) -> None:
        """The sink is gone; an endpoint that never was there is replaced, and what was read goes to the next."""
        flow = side.flow
        if side is flow.client_side and not flow.connected:
            flow.traffic.received += len(data)
            if data:
                self._hold(side, data)
            else:
                self._wait(side)
            if not flow.open or self._refused(flow, failure):
                return
        self._relay.reset(flow)

    # -- holding and splicing --------------------------------------------------------------------------

    def _hold(self, side: Side, rest: bytes) -> None:
        try:
            pipe = side.pipe or self._relay.pipes.take_any(side.fd)
            side.pipe = pipe
            pipe.held += os.write(pipe.writer, rest)
        except OSError:
            self._lost(side.flow)
            return
        if pipe.held != len(rest):
            self._lost(side.flow)
            return
        self._wait(side)

    def _wait(self, side: Side) -> None:
        """Until the sink takes something: what is held, or what is unread."""
        self._relay.settle(side.flow)
        self._step(side, Event.BLOCKED)

    def _lost(self, flow: Flow) -> None:
        """What was read has nowhere to be: the kernel's pipes are too small for it (pipe(7), pipe-user-pages-soft)."""
        flow.traffic.reject("descriptors")
        self._relay.reset(flow)

    def _splice(self, side: Side) -> None:
        flow, sink = side.flow, side.peer
        assert sink is not None
        try:
            pipe = side.pipe or self._relay.pipes.take(side.fd)
        except OSError:
            side.credit = 0  # no descriptor for a pipe: copying needs none while the sink keeps up
            self._poller.arm(side)  # else what is there already would never be told of again
            return
        side.pipe = pipe
        pipe.widen()
        for _ in range(SPLICES):
            try:
                moved = os.splice(side.fd, pipe.writer, PIPE_BYTES, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return
            except OSError:
                self._relay.reset(flow)
                return
            if not moved:  # the end; or an urgent byte before it, which splice(2) does not tell apart
                side.credit = 0
                self._relay.release(side)
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
                self._relay.release(side)
                break
        self._poller.arm(side)

    def _empty(self, source: Side, sink: Side) -> bool:
        """Move what is held on to the sink; False where some is left, or where the flow had to be reset."""
        pipe = source.pipe
        while pipe is not None and pipe.held:
            try:
                pipe.held -= os.splice(pipe.reader, sink.fd, pipe.held, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                self._relay.reset(source.flow)
                return False
        return True

    # -- ending ----------------------------------------------------------------------------------------

    def _ended(self, side: Side) -> None:
        flow, sink = side.flow, side.peer
        assert sink is not None
        if not flow.connected:
            if side is flow.client_side:
                self._step(side, Event.EOF_EARLY)
                return
            self._relay.connected(flow)
        if side.credit:
            self._relay.release(side)
        side.half = ENDED  # NEXT[FLOWING, EOF], for which nothing else is to be waited for
        if sink.half is ENDED:
            self._relay.close(flow)  # which passes the FIN on as well
        else:
            end_writing(sink.fd)

    def _step(self, source: Side, event: Event) -> None:
        sink = source.peer
        assert sink is not None
        before, after = source.half, NEXT[source.half, event]
        source.half = after
        if after is ENDED or (after is FLOWING and source.credit < BULK_AFTER):
            self._relay.release(source)
        if passes_fin(before, after):
            if finished(after, sink.half):
                self._relay.close(source.flow)  # which passes the FIN on as well
                return
            end_writing(sink.fd)
        self._relay.watch(source.flow)
