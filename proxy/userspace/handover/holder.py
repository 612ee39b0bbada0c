"""The one who gives: relays what is left, until a successor asks or time is up. The laws are the room's."""

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

from proxy.userspace.handover.protocol import BATCH, TAKEN, send, sides
from proxy.userspace.poller import Poller
from proxy.userspace.streams.engine import TICK
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.ledger import PREFACED
from proxy.userspace.streams.relaying import Relay
from proxy.userspace.worker import Worker

ANSWER_SECONDS = 5.0  # for a successor to take a batch


def offer(path: Path) -> socket.socket:
    """A socket at which a successor may ask. Raises OSError where it cannot be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(ANSWER_SECONDS)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


class Holder:
    """Relays what is left, and gives it away. ``accepting``: clients are served until a successor asks."""

    def __init__(self, worker: Worker, listener: socket.socket, *, accepting: bool) -> None:
        self._worker = worker
        self._engine = worker.engine
        self._ledger = worker.ledger
        self._relay: Relay = worker.engine.relay
        self._poller: Poller = worker.engine.poller
        self._listener = listener
        self._accepting = accepting
        self._successor: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self._poller.fileno(), select.POLLIN)
        self._poll.register(listener.fileno(), select.POLLIN)

    def hold(self, until: float) -> None:
        """Until nothing is left to do, or ``until`` (monotonic seconds), when what is left ends by RST."""
        if not self._accepting:
            self._worker.stop_accepting()
        checked, gave = 0.0, False
        while (self._engine.active or self._accepting) and monotonic() < until:
            ready = {fd for fd, _ in self._poll.poll(0 if gave else TICK * 1000)}
            self._poller.dispatch()
            if monotonic() - checked >= TICK:
                checked = monotonic()
                self._engine.check_connecting()
            if self._listener.fileno() in ready and self._successor is None:
                self._successor, _ = self._listener.accept()
                self._successor.settimeout(ANSWER_SECONDS)
                self._accepting = False
                self._worker.stop_accepting()
            gave = self._successor is not None and self._give()
        for flow in [*self._engine.flows(), *self._engine.connecting()]:
            self._relay.reset(flow)
        self._poller.flush()
        if self._successor is not None:
            self._successor.close()  # which tells it that there is no more
        self._listener.close()

    def _give(self) -> bool:
        """One batch, if there is any; flows whose endpoint has not answered yet are given once it has."""
        batch = []
        for flow in self._engine.flows():
            if flow.connected and flow.endpoint_side is not None:
                batch.append(flow)
                if len(batch) == BATCH:
                    break
        if batch:
            self._give_batch(batch)
        return bool(batch)

    def _give_batch(self, batch: Sequence[Flow]) -> None:
        assert self._successor is not None
        since = monotonic()
        peers, doubt = self._ledger.peers, self._ledger.doubt
        clients = [sides(flow)[0].fd for flow in batch]
        paired = [peers[fd] for fd in clients]
        prefaced = [pair & PREFACED != 0 for pair in paired]
        doubt[0] = 1
        for flow, fd in zip(batch, clients, strict=True):
            for side in sides(flow):
                self._poller.forget(side)
            peers[fd] = 0
        if _taken(self._successor, batch, prefaced, since):
            for flow in batch:
                self._relay.let_go(flow)
        else:
            for fd, pair in zip(clients, paired, strict=True):
                peers[fd] = pair
            self._keep(batch)
        doubt[0] = 0

    def _keep(self, batch: Sequence[Flow]) -> None:
        """The successor is gone, or too slow: another one may come, or the same again."""
        for flow in batch:
            self._relay.watch_again(flow)
        assert self._successor is not None
        self._successor.close()
        self._successor = None


def _taken(successor: socket.socket, batch: Sequence[Flow], prefaced: Sequence[bool], since: float) -> bool:
    """Send a batch; whether the successor has taken it, which is so for good once this returns."""
    try:
        send(successor, batch, prefaced, since)
        return successor.recv(1) == TAKEN
    except OSError:  # no answer in time, or nobody to give one
        pass
    with suppress(OSError):
        successor.shutdown(socket.SHUT_RD)
        while True:
            try:
                return successor.recv(1) == TAKEN
            except ConnectionResetError:  # told once, and before what was said earlier
                continue
    return False
