"""What a worker makes of the descriptors that another one left, whatever they are."""

import asyncio
import os
import select
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from time import monotonic

import pytest

from proxy.model import Frontend, Pool, Protocol, ServicePort, Target
from proxy.userspace.streams.ledger import LINK, PREFACED
from proxy.userspace.streams.preface import LENGTH, header
from proxy.userspace.streams.relay import READING
from proxy.userspace.worker import Worker
from proxy.userspace.workers.descriptors import table
from proxy.userspace.workers.recovery import Left, Recovery, end_all

HEADER = LENGTH[4]


def with_worker(check: Callable[[Worker], Awaitable[None]]) -> None:
    async def go() -> None:
        worker = Worker()
        try:
            await check(worker)
        finally:
            await worker.close(keep=False)

    asyncio.run(go())


def left_behind(descriptors: set[int]) -> Left:
    """These, and what waits at them, as the worker before is killed this very moment."""
    return Left(descriptors, table()[1] & descriptors, monotonic())


async def recovered(worker: Worker, descriptors: set[int]) -> Recovery:
    """All that was left has been looked at, in its turn."""
    recovery = Recovery(worker, left_behind(descriptors))
    recovery.begin()
    await recovery.go_on()
    return recovery


def watched(worker: Worker, descriptors: set[int]) -> int:
    """The epoll set in which a worker had these."""
    with select.epoll() as made:
        for fd in descriptors:
            made.register(fd, READING)
        worker.ledger.watch[0] = os.dup(made.fileno())
    return worker.ledger.watch[0]


def relayed(worker: Worker) -> tuple[socket.socket, socket.socket, set[int]]:
    """A connection as another worker left it: its client's end, its server's, and our two descriptors."""
    (client, ours), (to_endpoint, endpoint) = connected(), connected()
    to_endpoint.setblocking(False)
    os.set_blocking(ours, False)
    theirs = to_endpoint.detach()  # the endpoint's socket must be one that called connect(2)
    worker.ledger.peers[ours] = theirs
    server = socket.socket(fileno=endpoint)
    for sock in (client, server):
        sock.settimeout(5)
    return client, server, {ours, theirs}


def connected() -> tuple[socket.socket, int]:
    """A client, and the descriptor that accept(2) gave for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0].detach()


def odds_and_ends() -> set[int]:
    """What a dead worker's event loop leaves: an epoll set, a counter, a pipe, sockets of other kinds."""
    datagrams, pair = socket.socket(type=socket.SOCK_DGRAM), socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    kinds = (datagrams, *pair, listener)
    with select.epoll() as made:
        epoll = os.dup(made.fileno())
    return {epoll, os.eventfd(0), *os.pipe(), *(sock.detach() for sock in kinds)}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_table_is_what_is_open_and_what_waits() -> None:
    found, _ = table()
    assert all(map(is_open, found)), "a number that is free would soon be somebody else's"
    one, other = socket.socketpair()
    with one, other:
        one.send(b"x")
        more, ready = table()
        assert more == found | {one.fileno(), other.fileno()}
        assert ready & {one.fileno(), other.fileno()} == {other.fileno()}
        one.close()
        assert other.fileno() in table()[1], "an end waits to be noticed"


async def ended(worker: Worker, left: set[int]) -> None:
    end_all(worker, left)


@pytest.mark.parametrize("end", [recovered, ended])
def test_what_is_no_connection_is_closed(end: Callable[[Worker, set[int]], Awaitable[object]]) -> None:
    async def check(worker: Worker) -> None:
        left = odds_and_ends()
        await end(worker, set(left))
        assert not any(map(is_open, left))

    with_worker(check)


def test_whole_flows_go_on_and_a_client_for_whom_nothing_was_done_waits() -> None:
    async def check(worker: Worker) -> None:
        pairs, (three, fresh) = [relayed(worker) for _ in range(3)], connected()
        with three:
            found = await recovered(worker, {fresh}.union(*(left for _, _, left in pairs)))
            assert (found.flows, found.fresh, found.reset) == (3, 1, 0)
            assert (worker.active, found.waiting) == (3, 0)
            for client, server, _ in pairs:
                client.close()
                server.close()
            os.close(fresh)

    with_worker(check)


def test_a_flow_at_which_something_happens_does_not_wait_for_its_turn() -> None:
    """At the end of the worker before, or meanwhile: its epoll set, which is still there, tells."""

    async def check(worker: Worker) -> None:
        idle, busy, later = relayed(worker), relayed(worker), relayed(worker)
        flows = idle[2] | busy[2] | later[2]
        former = watched(worker, flows)
        busy[0].sendall(b"x")
        recovery = Recovery(worker, left_behind({former, *flows}))
        recovery.begin()
        assert (recovery.waiting, worker.active) == (2, 1)
        assert await asyncio.to_thread(busy[1].recv, 1) == b"x"
        later[1].sendall(b"y")
        await asyncio.sleep(0)
        assert await asyncio.to_thread(later[0].recv, 1) == b"y"
        assert (recovery.waiting, worker.active) == (1, 2)
        await recovery.go_on()
        assert (recovery.waiting, worker.active) == (0, 3)
        assert not is_open(former)
        idle[0].sendall(b"z")
        assert await asyncio.to_thread(idle[1].recv, 1) == b"z"
        for sock in (*idle[:2], *busy[:2], *later[:2]):
            sock.close()

    with_worker(check)


