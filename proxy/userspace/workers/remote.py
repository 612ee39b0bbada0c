"""One worker process as the proxy sees it: told what to serve, asked what it counts, replaced when it is lost.

Why told by difference from a wish: a worker may be killed in the midst of anything. It says hello when it is
there again, and then everything counts as unsaid.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count, islice
from typing import Any

from netplane.errors import KernelError
from proxy.codec import encode_frontend, encode_node, encode_targets
from proxy.model import Frontend, NodeFacts, Target
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.traffic import TrafficKey, keys_of
from proxy.userspace.workers import channel, counts
from proxy.userspace.workers.channel import Message
from proxy.userspace.workers.process import Options
from proxy.userspace.workers.starting import Starter

log = logging.getLogger(__name__)

BATCH = 100  # frontends a message, each with a descriptor: few enough that no flow waits long for it
ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 1.0  # before it is said again to one that has not answered
SETTLE_SECONDS = 10.0


class Restarted(Exception):
    """The worker that was asked is no more; the next one has said hello."""


class Remote:
    """One worker and its keeper. ``live`` runs it; the rest may be called at any time."""

    def __init__(self, name: str, starter: Starter) -> None:
        self.name = name
        self._starter = starter
        self._wanted: dict[Frontend, tuple[Target, socket.socket]] = {}
        self._node: NodeFacts | None = None
        # What the worker has answered for: the sockets of which it surely has copies, and the node.
        self._given: dict[Frontend, socket.socket] = {}
        self._node_given: NodeFacts | None = None
        self._unsaid: dict[Frontend, None] = {}
        self._ended: set[TrafficKey] = set()
        self._ending: set[TrafficKey] = set()  # said, and not answered for yet
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._up = asyncio.Event()
        self._ids = count(1)
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._sock: socket.socket | None = None
        self._pid = 0
        self._base: counts.Counts = {}
        self._last: counts.Counts = {}
        self.active = self.room = self.most = 0
        self.ejected: Sequence[str] = ()
        self.recovered = Takeover()  # by the worker there is, from the one before it

    # -- what is wanted --------------------------------------------------------------------------------

    def set_node(self, node: NodeFacts) -> None:
        """See ``Worker.set_node``."""
        if node != self._node:
            self._node = node
            self._note(())

    def point(self, frontend: Frontend, target: Target, sock: socket.socket) -> None:
        """See ``Worker.point``."""
        self._wanted[frontend] = target, sock
        for untold in filter(None, (self._ended, self._ending)):  # what was to end has come again
            untold.difference_update(keys_of(frontend, target))
        self._note((frontend,))

    def shut(self, frontend: Frontend) -> None:
        """See ``Worker.shut``."""
        if self._wanted.pop(frontend, None) is not None:
            self._note((frontend,))

    def forget(self, ended: Iterable[TrafficKey]) -> None:
        """See ``Worker.forget``."""
        self._ended.update(ended)
        for key in self._ended:
            self._base.pop(key, None)
        self._note(())

    async def settled(self) -> None:
        """Until the worker does as it was told. Raises KernelError where it does not answer."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._settled.wait()
        except TimeoutError:
            raise KernelError(f"cannot tell {self.name} what to serve: it does not answer") from None

    def _note(self, frontends: Iterable[Frontend]) -> None:
        self._unsaid.update(dict.fromkeys(frontends))
        self._settled.clear()
        self._news.set()

    # -- questions -------------------------------------------------------------------------------------

    @property
    def traffic(self) -> counts.Counts:
        """What all its processes have counted."""
        total: counts.Counts = {}
        counts.add(total, self._base)
        counts.add(total, self._last)
        return total

    async def refresh(self, *, traffic: bool = True) -> None:
        """Learn what there is now; what was so last stands where no answer comes."""
        with suppress(Restarted, TimeoutError, OSError):
            report = await self._ask({"op": "report", "traffic": traffic})
            self.active, self.room, self.most = report["active"], report["room"], report["most"]
            self.ejected = report["ejected"]
            self.recovered = Takeover(*report["recovered"])
            if report["traffic"] is not None:
                self._last = counts.decode_traffic(report["traffic"])

    async def describe(self) -> list[dict[str, Any]]:
        """All flows in words; none where no answer comes."""
        with suppress(Restarted, TimeoutError, OSError):
            return list((await self._ask({"op": "flows"}))["flows"])
        return []

    async def inherit(self, path: str) -> Takeover:
        """Take over the flows of a holder."""
        with suppress(Restarted, TimeoutError, OSError):
            return Takeover(*(await self._ask({"op": "inherit", "path": path}, seconds=60.0))["taken"])
        return Takeover()

    def stop(self, *, hold: bool) -> None:
        """End. ``hold``: its flows wait for a successor, else they end as well.

        This is for whichever worker hears it: one that has not said hello yet, or is still being started, as well.
        """
        if self._sock is not None:
            with suppress(OSError):
                channel.send(self._sock, {"op": "stop", "to": channel.WHOEVER, "hold": hold})
            self._drop()

    async def _ask(self, question: Message, seconds: float = ANSWER_SECONDS) -> Message:
        """Raises Restarted, TimeoutError, OSError."""
        async with asyncio.timeout(seconds):
            await self._up.wait()
            return await self._send(question)

    def _send(self, question: Message, descriptors: Sequence[int] = ()) -> asyncio.Future[Message]:
        """The answer to come. Raises Restarted, OSError: the question has not left then."""
        if self._sock is None:
            raise Restarted
        number = next(self._ids)
        channel.send(self._sock, {"id": number, "to": self._pid, **question}, descriptors)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._asked.pop(number, None))
        self._asked[number] = answer
        return answer

    # -- its life --------------------------------------------------------------------------------------

    async def live(self, options: Options) -> None:
        """Start a keeper with its worker, and tell the worker what to serve, until the keeper has ended.

        Raises KernelError where none can be started. Cancelled meanwhile, ``stop`` still tells one that comes late.
        """
        loop = asyncio.get_running_loop()
        self._sock, theirs = channel.pair()
        with theirs:
            try:
                keeper = await self._starter.start(theirs, options)
            except KernelError:
                self._drop()
                raise
        ended = asyncio.Event()
        pidfd = os.pidfd_open(keeper)
        loop.add_reader(self._sock, self._hear)
        loop.add_reader(pidfd, ended.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell())
                await ended.wait()
                telling.cancel()
            _reap(keeper)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            if self._sock is not None:
                loop.remove_reader(self._sock)
        self._drop()
        self._forget_worker()

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _hear(self) -> None:
        while self._sock is not None:
            try:
                heard = channel.receive(self._sock)
            except BlockingIOError:
                return
            except channel.CutShort as error:
                log.warning("%s: %s", self.name, error)
                continue
            if heard is None:
                asyncio.get_running_loop().remove_reader(self._sock)
                return
            message, _ = heard
            if "hello" in message:
                self._forget_worker()
                self._pid = message["hello"]
                self._up.set()
                self._note(self._wanted)
            elif (answer := self._asked.get(message["id"])) is not None and not answer.done():
                answer.set_result(message)

    def _forget_worker(self) -> None:
        """Nothing is known to it any more, and what it counted counts on."""
        self._up.clear()
        for answer in list(self._asked.values()):
            if not answer.done():
                answer.set_exception(Restarted())
        self._given.clear()
        self._node_given = None
        counts.add(self._base, self._last, gone=True)
        self._last = {}

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            await self._up.wait()
            self._news.clear()
            try:
                while self._unsaid or self._ended or self._node_given is not self._node:
                    await self._tell_some()
                self._settled.set()
            except Restarted:
                continue  # the hello has made everything unsaid again
            except (TimeoutError, OSError) as error:
                log.warning("%s does not answer: %s", self.name, error or "no time")
                self._news.set()
                await asyncio.sleep(AGAIN_SECONDS)

    async def _tell_some(self) -> None:
        """Say a part of what is unsaid; where no answer comes it is said again, which does no harm."""
        batch = list(islice(self._unsaid, BATCH))
        targets = {f: self._wanted[f][0] for f in batch if f in self._wanted}
        new = {f: self._wanted[f][1] for f in targets if self._given.get(f) is not self._wanted[f][1]}
        # A frontend that came again has another socket: the worker parts with the former one first.
        shut = [frontend for frontend in batch if frontend in new or frontend not in targets]
        ending, node = self._ended, self._node
        message = {
            "op": "serve",
            "node": None if node is None or node is self._node_given else encode_node(node),
            "targets": encode_targets(targets),
            "new": [encode_frontend(frontend) for frontend in new],
            "shut": [encode_frontend(frontend) for frontend in shut],
            "forget": [counts.encode_key(key) for key in ending],
            "complete": len(batch) == len(self._unsaid),
        }
        answer = self._send(message, [sock.fileno() for sock in new.values()])
        self._ended, self._ending = set(), ending
        for frontend in batch:
            del self._unsaid[frontend]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await answer
        except TimeoutError:
            self._unsaid.update(dict.fromkeys(batch))
            self._ended |= ending
            raise
        finally:
            self._ending = set()
        self._given.update(new)
        for frontend in batch:
            if frontend not in targets:
                self._given.pop(frontend, None)
        self._node_given = node


def _reap(pid: int) -> None:
    """A child that has ended: this does not wait."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
