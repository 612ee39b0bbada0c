"""What a worker is told: by difference, everything again after a hello, and never a socket that is no more."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest

from proxy.codec import decode_frontend
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Target
from proxy.userspace import worker as serving
from proxy.userspace.traffic import TrafficKey
from proxy.userspace.workers import channel
from proxy.userspace.workers import remote as remote_module
from proxy.userspace.workers.counts import decode_key
from proxy.userspace.workers.descriptors import table
from proxy.userspace.workers.process import Options, Service
from proxy.userspace.workers.recovery import Left, Recovery
from proxy.userspace.workers.remote import Remote
from proxy.userspace.workers.starting import Starter
from tests.contract.proxy.test_listeners import descriptors_left

WEB = Frontend(ip_address("10.96.0.10"), 80, Protocol.TCP)
OTHER = Frontend(ip_address("10.96.0.11"), 80, Protocol.TCP)


def target(port: int = 8080) -> Target:
    pool = Pool((Endpoint(ip_address("10.244.1.3"), port),))
    return Target(ServicePort("default", "web", "80"), pool, pool)


class Worker:
    """The other end: what it heard last, with the inodes of the sockets that came."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        channel.send(sock, {"hello": pid})

    async def hears(self) -> tuple[dict[str, Any], list[int]]:
        while True:
            try:
                heard = channel.receive(self.sock)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            assert heard is not None
            inodes = [os.fstat(fd).st_ino for fd in heard[1]]
            for fd in heard[1]:
                os.close(fd)
            return heard[0], inodes

    def answers(self, message: dict[str, Any]) -> None:
        channel.send(self.sock, {"id": message["id"]})


def frontends(entries: list[Any]) -> set[Frontend]:
    return {decode_frontend(entry) for entry in entries}


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def converse(talk: Callable[[Remote, socket.socket, list[socket.socket]], Any]) -> None:
    """With a Remote that listens to the other end of a channel, and sockets to give away."""

    async def run() -> None:
        remote = Remote("worker 0", Starter())
        remote._sock, theirs = channel.pair()
        socks = [socket.socket() for _ in range(3)]
        asyncio.get_running_loop().add_reader(remote._sock, remote._hear)
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(remote._tell())
            await asyncio.wait_for(talk(remote, theirs, socks), 5)
            telling.cancel()
        asyncio.get_running_loop().remove_reader(remote._sock)
        for sock in (*socks, remote._sock, theirs):
            sock.close()

    asyncio.run(run())


def test_a_frontend_that_went_and_came_while_the_worker_was_busy_has_its_new_socket() -> None:
    async def talk(remote: Remote, theirs: socket.socket, socks: list[socket.socket]) -> None:
        worker = Worker(theirs, 1)
        remote.point(WEB, target(), socks[0])
        first, given = await worker.hears()
        assert given == [inode(socks[0])]
        remote.shut(WEB)
        remote.point(WEB, target(), socks[1])
        worker.answers(first)
        second, given = await worker.hears()
        assert frontends(second["shut"]) == frontends(second["new"]) == {WEB}
        assert given == [inode(socks[1])]
        worker.answers(second)
        await remote.settled()

    converse(talk)


def test_a_change_comes_without_the_socket_and_a_hello_brings_everything_again() -> None:
    async def talk(remote: Remote, theirs: socket.socket, socks: list[socket.socket]) -> None:
        worker = Worker(theirs, 1)
        remote.point(WEB, target(), socks[0])
        remote.point(OTHER, target(), socks[1])
        worker.answers((await worker.hears())[0])
        await remote.settled()
        remote.point(WEB, target(9090), socks[0])
        changed, given = await worker.hears()
        assert given == []
        assert [entry["inside"]["endpoints"][0]["port"] for entry in changed["targets"]] == [9090]
        worker = Worker(theirs, 2)  # the first one was killed before it answered
        everything, given = await worker.hears()
        assert everything["to"] == 2
        assert everything["complete"]
        assert frontends(everything["new"]) == {WEB, OTHER}
        assert given == [inode(socks[0]), inode(socks[1])]
        worker.answers(everything)
        await remote.settled()

    converse(talk)


def test_an_answer_meant_for_nobody_any_more_settles_nothing() -> None:
    async def talk(remote: Remote, theirs: socket.socket, socks: list[socket.socket]) -> None:
        worker = Worker(theirs, 1)
        remote.point(WEB, target(), socks[0])
        lost, _ = await worker.hears()
        worker = Worker(theirs, 2)
        again, _ = await worker.hears()
        worker.answers(lost)
        await asyncio.sleep(0)
        assert not remote._settled.is_set()
        worker.answers(again)
        await remote.settled()

    converse(talk)


