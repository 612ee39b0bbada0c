"""What a worker makes of the descriptors that another one left, whatever they are."""

import asyncio
import os
import select
import socket
from collections.abc import Callable

import pytest

from proxy.userspace.worker import Worker
from proxy.userspace.workers import recovery


def with_worker(check: Callable[[Worker], None]) -> None:
    async def go() -> None:
        worker = Worker()
        try:
            check(worker)
        finally:
            await worker.close(keep=False)

    asyncio.run(go())


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


def test_the_table_is_what_is_open() -> None:
    found = recovery.table()
    assert all(map(is_open, found)), "a number that is free would soon be somebody else's"
    with socket.socket() as sock:
        assert recovery.table() == found | {sock.fileno()}


@pytest.mark.parametrize("end", [recovery.recover, recovery.forsake])
def test_what_is_no_connection_is_closed(end: Callable[[Worker, set[int]], object]) -> None:
    def check(worker: Worker) -> None:
        left = odds_and_ends()
        end(worker, left)
        assert not any(map(is_open, left))

    with_worker(check)


def test_a_whole_flow_goes_on_and_a_client_for_whom_nothing_was_done_waits() -> None:
    def check(worker: Worker) -> None:
        (one, client), (two, endpoint), (three, fresh) = connected(), connected(), connected()
        with one, two, three:
            # The endpoint's socket must be one that called connect(2): swap the ends.
            theirs, ours = endpoint, two.detach()
            worker.ledger.peers[client] = ours
            found = recovery.recover(worker, {client, ours, fresh})
            assert [flow.client_side.fd for flow in found.flows if flow.client_side] == [client]
            assert (found.fresh, found.reset) == ([fresh], 0)
            os.close(theirs)
            os.close(fresh)

    with_worker(check)


def test_a_flow_that_lost_a_byte_is_reset_at_both_ends() -> None:
    def check(worker: Worker) -> None:
        (one, client), (two, endpoint) = connected(), connected()
        with one, socket.socket(fileno=endpoint) as server:
            ours = two.detach()
            worker.ledger.peers[client] = ours
            one.sendall(b"x")
            assert os.read(client, 1) == b"x", "read, and never written: as by a worker killed in between"
            found = recovery.recover(worker, {client, ours})
            assert (found.flows, found.fresh, found.reset) == ([], [], 2)
            for sock in (one, server):
                sock.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

    with_worker(check)
