"""Flows on their way from one process to another belong to one of them at any time, whoever is slow, or dies."""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep

import pytest

from proxy.model import Endpoint, Frontend, Protocol, ServicePort
from proxy.userspace.handover import holder
from proxy.userspace.handover import protocol as handover
from proxy.userspace.handover.heir import Heir, Late, connect, inherit
from proxy.userspace.handover.holder import Holder, offer
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.ledger import PREFACED
from proxy.userspace.streams.relay import Half
from proxy.userspace.worker import Worker
from proxy.userspace.workers.descriptors import table
from proxy.userspace.workers.recovery import Recovery
from tests.contract.proxy.test_recovery import left_behind, relayed

WEB = Frontend(ip_address("10.96.0.10"), 80, Protocol.TCP)
SERVICE = ServicePort("default", "web", "80")


class Holding:
    """A worker that holds flows, in a thread of its own, and the ends of these."""

    def __init__(self, path: Path, flows: int, *, prefaced: bool) -> None:
        self.worker = Worker()
        self.ends: list[tuple[socket.socket, socket.socket]] = []
        self.flows: list[Flow] = []
        for _ in range(flows):
            client, server, fds = relayed(self.worker)
            (ours,) = (fd for fd in fds if self.worker.ledger.peers[fd])
            flow = self.worker.former_flow(WEB, SERVICE, "127.0.0.1", Endpoint(ip_address("127.0.0.1"), 80))
            pair = (ours, self.worker.ledger.peers[ours])
            self.worker.engine.adopt(flow, pair, (Half.FLOWING,) * 2, (None, None), prefaced)
            self.ends.append((client, server))
            self.flows.append(flow)
        self.worker.engine.forsake()
        self._holder = Holder(self.worker, offer(path), accepting=False)
        self._thread = asyncio.get_running_loop().run_in_executor(None, self._holder.hold, monotonic() + 20)

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not check():
                await asyncio.sleep(0.001)

    async def passed(self, *, heir: Worker) -> None:
        """Each byte arrives once, and no other."""
        for client, server in self.ends:
            await asyncio.to_thread(client.sendall, b"question")
            await asyncio.to_thread(server.sendall, b"answer")
        for client, server in self.ends:
            client.shutdown(socket.SHUT_WR)
            server.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(_all_of, server) == b"question"
            assert await asyncio.to_thread(_all_of, client) == b"answer"
        await self.until(lambda: self.worker.active + heir.active == 0)

    async def end(self) -> None:
        for end in self.ends:
            for sock in end:
                sock.close()
        await self._thread
        await self.worker.close(keep=False)


