"""The one who takes over: asks a holder for its flows, batch by batch. The laws are the room's."""

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any

from proxy.model import Endpoint, Frontend, Protocol, ServicePort
from proxy.userspace.handover.protocol import TAKEN, close, receive
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.pipes import Pipe
from proxy.userspace.streams.relay import Half
from proxy.userspace.worker import Worker

log = logging.getLogger(__name__)

# A flow on its way, as ``Relay.adopt`` takes it.
Arrival = tuple[Flow, Sequence[int], Sequence[Half], Sequence[Pipe | None], bool]

TRIES = 5  # in a row to take over one batch; the holder waits for each of them (``holder.ANSWER_SECONDS``)


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
            close(descriptors)
            raise ValueError(f"a batch that makes no sense: {error!r}") from error
        try:
            sock.send(TAKEN)
        except OSError as error:
            close(descriptors)
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