def test_what_is_not_answered_is_said_again_with_its_sockets(monkeypatch) -> None:
    """As where the worker had no descriptor free for them: it has heard nothing then."""
    monkeypatch.setattr(remote_module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(remote_module, "AGAIN_SECONDS", 0.01)

    async def talk(remote: Remote, theirs: socket.socket, socks: list[socket.socket]) -> None:
        worker = Worker(theirs, 1)
        remote.set_node(NodeFacts("n1"))
        remote.point(WEB, target(), socks[0])
        remote.forget([TrafficKey(ServicePort("default", "gone", "80"), Protocol.TCP)])
        first, given = await worker.hears()
        second, given_again = await worker.hears()
        assert given == given_again == [inode(socks[0])]
        parts = ("node", "targets", "new", "forget", "complete")
        assert [second[part] for part in parts] == [first[part] for part in parts]
        worker.answers(second)
        await remote.settled()

    converse(talk)


def told_last(sock: socket.socket) -> dict[str, Any]:
    """What a worker hears that begins to listen now; then comes the end."""
    heard, end = channel.receive(sock), channel.receive(sock)
    assert heard is not None
    assert end is None
    return heard[0]


@pytest.mark.parametrize("hold", [False, True])
def test_a_stop_is_for_whichever_worker_hears_it(hold: bool) -> None:
    """One was killed, and the hello of the next is still to be heard."""

    async def run() -> None:
        remote = Remote("worker 0", Starter())
        remote._sock, theirs = channel.pair()
        remote._pid = 1
        async with asyncio.TaskGroup() as tasks:
            worker = serving.Worker()
            service = Service(worker, theirs, Recovery(worker, Left(set(), set(), 0.0)), tasks)
            remote.stop(hold=hold)
            async with asyncio.timeout(5):
                await service.over.wait()
        assert (service.told_to_stop, service.hold) == (True, hold)
        await worker.close(keep=False)
        theirs.close()

    asyncio.run(run())


def test_a_worker_that_begins_when_its_proxy_has_gone_hears_the_last_that_it_said() -> None:
    async def run() -> None:
        ours, theirs = channel.pair()
        channel.send(ours, {"op": "stop", "to": channel.WHOEVER, "hold": True})
        ours.close()
        async with asyncio.TaskGroup() as tasks:
            worker = serving.Worker()
            service = Service(worker, theirs, Recovery(worker, Left(set(), set(), 0.0)), tasks)
            async with asyncio.timeout(5):
                await service.over.wait()
        assert service.told_to_stop
        await worker.close(keep=False)
        theirs.close()

    asyncio.run(run())


def test_a_stop_reaches_a_worker_that_was_only_asked_for() -> None:
    """The proxy is told to end while its first worker is being started: that one comes all the same."""
    kept: list[socket.socket] = []

    class Slow(Starter):
        async def start(self, theirs: socket.socket, options: Options) -> int:
            kept.append(theirs.dup())  # as the zygote's copy of it, on its way to the keeper
            await asyncio.Event().wait()
            return 0

    async def run() -> None:
        remote = Remote("worker 0", Slow())
        async with asyncio.TaskGroup() as tasks:
            living = tasks.create_task(remote.live(Options("", 5.0, 30.0, by_endpoint=False)))
            while not kept:
                await asyncio.sleep(0)
            living.cancel()
        remote.stop(hold=True)

    asyncio.run(run())
    with kept[0] as theirs:
        assert told_last(theirs) == {"op": "stop", "to": channel.WHOEVER, "hold": True}


def test_a_message_for_whose_descriptors_there_is_no_room_is_lost_as_a_whole() -> None:
    ours, theirs = channel.pair()
    with ours, theirs, ExitStack() as socks:
        given = [socks.enter_context(socket.socket()).fileno() for _ in range(20)]
        channel.send(ours, {"op": "serve"}, given)
        channel.send(ours, {"op": "report"})
        before, _ = table()
        with descriptors_left(10), pytest.raises(channel.CutShort):
            channel.receive(theirs)
        assert table()[0] == before
        assert channel.receive(theirs) == ({"op": "report"}, [])


def test_long_messages_arrive_whole() -> None:
    ours, theirs = channel.pair()
    message = {"text": "x" * 5_000_000}
    with ours, theirs, socket.socket() as sock:
        channel.send(ours, message, [sock.fileno()])
        heard = channel.receive(theirs)
        assert heard is not None
        assert heard[0] == message
        assert os.fstat(heard[1][0]).st_ino == inode(sock)
        os.close(heard[1][0])


def test_counters_that_are_wanted_again_before_the_worker_was_told_do_not_end() -> None:
    async def talk(remote: Remote, theirs: socket.socket, socks: list[socket.socket]) -> None:
        worker = Worker(theirs, 1)
        remote.point(WEB, target(), socks[0])
        busy, _ = await worker.hears()
        service = TrafficKey(ServicePort("default", "web", "80"), Protocol.TCP)
        gone, back = (service._replace(endpoint=f"10.244.1.3:{port}") for port in (7070, 9090))
        remote.forget([service, gone, back])
        remote.point(WEB, target(9090), socks[0])
        worker.answers(busy)
        told, _ = await worker.hears()
        assert [decode_key(entry) for entry in told["forget"]] == [gone]
        worker.answers(told)

    converse(talk)
