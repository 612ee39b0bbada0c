"""A worker whose proxy has gone holds its flows, and gives them to a worker of the next proxy.

Why a holder: a supervisor starts the next process when the last one has ended, and that takes most of a
second in which no byte may wait. So the worker goes on relaying with nothing but the epoll set, until a
successor asks for the flows at a unix socket, or none is left, or time is up.

Why this is safe: between two events a flow is descriptors and flags, and nothing of it is in user space. Two processes
that relay one flow would corrupt it, and where none does it stands still; so one word decides who does, the ``+`` of
the successor.

The laws:
1. The holder watches no flow of a batch from before it sends it.
2. The successor reads a batch whole, then says ``+``, and watches its flows only where the kernel has taken the word.
   Where that fails it closes its copies, which tells the flows' peers nothing, and may ask again.
3. The holder takes a batch back only where the word can come no more: it shuts its end for reading, from when on the
   kernel refuses the word (EPIPE), and then reads what was said before.
4. A process that is killed in between cannot know, and nor can the one that follows it. So both mark the time from
   sending, or receiving, until all is decided in their ledgers, and hold flows of the batch as nobody's meanwhile: what
   is found so is ended by RST for both (``recovery``), a batch at most.
"""

import array
import asyncio
import logging
import os
import select
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from proxy.model import Endpoint, Frontend, Protocol, ServicePort
from proxy.userspace.engine import TICK
from proxy.userspace.flow import Flow, Side
from proxy.userspace.ledger import PREFACED
from proxy.userspace.pipes import Pipe
from proxy.userspace.poller import Poller
from proxy.userspace.relay import Half
from proxy.userspace.relaying import Relay
from proxy.userspace.takeover import Takeover
from proxy.userspace.worker import Worker

log = logging.getLogger(__name__)

# A flow on its way, as ``Relay.adopt`` takes it.
Arrival = tuple[Flow, Sequence[int], Sequence[Half], Sequence[Pipe | None], bool]

FORMAT = 1
BATCH = 40  # flows a message: six descriptors each at most, and the kernel carries 253 (SCM_MAX_FD)
LARGEST = 128 * 1024  # bytes a message
ANSWER_SECONDS = 5.0
TAKEN = b"+"
TRIES = 5  # in a row to take over one batch; the holder gives ANSWER_SECONDS for each
NAME = "proxy-flows-{pid}.sock"


def waiting(directory: Path) -> list[Path]:
    """The sockets at which holders wait, or waited."""
    return sorted(directory.glob(NAME.format(pid="*")))


