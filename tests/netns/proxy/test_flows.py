"""Every row of the table of flows, in every mode that it holds in, in a real kernel."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, product
from time import monotonic, sleep
from typing import Any

import pytest

from tests import flows
from tests.flows import CHOSEN_FLOWS, FLOWS, Failed, Flow, Seen, Served
from tests.netns.proxy.conftest import FAMILIES, IP_FREEBIND
from tests.netns.proxy.flows import DATA_PATHS, ask, destination, serve_table, serving, visit

pytestmark = pytest.mark.netns
DNS = "10.96.0.53"
TRIES = {flows.USERSPACE: 9}  # it takes turns; the others choose at random
RANDOM_TRIES = 40
SILENCE = 0.5  # seconds without an answer, which otherwise comes within one thousandth of one


VERSION_NAMES = [f"IPv{version}" for version in flows.VERSIONS]
by_version = pytest.mark.parametrize("version", flows.VERSIONS, ids=VERSION_NAMES)


@pytest.fixture(scope="module")
def switch(world) -> Iterator[Callable[..., None]]:
    """Serve the table by a mode from now on, with some nodePortAddresses; the rows come ordered by both."""
    with ExitStack() as left:
        now: list[Any] = ["", "", None]

        def to(mode: str, node_port_network: str = "") -> None:
            if now[0] != mode:
                left.close()
                now[:] = [mode, "", left.enter_context(serving(world, mode))]
            if now[1] != node_port_network:
                serve_table(now[2], node_port_network)
                now[1] = node_port_network

        yield to


@by_version
@pytest.mark.parametrize("mode", DATA_PATHS)
def test_a_socket_of_the_node_at_a_service_address_is_reached(world, switch, mode: str, version: int) -> None:
    """Cluster DNS listens at an address of the Service network that no Service has."""
    switch(mode)
    place, family = (flows.in_version(DNS, version), 53), FAMILIES[version]
    with (
        world.open("n1", family=family) as stream,
        world.open("n1", socket.SOCK_DGRAM, family) as datagrams,
    ):
        for sock in (stream, datagrams):
            sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)  # by a route alone, IPv6 has no address
            sock.bind(place)
        stream.listen()
        for source in ("client", "n1"):
            with world.connect(source, *place), world.open(source, socket.SOCK_DGRAM, family) as client:
                client.connect(place)
                client.send(b"question")
                data, peer = datagrams.recvfrom(100)
                datagrams.sendto(data, peer)
                assert client.recv(100) == b"question"


@by_version
@pytest.mark.parametrize("service", ["sticky", "u-sticky"])
@pytest.mark.parametrize("source", [flows.CLIENT, flows.HOST, flows.OUTSIDE, flows.REMOTE])
@pytest.mark.parametrize("mode", DATA_PATHS)
def test_a_sticky_client_has_one_endpoint_at_every_address_of_a_service(
    world, switch, mode: str, source: flows.Where, service: str, version: int
) -> None:
    """As with kube-proxy: by Service port, whichever of its addresses is called."""
    switch(mode)
    places = [f"{flows.N1}:30086", "203.0.113.8:80"]
    if source in (flows.CLIENT, flows.HOST):
        places.append(service)
    go = ask if service == "u-sticky" else visit
    answers = [go(world, source, *destination(place, version)) for place in places * 4]
    assert len({name for name, _ in answers}) == 1


@pytest.mark.parametrize("mode", DATA_PATHS)
def test_a_sticky_client_is_forgotten_after_its_time_and_not_before(world, switch, mode: str) -> None:
    """Clients take turns at looking, so that the others meanwhile are not seen and their time runs out."""
    switch(mode)
    began, had, moved = monotonic(), dict[Any, tuple[str, float]](), set[Any]()
    kinds = set(product((visit, ask), flows.VERSIONS))
    # Not a multiple of the endpoints: one that comes again has not come to the same one in turn.
    for number, kind in cycle(product(range(23), kinds)):
        (go, version), before = kind, monotonic()
        client = flows.in_version(f"172.16.5.{number}", version)
        name, _ = go(world, "outside", *destination("203.0.113.12:80", version), source=client)
        last, since = had.get((client, go), (name, before))
        if name != last:
            assert monotonic() - since >= flows.BRIEF, "forgotten before its time"
            moved.add(kind)
        had[client, go] = name, before
        if moved == kinds:
            return
        assert monotonic() - began < 20, f"of {kinds - moved} nobody is ever forgotten"
        sleep(0.015)


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


ROWS = [
    (mode, network, flow, version)
    for mode in DATA_PATHS
    for network, table in (("", FLOWS), (flows.SECOND_NETWORK, CHOSEN_FLOWS))
    for flow in table
    if mode in flow.modes
    for version in flows.VERSIONS
]


def named(mode: str, network: str, flow: Flow, version: int) -> str:
    return f"{mode}{' with nodePortAddresses' if network else ''}: {flow}, IPv{version}"


DROPPED = [row for row in ROWS if row[2].expect is Failed.DROPPED]
ANSWERED = [row for row in ROWS if row not in DROPPED]


@pytest.mark.parametrize(
    ("mode", "network", "flow", "version"), ANSWERED, ids=[named(*row) for row in ANSWERED]
)
def test_flow(world, switch, mode: str, network: str, flow: Flow, version: int) -> None:
    switch(mode, network)
    address, port = destination(flow.to, version)
    udp = flow.protocol == flows.UDP
    if isinstance(flow.expect, Served):
        go, tries = ask if udp else visit, TRIES.get(mode, RANDOM_TRIES)
        answers = [go(world, flow.source, address, port) for _ in range(tries)]
        assert {name for name, _ in answers} == flow.expect.by
        for name, seen in answers:
            own = flow.expect.seen_by(name, flow.source) is Seen.ITS_OWN
            assert seen == flows.in_version(flows.ADDRESSES[flow.source if own else "n1"], version), name
    elif udp:
        with pytest.raises(ConnectionRefusedError):
            ask(world, flow.source, address, port)
    else:
        # A connection that found no endpoint in time may be accepted first: it ends by RST, never by EOF.
        with (
            pytest.raises((ConnectionRefusedError, ConnectionResetError)),
            world.connect(flow.source, address, port) as sock,
        ):
            sock.recv(1)


@pytest.mark.parametrize(("mode", "network"), dict.fromkeys(row[:2] for row in DROPPED))
def test_what_is_dropped_meets_silence(world, switch, mode: str, network: str) -> None:
    """All such rows at once, as a silence is known by its length."""
    switch(mode, network)
    rows = [row for row in DROPPED if row[:2] == (mode, network)]
    with ThreadPoolExecutor(len(rows)) as pool:
        heard = zip(rows, pool.map(lambda row: what_is_heard(world, *row[2:]), rows), strict=True)
    assert {named(*row): word for row, word in heard if word != "nothing"} == {}


def what_is_heard(world, flow: Flow, version: int) -> str:
    address, port = destination(flow.to, version)
    try:
        if flow.protocol == flows.UDP:
            return str(ask(world, flow.source, address, port, timeout=SILENCE))
        world.connect(flow.source, address, port, timeout=SILENCE).close()
    except TimeoutError:
        return "nothing"
    except OSError as error:
        return str(error)
    return "a connection"
