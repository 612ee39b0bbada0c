"""UDP flows over time: they stay with their endpoint, and leave it the moment it is gone."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netplane.linux import nft
from proxy.userspace.describe import describe_flows
from tests import flows

pytestmark = pytest.mark.netns
ADDRESS, PORT = "10.96.0.10", 53
SERVICE = flows.service("dns", ADDRESS, PORT, node_port=30053, protocol=flows.UDP)


def slice_of(*pods: str) -> dict[str, Any]:
    return flows.endpoint_slice("dns", *pods, protocol=flows.UDP)


@pytest.fixture
def running(start):
    made = start()
    made.sync([SERVICE], [slice_of("web1", "web2")])
    return made


@pytest.fixture
def client(world) -> Iterator[socket.socket]:
    with world.open("client", socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((ADDRESS, PORT))
        yield sock


def ask(sock: socket.socket, text: bytes = b"?") -> tuple[str, str, int]:
    """Who answered, and the client's address and port as they were seen."""
    sock.send(text)
    head, _, body = sock.recv(65536).partition(b"\n")
    assert body == text
    name, address, port = head.decode().split()
    return name, address, int(port)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stream_has_one_endpoint_and_one_source(running, client) -> None:
    assert len({ask(client, b"x" * size) for size in range(1, 200)}) == 1
    (traffic,) = running.worker.traffic.values()
    assert (traffic.connections, traffic.active, traffic.received) == (1, 1, sum(range(1, 200)))


def test_it_stays_when_other_endpoints_come_and_go(running, client) -> None:
    first = ask(client)
    other = "web2" if first[0] == "web1" else "web1"
    for pods in ((first[0],), (first[0], "remote"), (first[0], other, "remote")):
        running.sync([SERVICE], [slice_of(*pods)])
        assert ask(client) == first


def test_it_leaves_an_endpoint_that_is_gone_at_once(running, client) -> None:
    name = ask(client)[0]
    other = "web2" if name == "web1" else "web1"
    running.sync([SERVICE], [slice_of(other)])
    assert running.worker.active == 0
    assert ask(client)[0] == other, "the very next datagram"


def test_n_to_0_is_refused_and_0_to_n_served(running, client) -> None:
    for _ in range(3):
        assert ask(client)[0] in ("web1", "web2")
        running.sync([SERVICE], [slice_of()])
        with pytest.raises(ConnectionRefusedError):
            ask(client)
        running.sync([SERVICE], [slice_of("web1", "web2")])


def test_deletion_ends_every_flow(running, client) -> None:
    ask(client)
    running.sync([], [])
    assert running.worker.active == 0
    with pytest.raises(ConnectionRefusedError):
        ask(client)


def test_the_protocol_of_a_live_service_may_change(world, running, client) -> None:
    ask(client)
    running.sync(
        [flows.service("dns", ADDRESS, PORT, node_port=30053)], [flows.endpoint_slice("dns", "web1")]
    )
    with pytest.raises(ConnectionRefusedError):
        ask(client)
    with world.connect("client", ADDRESS, PORT) as sock:
        assert sock.recv(4) == b"web1"


def test_silence_ends_a_flow(world, start) -> None:
    running = start(udp_idle=(0.05, 0.05))
    running.sync([SERVICE], [slice_of("web1")])
    with world.open("client", socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, PORT))
        ask(sock)
        eventually(lambda: running.worker.active == 0)
        assert ask(sock)[0] == "web1", "and its next datagram begins another"


def test_many_questions_from_many_ports_are_bounded(world, running) -> None:
    """As a resolver asks: a socket a question. Those silent longest make room, none fails, nothing leaks."""

    async def bound(most: int) -> None:
        running.worker.datagrams._most = most

    running.call(bound(50))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1000):
        with world.open("client", socket.SOCK_DGRAM) as sock:
            sock.connect((ADDRESS, PORT))
            assert ask(sock, b"question %d" % number)[1] == "10.244.1.2"
        assert running.worker.active <= 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 1024
    (traffic,) = running.worker.traffic.values()
    assert 900 < traffic.connections <= 1000, "a port drawn twice in a row is the same client"
    assert traffic.rejected == {}


def test_large_datagrams_pass_whole(world, running, client) -> None:
    """Where conntrack puts fragments together again, as it does on nodes that masquerade (ours do)."""
    world.run(
        "n1", nft.apply, "table ip watch { chain c { type filter hook input priority 0; ct state new; }; }"
    )
    try:
        assert ask(client, b"y" * 20_000)[0] in ("web1", "web2")
    finally:
        world.run("n1", nft.apply, "delete table ip watch")


def test_the_next_process_finds_the_socket_and_what_waited(world, start) -> None:
    from tests.contract.proxy.test_datapath_contract import Shelf

    shelf = Shelf()
    first = start(keeper=shelf)
    first.sync([SERVICE], [slice_of("web1")])
    first.stop(keep=True)
    with world.open("client", socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, PORT))
        sock.send(b"waiting")
        second = start(keeper=shelf, kept=shelf.kept)
        second.sync([SERVICE], [slice_of("web1")])
        assert sock.recv(100).endswith(b"waiting")


def test_flows_can_be_looked_at(running, client) -> None:
    _, address, port = ask(client)

    async def look() -> list[dict[str, Any]]:
        return describe_flows(running.worker.flows())

    (flow,) = running.call(look())
    own = client.getsockname()[1]
    assert flow["client"] == f"10.244.1.2:{own}"
    assert flow["source"] == f"{address}:{port}"
    assert port != own, "never a port that the client may use itself"
    assert (flow["arrived"], flow["frontend"]) == (f"{ADDRESS}:{PORT}", f"{ADDRESS}:{PORT}/udp")
    assert flow["keepsClient"]
    assert flow["connected"]
