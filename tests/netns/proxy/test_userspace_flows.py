"""Every row of the table of flows, through the userspace data path, in a real kernel."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests import flows
from tests.flows import FLOWS, Failed, Flow, Seen, Served, Where

pytestmark = pytest.mark.netns
TRIES = 9


@pytest.fixture(scope="module")
def served(world, running_class) -> Iterator[None]:
    running = running_class(world)
    report = running.sync(flows.SERVICES, flows.SLICES)
    assert report.unserved == ()
    agent_tcp, agent_udp = world.open("n1"), world.open("n1", socket.SOCK_DGRAM)
    agent_tcp.bind(("0.0.0.0", flows.NODE_AGENT_PORT))
    agent_tcp.listen()
    agent_udp.bind(("0.0.0.0", flows.NODE_AGENT_PORT))
    yield
    agent_tcp.close()
    agent_udp.close()
    running.stop()


def destination(to: str) -> tuple[str, int]:
    if ":" in to:
        address, _, port = to.rpartition(":")
        return address, int(port)
    found = next(s for s in flows.SERVICES if s["metadata"]["name"] == to)
    return found["spec"]["clusterIP"], found["spec"]["ports"][0]["port"]


def visit(world, source: str, address: str, port: int) -> tuple[str, str]:
    """One connection: who answered, whom it saw; bytes must come back both ways."""
    with world.connect(source, address, port) as sock:
        stream = sock.makefile("rb")
        name, seen = stream.readline().decode().split()
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b"hello"
    return name, seen


def ask(world, source: str, address: str, port: int, timeout: float = 2) -> tuple[str, str]:
    """The same by one datagram, from a socket of its own."""
    with world.open(source, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))  # so an answer from any other address would not be heard
        sock.send(b"hello")
        head, _, body = sock.recv(100).partition(b"\n")
        assert body == b"hello"
        name, seen, _ = head.decode().split()
    return name, seen


@pytest.mark.parametrize("flow", [flow for flow in FLOWS if flows.USERSPACE in flow.modes], ids=str)
def test_flow(world, served, flow: Flow) -> None:
    address, port = destination(flow.to)
    udp = flow.protocol == flows.UDP
    if isinstance(flow.expect, Served):
        answers = [(ask if udp else visit)(world, flow.source, address, port) for _ in range(TRIES)]
        assert {name for name, _ in answers} == flow.expect.by
        for name, seen in answers:
            own = flow.expect.seen is Seen.ITS_OWN and name != flow.source
            assert seen == flows.ADDRESSES[flow.source if own else "n1"], name
    elif udp:
        silent = flow.expect is Failed.DROPPED
        with pytest.raises(TimeoutError if silent else ConnectionRefusedError):
            ask(world, flow.source, address, port, timeout=0.3)
    elif flow.expect is Failed.REFUSED:
        # A connection that found no endpoint in time may be accepted first: it ends by RST, never by EOF.
        with (
            pytest.raises((ConnectionRefusedError, ConnectionResetError)),
            world.connect(flow.source, address, port) as sock,
        ):
            sock.recv(1)
    else:
        with pytest.raises(TimeoutError):
            world.connect(flow.source, address, port, timeout=0.3)


@pytest.mark.parametrize("address", ["10.96.0.10", "10.96.99.99"])
def test_udp_of_the_node_is_not_reachable_through_a_cluster_ip(world, served, address: str) -> None:
    for source in (Where.CLIENT, Where.HOST):
        with world.open(source, socket.SOCK_DGRAM) as sock:
            sock.connect((address, flows.NODE_AGENT_PORT))
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


def test_round_robin_is_even(world, served) -> None:
    answers = [visit(world, "client", *destination("all"))[0] for _ in range(30)]
    assert {name: answers.count(name) for name in answers} == {"web1": 10, "web2": 10, "remote": 10}


def test_affinity_keeps_a_client_with_its_endpoint(world, served) -> None:
    """Clients take turns, then each stays, also a client that comes back after others."""
    first = {source: visit(world, source, *destination("sticky"))[0] for source in ("client", "n1")}
    assert len(set(first.values())) == 2, "the second client is not sent where the first one was"
    for _ in range(5):
        for source, name in first.items():
            assert visit(world, source, *destination("sticky"))[0] == name


def test_nobody_answers_arp_for_a_service_address(world, served) -> None:
    """Without arp_ignore every node would claim all Service addresses on the shared link."""
    with contextlib.suppress(OSError):
        from netplane.linux.rtnl import rtnl

        with rtnl(world.netns["outside"]) as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            ipr.route("add", dst="10.96.0.0/12", oif=index, scope=253)
    with pytest.raises(OSError, match=r"No route to host|timed out"):
        world.connect("outside", "10.96.0.10", 80, timeout=4)
