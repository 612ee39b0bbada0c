"""The relay's system calls in Python and in C: one meaning, since any node may run the one or the other."""

import errno
import importlib.util
import os
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest

from netplane import compiled
from netplane.compiled.loading import ROOT
from proxy.userspace import syscalls

SOURCE = ROOT / "proxy/userspace/syscalls.py"
LOOPBACKS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.fixture(params=["python", "c"])
def calls(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "c":
        if why := compiled.why_interpreted():
            pytest.skip(f"the relay runs as plain Python: {why}")
        return syscalls
    spec = importlib.util.spec_from_file_location("plain_syscalls", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param) as sock:
        sock.bind((LOOPBACKS[request.param], 0))
        sock.listen()
        sock.setblocking(False)
        yield sock


@pytest.fixture
def pair(listener: socket.socket, calls: ModuleType) -> Iterator[tuple[int, socket.socket]]:
    """A descriptor as ``accept`` gives it, and the client at its other end."""
    with socket.create_connection(listener.getsockname()[:2]) as client:
        accepted = calls.accept(listener.fileno())
        assert accepted is not None
        with suppress(OSError):
            yield accepted[0], client
        os.close(accepted[0])


def test_accept_gives_a_clients_socket_and_its_address(calls, listener) -> None:
    assert calls.accept(listener.fileno()) is None
    with socket.create_connection(listener.getsockname()[:2]) as client:
        fd, address = calls.accept(listener.fileno())
        assert address == ip_address(client.getsockname()[0]).packed
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_accept_says_why_it_cannot(calls) -> None:
    with socket.socket() as idle, pytest.raises(OSError, match="Invalid argument") as told:
        calls.accept(idle.fileno())
    assert told.value.errno == errno.EINVAL


@pytest.mark.netns
@pytest.mark.parametrize("early", [False, True])
def test_dials_from_the_very_address_and_port(calls, listener, early) -> None:
    address, port = listener.getsockname()[:2]
    here = ip_address("127.0.0.5" if listener.family == socket.AF_INET else "::1")
    with socket.socket(listener.family) as probe:
        probe.bind((str(here), 0))
        free = probe.getsockname()[1]
    fd = calls.dial_as(here.packed, free, ip_address(address).packed, port, early)
    with socket.socket(fileno=fd) as dialled:
        select.select([listener], [], [], 5)
        client, peer = listener.accept()
        client.close()
        assert peer[:2] == (str(here), free)
        assert not os.get_blocking(dialled.fileno())
        assert not os.get_inheritable(dialled.fileno())
        with pytest.raises(OSError, match=r"Address already in use|Cannot assign") as told:
            calls.dial_as(here.packed, free, ip_address(address).packed, port, early)
    assert told.value.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


@pytest.mark.netns
def test_a_refusal_at_once_is_an_error_and_leaves_no_descriptor(calls) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="Network is unreachable"):
        calls.dial_as(ip_address("127.0.0.1").packed, 0, ip_address("255.255.255.255").packed, 9, False)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reads_what_is_there_then_nothing_then_the_end(calls, pair) -> None:
    fd, client = pair
    assert calls.read(fd) is None
    client.sendall(b"x" * (calls.CHUNK + 1))
    select.select([fd], [], [], 5)
    whole = b""
    while len(whole) < calls.CHUNK + 1:
        part = calls.read(fd) or b""
        assert len(part) <= calls.CHUNK
        whole += part
    assert whole == b"x" * (calls.CHUNK + 1)
    client.shutdown(socket.SHUT_WR)
    select.select([fd], [], [], 5)
    assert calls.read(fd) == b""


def test_a_reset_is_an_error_to_the_reader_and_the_writer(calls, pair) -> None:
    fd, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    select.select([fd], [], [], 5)
    with pytest.raises(ConnectionResetError):
        calls.read(fd)
    with pytest.raises(BrokenPipeError):
        calls.write(fd, b"x")


def test_writes_as_much_as_is_taken(calls, pair) -> None:
    fd, client = pair
    assert calls.write(fd, b"some") == 4
    calls.end_writing(fd)
    with client.makefile("rb") as stream:
        assert stream.read() == b"some"


def test_a_sink_that_is_full_takes_nothing(calls, pair) -> None:
    fd, _ = pair
    while calls.write(fd, b"x" * calls.CHUNK):
        pass


@pytest.fixture
def sink(calls) -> Iterator[tuple[int, socket.socket]]:
    """A descriptor to write to, and the socket that gets it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours.fileno(), theirs


@pytest.mark.parametrize("ending", [False, True])
def test_moves_what_there_is_then_nothing_then_the_end(calls, pair, sink, ending) -> None:
    (fd, client), (to, reader) = pair, sink
    assert calls.move(fd, to, ending) == -1
    client.sendall(b"some")
    select.select([fd], [], [], 5)
    assert calls.move(fd, to, ending) == 4
    assert reader.recv(10) == b"some"
    client.shutdown(socket.SHUT_WR)
    select.select([fd], [], [], 5)
    assert calls.move(fd, to, ending) == 0


@pytest.mark.parametrize("ending", [False, True])
def test_moves_a_chunk_at_a_time(calls, pair, sink, ending) -> None:
    (fd, client), (to, reader) = pair, sink
    data = os.urandom(3 * calls.CHUNK + 5)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    got = b""
    while moved := calls.move(fd, to, ending):
        if moved < 0:
            select.select([fd], [], [], 5)
            continue
        assert moved <= calls.CHUNK
        while moved:
            part = reader.recv(moved)
            moved -= len(part)
            got += part
    assert got == data


@pytest.mark.parametrize("ending", [False, True])
def test_what_a_sink_does_not_take_comes_back(calls, pair, sink, ending) -> None:
    (fd, client), (to, reader) = pair, sink
    data = os.urandom(4_000_000)
    with ThreadPoolExecutor(1) as sender:
        sent = sender.submit(client.sendall, data)
        given, rest = b"", None
        while rest is None:
            moved = calls.move(fd, to, ending)
            if not isinstance(moved, int):
                rest, taken, failure = moved
                assert not failure
            elif moved < 0:
                select.select([fd], [], [], 5)
            else:
                given += b"." * moved
        kept = len(given) + taken
        got = b""
        while len(got) < kept:
            got += reader.recv(kept - len(got))
        assert got == data[:kept]
        assert rest[taken:] == data[kept : kept + len(rest) - taken]
        while not sent.done():
            calls.read(fd)


@pytest.mark.parametrize("ending", [False, True])
def test_a_sink_that_is_gone_is_told_of_with_what_was_read(calls, pair, sink, ending) -> None:
    (fd, client), (to, reader) = pair, sink
    reader.close()
    client.sendall(b"some")
    select.select([fd], [], [], 5)
    assert calls.move(fd, to, ending) == (b"some", 0, errno.EPIPE)


def test_a_source_that_fails_is_an_error(calls, pair, sink) -> None:
    (fd, client), (to, _) = pair, sink
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    select.select([fd], [], [], 5)
    with pytest.raises(ConnectionResetError):
        calls.move(fd, to, False)


def test_ending_what_is_over_tells_nobody(calls, pair) -> None:
    fd, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    select.select([fd], [], [], 5)
    calls.end_writing(fd)