def connect(path: Path) -> socket.socket | None:
    """A connection to a holder; None where nobody is behind the socket any more, which is removed then."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        path.unlink(missing_ok=True)
        return None
    sock.setblocking(False)
    return sock


# -- the holder ----------------------------------------------------------------------------------------


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
        checked = 0.0
        while (self._engine.active or self._accepting) and monotonic() < until:
            ready = {fd for fd, _ in self._poll.poll(TICK * 1000)}
            self._poller.dispatch()
            if monotonic() - checked >= TICK:
                checked = monotonic()
                self._engine.check_connecting()
            if self._listener.fileno() in ready and self._successor is None:
                self._successor, _ = self._listener.accept()
                self._successor.settimeout(ANSWER_SECONDS)
                self._accepting = False
                self._worker.stop_accepting()
            if self._successor is not None:
                self._give()
        for flow in [*self._engine.flows(), *self._engine.connecting()]:
            self._relay.reset(flow)
        self._poller.flush()
        if self._successor is not None:
            self._successor.close()  # which tells it that there is no more
        self._listener.close()

    def _give(self) -> None:
        """One batch; flows whose endpoint has not answered yet are given once it has."""
        batch = []
        for flow in self._engine.flows():
            if flow.connected and flow.endpoint_side is not None:
                batch.append(flow)
                if len(batch) == BATCH:
                    break
        if batch:
            self._give_batch(batch)

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


def sides(flow: Flow) -> tuple[Side, Side]:
    """Both sides of a flow that has both."""
    assert flow.client_side is not None
    assert flow.endpoint_side is not None
    return flow.client_side, flow.endpoint_side


# -- one message ---------------------------------------------------------------------------------------


def send(sock: socket.socket, flows: Sequence[Flow], prefaced: Sequence[bool], since: float) -> None:
    """Flows as one message: what they are as JSON, and their descriptors in the same order.

    ``prefaced``: see ``Relay.adopt``. ``since``: the moment from which nobody relays them, in monotonic seconds.
    """
    entries: list[dict[str, Any]] = []
    descriptors = array.array("i")
    for flow, was_prefaced in zip(flows, prefaced, strict=True):
        entries.append(_describe(flow, was_prefaced))
        for side in sides(flow):
            descriptors.append(side.fd)
            if side.pipe is not None:
                descriptors.extend((side.pipe.reader, side.pipe.writer))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
    sock.sendmsg([orjson.dumps({"format": FORMAT, "since": since, "flows": entries})], rights)


def _describe(flow: Flow, prefaced: bool) -> dict[str, Any]:
    frontend, service, endpoint = flow.listener.frontend, flow.listener.target.service, flow.endpoint
    assert endpoint is not None
    return {
        "frontend": [str(frontend.address), frontend.port, frontend.protocol],
        "service": [service.namespace, service.name, service.port],
        "endpoint": [str(endpoint.address), endpoint.port, endpoint.local],
        "client": flow.client.text,
        "prefaced": prefaced,
        "halves": [int(side.half) for side in sides(flow)],
        # Bytes in the pipe of each direction; None where it has no pipe.
        "held": [None if side.pipe is None else side.pipe.held for side in sides(flow)],
    }


def receive(sock: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    """A message and its descriptors; empty at the end. Raises BlockingIOError, OSError, ValueError."""
    size = array.array("i").itemsize
    space = socket.CMSG_SPACE(253 * size)
    message, notes, flags, _ = sock.recvmsg(LARGEST, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    if not message:
        return {}, []
    cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    document = {} if cut else orjson.loads(message)
    if document.get("format") != FORMAT:
        _close(descriptors)
        raise ValueError("cut short: no descriptor is left" if cut else f"format {document.get('format')}")
    return document, list(descriptors)


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


# -- the successor -------------------------------------------------------------------------------------


class Late(Exception):
    """The holder has taken the batch back before we could say that we have it."""


class Heir:
    """Takes flows over from one holder, batch by batch, for a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.flows = 0
        self.longest = 0.0

    def take(self, sock: socket.socket) -> bool:
        """Take one batch and say so; False where there is no more, or the holder is gone.

        Raises BlockingIOError where there is nothing yet; Late where the holder does not wait for us any more, and
        OSError, ValueError where the batch cannot be taken: its flows are the holder's then.
        """
        doubt = self._worker.ledger.doubt
        doubt[0] = 1
        try:
            message, descriptors = receive(sock)
            if not message:
                return False
            arrivals = self._claim(sock, message, descriptors)
            for arrival in arrivals:
                self._adopt(*arrival)
            self.flows += len(arrivals)
        finally:
            doubt[0] = 0
        now = monotonic()
        self.longest = max(self.longest, now - message.get("since", now))  # older ones do not say it
        return True

    def _claim(
        self, sock: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int]
    ) -> list[Arrival]:
        """Read a batch and say that we have it: from then on it is ours alone."""
        try:
            rest = iter(descriptors)
            arrivals = [self._read(entry, rest) for entry in message["flows"]]
        except (LookupError, TypeError, ValueError, StopIteration) as error:
            _close(descriptors)
            raise ValueError(f"a batch that makes no sense: {error!r}") from error
        try:
            sock.send(TAKEN)
        except OSError as error:
            _close(descriptors)
            raise Late from error
        return arrivals

    def _read(self, entry: Mapping[str, Any], rest: Iterator[int]) -> Arrival:
        address, port, protocol = entry["frontend"]
        frontend = Frontend(ip_address(address), port, Protocol(protocol))
        service = ServicePort(*entry["service"])
        address, port, local = entry["endpoint"]
        endpoint = Endpoint(ip_address(address), port, local)
        flow = self._worker.former_flow(frontend, service, entry["client"], endpoint)
        fds, pipes = [], []
        for held in entry["held"]:
            fds.append(next(rest))
            pipes.append(None if held is None else Pipe(next(rest), next(rest), held))
        halves = [Half(half) for half in entry["halves"]]
        return flow, fds, halves, pipes, bool(entry.get("prefaced"))  # older ones do not say it

    def _adopt(self, flow: Flow, *arrived: Any) -> None:
        try:
            self._worker.engine.adopt(flow, *arrived)
        except OSError as error:  # nobody else has it now
            log.warning("cannot go on with a flow that was taken over, it ends: %s", error)
            self._worker.engine.relay.reset(flow)
            self._worker.engine.relay.tidy()
            return
        flow.count_at_endpoint()
        self._worker.take_up(flow)


async def inherit(worker: Worker, path: Path) -> Takeover:
    """Take over all flows of the holder at ``path``."""
    heir = Heir(worker)
    tries = 0
    while tries < TRIES and (connection := connect(path)) is not None:
        before = heir.flows
        with connection as sock:
            if not await _inherit_until_late(heir, sock, path):
                break
        tries = tries + 1 if heir.flows == before else 0
    return Takeover(heir.flows, heir.longest)


async def _inherit_until_late(heir: Heir, sock: socket.socket, path: Path) -> bool:
    """Whether to ask the same holder again: it has more, and would not wait for us."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[bool] = loop.create_future()

    def take() -> None:
        late = False
        try:
            if heir.take(sock):
                return
        except BlockingIOError:
            return
        except Late:
            late = True
        except (OSError, ValueError) as error:
            log.warning("cannot take over more flows from %s: %s", path, error)
        loop.remove_reader(sock)
        ended.set_result(late)

    loop.add_reader(sock, take)
    try:
        return await ended
    finally:
        loop.remove_reader(sock)
