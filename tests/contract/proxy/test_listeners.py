"""Listeners that cannot be had, come back, or were left by an earlier process: the node goes on in each case."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netplane.linux.namespaces import new_netns
from netplane.linux.rtnl import rtnl
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Snapshot, Target
from proxy.userspace.datapath import UserspaceDataPath
from proxy.userspace.listeners import Cannot, open_listener, retire
from proxy.userspace.observe import retired
from proxy.userspace.workers.descriptors import table
from tests.contract.proxy.test_datapath_contract import Shelf
from tests.fakes_datapath import Hosted

NODE = NodeFacts(
    "n1", (ip_address("127.0.0.1"),), (), (ip_network("10.244.0.0/16"),), (ip_network("10.96.0.0/12"),)
)
TARGET = Target(ServicePort("default", "web", "80"), *[Pool((Endpoint(ip_address("10.244.1.2"), 80),))] * 2)
OLD, NEW, UDP = (
    Frontend(ip_address("127.0.0.1"), 30080, Protocol.TCP),
    Frontend(ip_address("127.0.0.1"), 30081, Protocol.TCP),
    Frontend(ip_address("127.0.0.1"), 30080, Protocol.UDP),
)


def snapshot(*frontends: Frontend) -> Snapshot:
    return Snapshot(NODE, dict.fromkeys(frontends, TARGET), 1)


@pytest.fixture
def netns() -> Iterator[int]:
    made = new_netns()
    with rtnl(made) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
    yield made
    os.close(made)


def hosted(netns: int, **options: object) -> Hosted:
    def make() -> UserspaceDataPath:
        made = UserspaceDataPath(**options)  # type: ignore[arg-type]
        made.plumbed = False
        return made

    return Hosted(make, netns)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many more may be opened. All are taken first: a thread that waits in accept(2) has one already."""
    before, _ = table()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 2 + count, most))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(2))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for fd in taken:
            os.close(fd)


def test_a_listener_for_which_no_descriptor_is_left_is_named_and_tried_again() -> None:
    with descriptors_left(0):
        found = open_listener(replace(OLD, port=0))
    assert found == Cannot("cannot listen: Too many open files", again=True)


def test_a_listener_of_a_family_that_the_kernel_has_not_is_named(monkeypatch) -> None:
    """ipv6.disable=1 and a dual-stack Service."""
    monkeypatch.setattr(socket, "AF_INET6", 99)  # no kernel has so many
    with pytest.raises(OSError, match="Address family not supported"):
        socket.socket(socket.AF_INET6)
    found = open_listener(Frontend(ip_address("::1"), 0, Protocol.TCP))
    assert isinstance(found, Cannot)
    assert "Address family not supported" in found.reason


def test_what_cannot_be_closed_for_copies_is_said_and_does_no_harm(caplog) -> None:
    broken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    broken.bind(("127.255.255.255", 0))  # connect(2) to a broadcast address is refused: EACCES
    retire(broken)
    assert "a copy of a closed listener may still have clients" in caplog.text


@pytest.mark.netns
def test_a_sync_that_runs_out_of_descriptors_reports_what_is_not_served_and_mends_it(netns) -> None:
    path = hosted(netns)
    path.call(path.datapath.sync(snapshot()))
    with descriptors_left(1):
        report = path.call(path.datapath.sync(snapshot(OLD, NEW)))
    assert [entry.reason for entry in report.unserved] == ["cannot listen: Too many open files"]
    assert path.call(path.datapath.sync(snapshot(OLD, NEW))).unserved == ()
    path.stop()


@pytest.mark.netns
def test_a_udp_frontend_comes_back_while_the_supervisor_keeps_its_former_socket(netns) -> None:
    """The kernel says that the port is taken, and by what: nothing is remembered of frontends that went."""
    path = hosted(netns, keeper=(shelf := Shelf()))
    path.call(path.datapath.sync(snapshot(UDP)))
    copies = [os.dup(sock.fileno()) for socks in shelf.kept.values() for sock in socks]
    path.call(path.datapath.sync(snapshot()))
    report = path.call(path.datapath.sync(snapshot(UDP)))
    assert report.unserved == ()
    path.stop()
    for fd in copies:
        os.close(fd)


@pytest.mark.parametrize(
    ("address", "loopback"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1",) * 2]
)
def test_a_udp_socket_that_was_retired_is_known_by_its_looks(address: str, loopback: str) -> None:
    opened = open_listener(Frontend(ip_address(address), 0, Protocol.UDP))
    assert not isinstance(opened, Cannot)
    port = opened.getsockname()[1]
    with socket.socket(fileno=os.dup(opened.fileno())):
        assert not retired(ip_address(address), port)
        retire(opened)
        assert retired(ip_address(address), port)
        assert retired(ip_address(loopback), port)
    assert not retired(ip_address(address), port)


def test_somebody_elses_udp_port_is_not_taken_from_them() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        found = open_listener(replace(UDP, port=other.getsockname()[1]))
    assert isinstance(found, Cannot)
    assert "is taken by another process" in found.reason


@pytest.mark.netns
def test_names_that_no_listener_has_any_more_are_given_up(netns) -> None:
    """Of an earlier version, or of something that is no listener: else they are kept for ever."""
    shelf = Shelf()
    first = hosted(netns, keeper=shelf)
    first.call(first.datapath.sync(snapshot(OLD)))
    first.stop(keep=True)
    ((name, socks),) = shelf.kept.items()
    shelf.kept = {"t7f000001-30080": socks}
    second = hosted(netns, keeper=shelf, kept={k: [s.dup() for s in v] for k, v in shelf.kept.items()})
    second.call(second.datapath.sync(snapshot(OLD)))
    assert set(shelf.kept) == {name}
    second.stop()


@pytest.mark.netns
def test_what_the_last_process_served_waits_until_the_api_says_that_it_has_gone(netns) -> None:
    """It came after that process last wrote to its disk: its clients must not be refused by the next one."""
    shelf = Shelf()
    first = hosted(netns, keeper=shelf)
    first.call(first.datapath.sync(snapshot(OLD, NEW)))
    first.stop(keep=True)
    second = hosted(netns, keeper=shelf, kept={k: [s.dup() for s in v] for k, v in shelf.kept.items()})
    kept = {sock.getsockname()[1]: sock.dup() for socks in shelf.kept.values() for sock in socks}
    second.call(second.datapath.sync(replace(snapshot(OLD), remembered=True)))
    assert listens(kept[NEW.port])
    second.call(second.datapath.sync(snapshot(OLD, NEW)))
    assert listens(kept[NEW.port])
    second.call(second.datapath.sync(snapshot(OLD)))
    assert not listens(kept[NEW.port])
    assert listens(kept[OLD.port])
    second.stop()
    for sock in kept.values():
        sock.close()


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