def _all_of(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(100):
        found += data
    return found


def between(
    path: Path, check: Callable[[Holding, Worker], Awaitable[None]], *, flows: int = 3, prefaced: bool = False
) -> None:
    async def go() -> None:
        heir, holding = Worker(), Holding(path, flows, prefaced=prefaced)
        try:
            await check(holding, heir)
        finally:
            await holding.end()
            await heir.close(keep=False)

    asyncio.run(go())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.sock"


def asked(path: Path) -> socket.socket:
    """A successor who has asked, and does not read."""
    sock = connect(path)
    assert sock is not None
    return sock


async def readable(sock: socket.socket) -> None:
    heard = asyncio.Event()
    asyncio.get_running_loop().add_reader(sock, heard.set)
    await asyncio.wait_for(heard.wait(), 5)
    asyncio.get_running_loop().remove_reader(sock)


def test_all_flows_pass_in_batches(path: Path) -> None:
    async def check(holding: Holding, heir: Worker) -> None:
        assert (await inherit(heir, path)).flows == heir.active == 100
        await holding.passed(heir=heir)

    between(path, check, flows=100)


def test_batches_follow_one_another_though_nothing_else_happens(path: Path, monkeypatch) -> None:
    monkeypatch.setattr("proxy.userspace.handover.holder.TICK", 60.0)

    async def check(holding: Holding, heir: Worker) -> None:
        async with asyncio.timeout(20):
            assert (await inherit(heir, path)).flows == 100
        await holding.passed(heir=heir)

    between(path, check, flows=100)


@pytest.mark.parametrize("prefaced", [False, True])
def test_whether_a_flow_began_with_a_header_of_ours_goes_along(path: Path, prefaced: bool) -> None:
    async def check(holding: Holding, heir: Worker) -> None:
        await inherit(heir, path)
        pairs = [handover.sides(flow) for flow in heir.engine.flows()]
        expected = [other.fd | PREFACED if prefaced else other.fd for _, other in pairs]
        assert [heir.ledger.peers[one.fd] for one, _ in pairs] == expected
        await holding.passed(heir=heir)

    between(path, check, prefaced=prefaced)


def test_a_successor_that_is_too_late_takes_nothing_and_may_ask_again(path: Path, monkeypatch) -> None:
    """It has the batch, but the holder relays again: two would corrupt every stream."""
    monkeypatch.setattr(holder, "ANSWER_SECONDS", 0.05)

    async def check(holding: Holding, heir: Worker) -> None:
        with asked(path) as slow:
            await readable(slow)
            await holding.until(lambda: not holding.worker.ledger.doubt[0])  # it has given up waiting
            with pytest.raises(Late):
                Heir(heir).take(slow)
        assert heir.active == 0
        assert holding.worker.active == 3
        assert (await inherit(heir, path)).flows == 3
        await holding.passed(heir=heir)

    between(path, check)


def test_a_successor_asks_again_by_itself(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(holder, "ANSWER_SECONDS", 0.05)

    async def check(holding: Holding, heir: Worker) -> None:
        take, waited = Heir.take, []

        def slowly(self: Heir, sock: socket.socket) -> bool:
            if not waited:  # the whole process stands still, as on a machine that swaps
                waited.append(True)
                sleep(0.2)
            return take(self, sock)

        monkeypatch.setattr(Heir, "take", slowly)
        assert (await inherit(heir, path)).flows == 3
        await holding.passed(heir=heir)

    between(path, check)


def test_a_successor_that_has_said_so_has_them_though_it_is_gone_at_once(path: Path) -> None:
    """Nothing comes back: the flows are its own, and end with it."""

    async def check(holding: Holding, heir: Worker) -> None:
        with asked(path) as sock:
            await readable(sock)
            Heir(heir).take(sock)
        await holding.until(lambda: holding.worker.active == 0)
        assert heir.active == 3
        await holding.passed(heir=heir)

    between(path, check)


def test_a_successor_that_cannot_read_a_batch_leaves_it(path: Path, monkeypatch) -> None:
    async def check(holding: Holding, heir: Worker) -> None:
        monkeypatch.setattr(Worker, "former_flow", lambda *_: {}["gone"])
        before = len(table()[0])
        assert (await inherit(heir, path)).flows == 0
        await holding.until(lambda: holding.worker.ledger.doubt[0] == 0)
        assert (heir.active, holding.worker.active) == (0, 3)
        assert len(table()[0]) <= before
        await holding.passed(heir=heir)

    between(path, check)


def test_whoever_is_how_slow_each_flow_has_one_owner(path: Path, monkeypatch) -> None:
    """Answers about when the holder loses patience: many tries, and after each the numbers agree."""
    monkeypatch.setattr(holder, "ANSWER_SECONDS", 0.002)
    outcomes = set()

    async def check(holding: Holding, heir: Worker) -> None:
        with asked(path) as sock:
            await readable(sock)
            sleep(random.random() * 0.004)
            try:
                Heir(heir).take(sock)
                outcomes.add("taken")
            except Late:
                outcomes.add("late")
        await holding.until(lambda: not holding.worker.ledger.doubt[0])
        assert holding.worker.active + heir.active == 3
        await holding.passed(heir=heir)

    for _ in range(30):
        between(path, check)
    assert outcomes == {"taken", "late"}


def test_flows_on_their_way_are_nobodys_and_whoever_finds_them_ends_them(path: Path, monkeypatch) -> None:
    """The holder is killed meanwhile: who follows it cannot know whether they were taken, and serves none of them."""

    async def check(holding: Holding, heir: Worker) -> None:
        ledger = holding.worker.ledger
        with asked(path) as sock:
            await readable(sock)
            assert ledger.doubt[0]
            ours = [side.fd for flow in holding.flows for side in handover.sides(flow)]
            assert not any(ledger.peers[fd] for fd in ours)
            copies = set(map(os.dup, ours))  # as the process after it has them: the same connections
            after = Worker()
            after.ledger.doubt[0] = 1
            recovery = Recovery(after, left_behind(copies))
            recovery.begin()
            assert (recovery.flows, recovery.fresh, recovery.reset) == (0, 0, 6)
            assert after.ledger.doubt[0] == 0
            for client, server in holding.ends:
                for end in (client, server):
                    with pytest.raises(ConnectionResetError):
                        await asyncio.to_thread(end.recv, 1)
            await after.close(keep=False)

    between(path, check)
