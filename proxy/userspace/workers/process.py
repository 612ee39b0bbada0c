"""The life of one worker process: recover, serve what the proxy says, and hold the flows when it has gone.

Why it may be killed at any time: nothing is kept here that the next one cannot learn from the kernel, from the
ledger, or from the proxy, which tells everything again as soon as it hears the word hello.
"""

import asyncio
import gc
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvloop

from proxy.codec import decode_frontend, decode_node, decode_targets
from proxy.userspace.handover import heir, holder
from proxy.userspace.streams.ledger import Ledger
from proxy.userspace.worker import Worker
from proxy.userspace.workers import channel
from proxy.userspace.workers.channel import Message
from proxy.userspace.workers.counts import decode_key, encode_traffic
from proxy.userspace.workers.descriptors import table
from proxy.userspace.workers.recovery import Left, Recovery, end_all

log = logging.getLogger(__name__)

COLLECT_CALM, COLLECT = 60.0, 3600.0  # seconds between two runs of the collector, with no flow and with any


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker is told at its start. ``offer``: the socket at which a successor may ask for its flows.

    ``deadline``: seconds to find an endpoint. ``drain``: seconds that flows are held for a successor.
    ``by_endpoint``: traffic is counted by endpoint.
    """

    offer: str
    deadline: float
    drain: float
    by_endpoint: bool


def run(proxy: socket.socket, options: Options, ledger: Ledger, died: float, *, forsake: bool) -> None:
    """Until the proxy has gone and no flow is left.

    ``died``: when there was a worker last, in monotonic seconds. ``forsake``: end what that one has left.
    """
    found, ready = table()
    left = Left(found - {0, 1, 2, proxy.fileno()}, ready, died)
    gc.disable()  # see Service._collect
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(proxy, options, ledger, left, forsake=forsake))


async def _live(proxy: socket.socket, options: Options, ledger: Ledger, left: Left, *, forsake: bool) -> None:
    worker = Worker(deadline=options.deadline, ledger=ledger, by_endpoint=options.by_endpoint)
    if forsake:
        end_all(worker, left.descriptors)
        left = Left(set(), set(), left.died)
    recovery = Recovery(worker, left)
    recovery.begin()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(recovery.go_on())
        service = Service(worker, proxy, recovery, tasks)
        await service.over.wait()
    # The channel stays open: one that follows us, should we be killed now, finds its end there and holds as well.
    if service.hold:
        worker.engine.forsake()
        _hold(worker, Path(options.offer), options.drain, accepting=not service.told_to_stop)
    else:
        await worker.close(keep=False)


def _hold(worker: Worker, path: Path, seconds: float, *, accepting: bool) -> None:
    try:
        listener = holder.offer(path)
    except OSError as error:
        log.warning("cannot leave %d flows to the next proxy, they end now: %s", worker.active, error)
        return
    try:
        holder.Holder(worker, listener, accepting=accepting).hold(monotonic() + seconds)
    finally:
        path.unlink(missing_ok=True)


class Service:
    """Does what the proxy asks, until it says stop or is no more (``over``)."""

    def __init__(
        self, worker: Worker, proxy: socket.socket, recovery: Recovery, tasks: asyncio.TaskGroup
    ) -> None:
        self._worker = worker
        self._proxy = proxy
        self._recovery = recovery
        self._tasks = tasks
        self._me = os.getpid()
        self._collected = monotonic()
        self.over = asyncio.Event()
        self.told_to_stop = False
        self.hold = True
        asyncio.get_running_loop().add_reader(proxy, self._hear)
        self._say({"hello": self._me})

    def _hear(self) -> None:
        while not self.over.is_set():
            try:
                heard = channel.receive(self._proxy)
            except BlockingIOError:
                return
            except channel.CutShort as error:
                log.warning("%s", error)
                continue
            if heard is None:
                self._end()
            elif heard[0]["to"] in (self._me, channel.WHOEVER):
                self._heed(*heard)
            else:  # it was meant for one that was killed
                for fd in heard[1]:
                    os.close(fd)

    def _heed(self, message: Message, descriptors: list[int]) -> None:
        match message["op"]:
            case "serve":
                self._serve(message, descriptors)
                self._answer(message, {})
            case "report":
                self._answer(message, self._report(with_traffic=message["traffic"]))
            case "flows" | "inherit":
                self._tasks.create_task(self._take_time(message))
            case "stop":
                self.told_to_stop, self.hold = True, message["hold"]
                self._end()

    def _serve(self, message: Message, descriptors: list[int]) -> None:
        """Frontends to point, those that are new with their sockets, in order; and others to shut."""
        worker = self._worker
        if message["node"] is not None:
            worker.set_node(decode_node(message["node"]))
        for entry in message["shut"]:
            if (sock := worker.shut(decode_frontend(entry))) is not None:
                sock.close()
        rest = iter(descriptors)
        new = {decode_frontend(entry): socket.socket(fileno=next(rest)) for entry in message["new"]}
        for frontend, target in decode_targets(message["targets"]).items():
            worker.point(frontend, target, new.get(frontend))
        worker.forget(decode_key(entry) for entry in message["forget"])
        if message["complete"]:
            self._recovery.resolve()

    def _report(self, *, with_traffic: bool) -> Message:
        worker = self._worker
        worker.forget(())  # those whose last flow has ended by now
        self._collect()
        traffic = encode_traffic(worker.traffic) if with_traffic else None
        return {
            "active": worker.active + self._recovery.waiting,
            "room": worker.room,
            "most": worker.engine.admission.limit // 2,
            "recovered": self._recovery.takeover.encode(),
            "ejected": worker.ejected,
            "traffic": traffic,
        }

    def _collect(self) -> None:
        """Look for cycles, rarely: relaying leaves none behind, and stands still for 20 ms with 10,000 flows."""
        waited = monotonic() - self._collected
        if waited > (COLLECT if self._worker.active else COLLECT_CALM):
            gc.collect()
            self._collected = monotonic()

    async def _take_time(self, message: Message) -> None:
        if message["op"] == "flows":
            self._answer(message, {"flows": await self._worker.describe()})
        else:
            taken = await heir.inherit(self._worker, Path(message["path"]))
            self._answer(message, {"taken": taken.encode()})

    def _answer(self, message: Message, answer: Message) -> None:
        self._say({"id": message["id"], **answer})

    def _say(self, message: Message) -> None:
        try:
            channel.send(self._proxy, message)
        except BlockingIOError:
            log.warning("the proxy does not listen: it is not told %s", next(iter(message)))
        except OSError:
            pass  # it has gone: the end is heard after the last that it said

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._proxy)
        self.over.set()
