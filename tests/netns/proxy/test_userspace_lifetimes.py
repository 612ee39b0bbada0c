"""How long connections live where a Service says so: an age, and a time after the endpoint has left."""

import contextlib
import socket
import time

import pytest

from tests import flows
from tests.netns.proxy.daemon import first_word

pytestmark = pytest.mark.netns
ADDRESS, PORT = "10.96.0.10", 80


@pytest.fixture
def running(start, monkeypatch: pytest.MonkeyPatch):
    """A data path that looks often, and to which a short pause is one."""
    monkeypatch.setattr("proxy.userspace.streams.lifetimes.SWEEP", 0.05)
    monkeypatch.setattr("proxy.userspace.streams.lifetimes.QUIET", 300)
    return start()


def asking(**wishes: str) -> dict:
    made = flows.service("web", ADDRESS)
    made["metadata"]["annotations"] = {f"netplane.io/{name}": text for name, text in wishes.items()}
    return made


def visits(world, count: int) -> list[tuple[str, socket.socket]]:
    """Connections, each with the name of the pod that serves it."""
    found = []
    for _ in range(count):
        sock = world.connect("client", ADDRESS, PORT)
        found.append((first_word(sock), sock))
    return found


def ends(sock: socket.socket) -> str:
    """How a connection ends: "fin", "reset", or not within five seconds."""
    try:
        return "fin" if sock.recv(1) == b"" else "data"
    except ConnectionResetError:
        return "reset"


def talk(sock: socket.socket, seconds: float) -> None:
    """A conversation without a pause."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        time.sleep(0.02)


def test_a_connection_over_age_ends_like_an_idle_one(world, running) -> None:
    running.sync([asking(**{"max-connection-age": "1"})], [flows.endpoint_slice("web", "web1")])
    began = time.monotonic()
    ((_, idle),) = visits(world, 1)
    with idle:
        assert ends(idle) == "fin"
        assert time.monotonic() - began >= 0.9, "not before its time"
    assert running.worker.active == 0


def test_an_age_that_comes_later_holds_for_connections_that_are_there(world, running) -> None:
    """Those that a new process took over may be there before it knows their Service."""
    slices = [flows.endpoint_slice("web", "web1")]
    running.sync([asking()], slices)
    ((_, idle),) = visits(world, 1)
    with idle:
        running.sync([asking(**{"max-connection-age": "1"})], slices)
        assert ends(idle) == "fin"


def test_a_connection_in_use_is_ended_when_it_pauses(world, running) -> None:
    running.sync([asking(**{"max-connection-age": "1"})], [flows.endpoint_slice("web", "web1")])
    ((_, busy),) = visits(world, 1)
    with busy:
        talk(busy, 1.6)  # longer than any age of about one second
        assert ends(busy) == "fin"


def test_one_that_never_pauses_is_cut(world, running, monkeypatch) -> None:
    monkeypatch.setattr("proxy.userspace.streams.lifetimes.GRACE", 0.3)
    running.sync([asking(**{"max-connection-age": "1"})], [flows.endpoint_slice("web", "web1")])
    ((_, busy),) = visits(world, 1)
    with busy, pytest.raises((ConnectionResetError, BrokenPipeError)):
        talk(busy, 5)


def test_connections_drain_from_an_endpoint_that_has_left(world, running) -> None:
    both = flows.endpoint_slice("web", "web1", "web2")
    running.sync([asking(drain="1")], [both])
    with contextlib.ExitStack() as stack:
        found = dict(visits(world, 2))
        for sock in found.values():
            stack.enter_context(sock)
        running.sync([asking(drain="1")], [flows.endpoint_slice("web", "web1")])
        found["web2"].sendall(b"x")
        assert found["web2"].recv(1) == b"x", "it goes on for a while"
        assert ends(found["web2"]) == "reset"
        found["web1"].sendall(b"y")
        assert found["web1"].recv(1) == b"y", "the others are left alone"
        running.sync([asking(drain="1")], [flows.endpoint_slice("web")])
        running.sync([asking(drain="1")], [both])
        found["web1"].settimeout(1.5)
        with pytest.raises(TimeoutError):
            found["web1"].recv(1)  # back in time: nothing ends


def test_without_a_word_nothing_ends(world, running) -> None:
    running.sync([asking()], [flows.endpoint_slice("web", "web1")])
    ((_, sock),) = visits(world, 1)
    with sock:
        running.sync([], [])
        sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