def test_after_a_recovery_that_was_cut_short_all_flows_go_on_at_once() -> None:
    async def check(worker: Worker) -> None:
        pairs = [relayed(worker) for _ in range(3)]
        recovery = Recovery(worker, left_behind(set().union(*(left for _, _, left in pairs))))
        recovery.begin()
        assert (recovery.waiting, worker.active) == (0, 3)
        for client, server, _ in pairs:
            client.close()
            server.close()

    with_worker(check)


@pytest.mark.parametrize("lost", [0, 1, HEADER, HEADER + 1])
@pytest.mark.parametrize("held", [False, True])
def test_a_header_of_ours_is_counted(held: bool, lost: int) -> None:
    """PROXY protocol: nobody sent it. So it makes up for as many bytes that are lost, if nobody knows of it."""

    async def check(worker: Worker) -> None:
        client, server, left = relayed(worker)
        (ours,) = (fd for fd in left if worker.ledger.peers[fd])
        theirs = worker.ledger.peers[ours]
        worker.ledger.peers[ours] = theirs | PREFACED
        if held:
            reader, writer = os.pipe()
            os.write(writer, bytes(HEADER))
            worker.ledger.pipes[ours] = reader * LINK | writer
            left |= {reader, writer}
        else:
            os.write(theirs, bytes(HEADER))
        if lost:
            client.sendall(bytes(lost))
            await asyncio.to_thread(select.select, [ours], [], [], 5)
            assert len(os.read(ours, 100)) == lost, "read, and never written"
        found = await recovered(worker, left)
        assert (found.flows, found.reset) == ((0, 2) if lost else (1, 0))
        if not lost:
            client.sendall(b"x")
            got = b""
            while len(got) <= HEADER:
                got += await asyncio.to_thread(server.recv, 100)
            assert got == bytes(HEADER) + b"x"
            assert worker.ledger.peers[ours] == theirs | PREFACED, "also for the worker after this one"
        client.close()
        server.close()

    with_worker(check)


@pytest.mark.parametrize("busy", [False, True])
def test_a_flow_that_lost_a_byte_is_reset_at_both_ends(busy: bool) -> None:
    async def check(worker: Worker) -> None:
        client, server, left = relayed(worker)
        client.sendall(b"x")
        (ours,) = (fd for fd in left if worker.ledger.peers[fd])
        await asyncio.to_thread(select.select, [ours], [], [], 5)
        assert os.read(ours, 1) == b"x", "read, and never written: as by a worker killed in between"
        if busy:
            server.sendall(b"z")
        found = await recovered(worker, left)
        assert (found.flows, found.fresh, found.reset) == (0, 0, 2)
        for sock in (client, server):
            with sock, pytest.raises(ConnectionResetError):
                sock.recv(1)

    with_worker(check)


def test_a_client_whose_bytes_were_passed_on_unread_is_not_served_anew() -> None:
    """As by a worker that had no pipe (``moving``), killed in between: another endpoint would do it all again."""

    async def check(worker: Worker) -> None:
        client, server, left = relayed(worker)
        client.sendall(b"x")
        (ours,) = (fd for fd in left if worker.ledger.peers[fd])
        await asyncio.to_thread(select.select, [ours], [], [], 5)
        os.write(worker.ledger.peers[ours], b"x")
        found = await recovered(worker, left)
        assert (found.flows, found.fresh, found.reset) == (0, 0, 2)
        assert server.recv(1) == b"x"
        for sock in (client, server):
            with sock, pytest.raises(ConnectionResetError):
                sock.recv(1)

    with_worker(check)


@pytest.mark.parametrize(("version", "address"), [(4, "10.0.0.1"), (6, "fd00::1")])
def test_how_long_a_header_is(version: int, address: str) -> None:
    assert len(header((address, 1), (address, 2))) == LENGTH[version]


def test_endpoints_passed_over_are_compared_with_those_there_are_only_when_some_have_gone() -> None:
    """The proxy asks each second, and on a large node the comparison takes the time of many connections."""

    async def check(worker: Worker) -> None:
        gone = ("10.244.1.9", 80)
        with socket.socket() as sock:
            frontend = Frontend(ip_address("10.96.0.10"), 80, Protocol.TCP)
            worker.point(frontend, Target(ServicePort("default", "web", "80"), Pool(), Pool()), sock)
            worker._ejections.fail(gone, 0.0)
            worker.forget(())
            assert not worker._ejections
            worker._ejections.fail(gone, 0.0)
            worker.forget(())
            assert gone in worker._ejections.failed
            worker.shut(frontend)
            worker.forget(())
            assert not worker._ejections

    with_worker(check)
