"""A worker process whose descriptors are used up in earnest: the kernel itself says EMFILE.

Why the limit of a running process is lowered: by its own count it would pause long before, and what is to be seen
here is what happens where that count is wrong, as where somebody else in the process has descriptors too.
"""

import itertools
import os
import resource
import select
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import flows
from tests.netns.proxy.daemon import Supervisor, eventually, workers

pytestmark = pytest.mark.netns
ADDRESS, PORT = "10.96.0.10", 80


@pytest.fixture
def worker(supervisor: Supervisor, world: Any) -> int:
    """The process that relays."""
    eventually(lambda: world.connect("client", ADDRESS, PORT).close() is None)
    eventually(lambda: supervisor.ask("status")["flows"] == 0)
    (pid,) = workers(supervisor)
    return pid


def free(pid: int) -> Iterator[int]:
    """The numbers that its next descriptors will have."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return (number for number in itertools.count() if number not in used)


@contextmanager
def descriptors_left(pid: int, count: int) -> Iterator[None]:
    """Only so many more of them can be opened: accept(2), socket(2) and pipe(2) then say EMFILE."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    refused = next(itertools.islice(free(pid), count, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (refused, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


class Stream:
    """A connection whose every byte is checked."""

    def __init__(self, world: Any, stack: ExitStack) -> None:
        self.sock = stack.enter_context(world.connect("client", ADDRESS, PORT))
        self.stream = stack.enter_context(self.sock.makefile("rb"))
        self.early = os.urandom(1000)
        self.sock.sendall(self.early)

    def greeted(self) -> None:
        """Until an endpoint has said its name and has sent back what it got."""
        assert self.stream.readline().startswith(b"web")
        assert self.stream.read(1000) == self.early

    def fill(self) -> None:
        """Send until nothing more is taken, and read none of what comes back."""
        self.sent = bytearray()
        self.sock.settimeout(0.1)
        with suppress(TimeoutError):
            while True:
                block = os.urandom(65536)
                self.sent += block[: self.sock.send(block)]
        self.sock.settimeout(5)

    def drain(self) -> None:
        """Everything that was sent comes back."""
        assert self.stream.read(len(self.sent)) == self.sent

    def exchange(self) -> None:
        block = os.urandom(1000)
        self.sock.sendall(block)
        assert self.stream.read(1000) == block


@pytest.mark.parametrize("left", [0, 1, 2, 5])
def test_clients_wait_while_none_is_left_and_are_served_then(
    world: Any, supervisor: Supervisor, worker: int, left: int
) -> None:
    """Whatever number is left: nobody is accepted for whom there is no second one."""
    with ExitStack() as stack:
        before, first = next(free(worker)), list[Stream]()
        while (
            next(free(worker)) < before + 40
        ):  # so that a limit above these numbers is one for what they give back
            first.append(Stream(world, stack))
            first[-1].greeted()
        with descriptors_left(worker, left):
            late = [Stream(world, stack) for _ in range(10)]
            served = (left + 1) // 2
            for stream in late[:served]:
                stream.greeted()
            told, _, _ = select.select([stream.sock for stream in late[served:]], [], [], 0.3)
            assert told == [], "they wait, and are not turned away"
            for stream in first:
                stream.exchange()
            for stream in first[-15:]:
                stream.sock.shutdown(socket.SHUT_RDWR)
            for stream in late[served:]:
                stream.greeted()
        for stream in (*first[:-15], *late):
            stream.exchange()
    eventually(lambda: supervisor.ask("status")["flows"] == 0)
    assert workers(supervisor) == [worker]
    said = [line for line in supervisor.log.read_text().splitlines() if "accepting no new" in line]
    assert len(said) == 1, said
    assert supervisor.ask("status")["ejected"] == [], "no endpoint is to blame"


def test_slow_readers_wait_where_no_pipe_is_to_be_had(
    world: Any, supervisor: Supervisor, worker: int
) -> None:
    """What has been read and is not taken needs a pipe. One is kept to spare, and then nothing is read that may have to
    wait: every stream goes on, the slow ones as their readers do, and each is whole to its last byte."""
    with ExitStack() as stack:
        quick, slow = Stream(world, stack), [Stream(world, stack) for _ in range(3)]
        for stream in (quick, *slow):
            stream.greeted()
        with descriptors_left(worker, 0):
            for stream in slow:
                stream.fill()
            quick.exchange()
            for stream in slow[:1]:
                stream.drain()
            quick.exchange()
        for stream in slow[1:]:
            stream.drain()
        for stream in (quick, *slow):
            stream.exchange()
        assert supervisor.ask("status")["flows"] == 1 + len(slow)
    eventually(lambda: supervisor.ask("status")["flows"] == 0)
    assert refused_for_want_of_descriptors(world) == 0
    assert "bug in the relay" not in supervisor.log.read_text()


def test_a_worker_killed_in_the_midst_of_a_shortage_corrupts_nothing(
    world: Any, supervisor: Supervisor, worker: int
) -> None:
    """Streams whose bytes wait unread go on with the next worker as all others."""
    with ExitStack() as stack:
        slow = [Stream(world, stack) for _ in range(2)]
        for stream in slow:
            stream.greeted()
        with descriptors_left(worker, 0):
            for stream in slow:
                stream.fill()
            os.kill(worker, signal.SIGKILL)
        for stream in slow:
            stream.drain()
            stream.exchange()


def refused_for_want_of_descriptors(world: Any) -> float:
    """Connections that met a want of descriptors, as Prometheus is told."""
    url = f"http://{flows.N1}:10249/metrics"
    page = world.run("outside", lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    found = [line for line in page.splitlines() if "rejected_total" in line and '"descriptors"' in line]
    return float(found[0].split()[-1]) if found else 0.0
