"""Every row of the table of flows, in every mode that it holds in, in a real kernel."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import flows
from tests.flows import FLOWS, Failed, Flow, Seen, Served
from tests.netns.proxy.flows import DATA_PATHS, ask, destination, serving, visit

pytestmark = pytest.mark.netns
DNS = "10.96.0.53"
TRIES = {flows.USERSPACE: 9}  # it takes turns; the others choose at random
RANDOM_TRIES = 40


@pytest.fixture(scope="module")
def switch(world) -> Iterator[Callable[[str], None]]:
    """Serve the table by a mode from now on; the rows come ordered by mode."""
    with ExitStack() as left:
        now: list[str] = []

        def to(mode: str) -> None:
            if now != [mode]:
                left.close()
                left.enter_context(serving(world, mode))
                now[:] = [mode]

        yield to


@pytest.mark.parametrize("mode", DATA_PATHS)
def test_a_socket_of_the_node_at_a_service_address_is_reached(world, switch, mode: str) -> None:
    """Cluster DNS listens at an address of the Service network that no Service has."""
    switch(mode)
    with world.open("n1") as stream, world.open("n1", socket.SOCK_DGRAM) as datagrams:
        stream.bind((DNS, 53))
        stream.listen()
        datagrams.bind((DNS, 53))
        for source in ("client", "n1"):
            with world.connect(source, DNS, 53), world.open(source, socket.SOCK_DGRAM) as client:
                client.connect((DNS, 53))
                client.send(b"question")
                data, peer = datagrams.recvfrom(100)
                datagrams.sendto(data, peer)
                assert client.recv(100) == b"question"


@pytest.mark.parametrize("source", [flows.CLIENT, flows.HOST])
@pytest.mark.parametrize("mode", DATA_PATHS)
def test_a_sticky_client_has_one_endpoint_at_every_address_of_a_service(
    world, switch, mode: str, source: flows.Where
) -> None:
    """As with kube-proxy: by Service port, whichever of its addresses is called."""
    switch(mode)
    places = [destination("sticky"), (flows.N1, 30086), ("203.0.113.8", 80)]
    answers = [visit(world, source, *place) for place in places * 4]
    assert len({name for name, _ in answers}) == 1


@pytest.mark.parametrize("mapped", [False, True], ids=["IPv4", "IPv4 by an IPv6 socket"])
@pytest.mark.parametrize("mode", DATA_PATHS)
def test_what_is_bound_to_loopback_is_served_there(world, switch, mode: str, mapped: bool) -> None:
    switch(mode)
    before = "::ffff:" if mapped else ""
    with world.open("n1", family=socket.AF_INET6 if mapped else socket.AF_INET) as sock:
        sock.bind((f"{before}127.0.0.1", 0))
        sock.connect((f"{before}127.0.0.1", 30080))
        assert sock.recv(100).startswith(b"web")


@pytest.mark.parametrize("connected", [False, True], ids=["sendto", "connect"])
@pytest.mark.parametrize("mode", DATA_PATHS)
def test_what_is_bound_to_loopback_hears_at_once_that_it_cannot_reach_an_endpoint(
    world, switch, mode: str, connected: bool
) -> None:
    """Only the relay could: its own connection begins anew. With kube-proxy such a connect() is an error (EINVAL)."""
    switch(mode)
    with world.open("n1") as stream:
        stream.bind(("127.0.0.1", 0))
        if mode == flows.USERSPACE:
            stream.connect(destination("web"))
            assert stream.recv(100).startswith(b"web")
        else:
            with pytest.raises(ConnectionRefusedError):
                stream.connect(destination("web"))
    with world.open("n1", socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        if connected:
            datagrams.connect(destination("u-web"))
            datagrams.send(b"hello")
        else:
            datagrams.sendto(b"hello", destination("u-web"))
        if mode == flows.USERSPACE:
            assert datagrams.recv(100).startswith(b"web")
        elif connected:
            with pytest.raises(ConnectionRefusedError):
                datagrams.recv(100)


ROWS = [(mode, flow) for mode in DATA_PATHS for flow in FLOWS if mode in flow.modes]


@pytest.mark.parametrize(("mode", "flow"), ROWS, ids=[f"{mode}: {flow}" for mode, flow in ROWS])
def test_flow(world, switch, mode: str, flow: Flow) -> None:
    switch(mode)
    address, port = destination(flow.to)
    udp = flow.protocol == flows.UDP
    if isinstance(flow.expect, Served):
        go, tries = ask if udp else visit, TRIES.get(mode, RANDOM_TRIES)
        answers = [go(world, flow.source, address, port) for _ in range(tries)]
        assert {name for name, _ in answers} == flow.expect.by
        for name, seen in answers:
            expected = flow.expect.itself if name == flow.source else flow.expect.seen
            own = expected is Seen.ITS_OWN
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
