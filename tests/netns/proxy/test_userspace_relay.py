"""The relay on real sockets: half-close, RST, bulk, slow readers, dead endpoints, and nothing left behind."""

import hashlib
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from netplane.linux.rtnl import rtnl
from proxy.balance import EJECT_SECONDS
from tests import flows
from tests.netns.proxy.conftest import Echo, node
from tests.netns.proxy.daemon import eventually

pytestmark = pytest.mark.netns
ADDRESS, PORT = "10.96.0.10", 80
MIB = 1024 * 1024
RESET = struct.pack("ii", 1, 0)


SHORT_PORT = 9200
PROGRAM = Path(__file__).with_name("short.py")


@contextmanager
def program(world, where: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """One end of many short connections, as a process in a namespace."""
    command = ["nsenter", f"--net=/proc/self/fd/{world.netns[where]}", sys.executable, str(PROGRAM)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *map(str, words)], pass_fds=[world.netns[where]], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


class Peer:
    """A scripted server in the pod web1, on a port of its own: the test holds both ends of a connection."""

    def __init__(self, world, port: int = 9000) -> None:
        self.port = port
        self._listener = world.open("web1", family=socket.AF_INET6)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("::", port))  # IPv4 as well
        self._listener.listen(512)

    def accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(5)
        return sock

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def running(start):
    return start()


@pytest.fixture
def peer(world, running) -> Iterator[Peer]:
    made = Peer(world)
    running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", "web1", port=made.port)])
    yield made
    made.close()


def pair(world, peer: Peer) -> tuple[socket.socket, socket.socket]:
    client = world.connect("client", ADDRESS, PORT)
    return client, peer.accept()


def gone(running) -> None:
    """Wait until no flow is left; every descriptor must have been given back by then."""
    deadline = time.monotonic() + 5
    while running.worker.active:
        assert time.monotonic() < deadline, "a flow did not end"
        time.sleep(0.005)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def read_all(sock: socket.socket) -> bytes:
    chunks = []
    while data := sock.recv(65536):
        chunks.append(data)
    return b"".join(chunks)


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close_either_way(world, running, peer, first: str) -> None:
    client, server = pair(world, peer)
    one, other = (client, server) if first == "client" else (server, client)
    with client, server:
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert read_all(other) == b"question"
        other.sendall(b"a longer answer")
        other.shutdown(socket.SHUT_WR)
        assert read_all(one) == b"a longer answer"
    gone(running)


@pytest.mark.parametrize("first", ["client", "server"])
def test_reset_is_passed_as_reset(world, running, peer, first: str) -> None:
    client, server = pair(world, peer)
    one, other = (client, server) if first == "client" else (server, client)
    with other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
    gone(running)


def test_fin_before_any_data_and_an_answer_after(world, running, peer) -> None:
    client, server = pair(world, peer)
    with client, server:
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.sendall(b"late")
        server.close()
        assert read_all(client) == b"late"
    gone(running)


@pytest.mark.parametrize("sizes", [(1,), (4096,), (32768,), (32768, 1), (65536, 5), (3, 100_000, 7)])
def test_the_last_bytes_and_the_fin_in_one_go(world, running, peer, sizes: tuple[int, ...]) -> None:
    """What a peer writes right before it closes arrives whole, whatever the relay sees of it at a time."""
    sent = b"".join(os.urandom(size) for size in sizes)
    for sender in (0, 1):
        ends = pair(world, peer)
        with ends[0], ends[1]:
            at = 0
            for size in sizes:
                ends[sender].sendall(sent[at : at + size])
                at += size
            ends[sender].close()
            assert read_all(ends[1 - sender]) == sent
    gone(running)


@pytest.mark.parametrize("closes", [False, True])
def test_urgent_data_costs_no_other_byte(world, running, peer, closes: bool) -> None:
    """A read stops before an urgent byte: what follows it, and the FIN, must not be taken for read."""
    for _ in range(20):  # how much of it the relay sees at once is not for us to say
        client, server = pair(world, peer)
        with client, server:
            client.sendall(b"before")
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"after")
            if closes:
                client.close()
                assert read_all(server) == b"beforeafter"
            else:
                got = b""
                while len(got) < 11:
                    got += server.recv(11 - len(got))
                assert got == b"beforeafter"
    gone(running)


@pytest.mark.parametrize("closes", [False, True])
def test_urgent_data_in_the_midst_of_bulk(world, running, peer, closes: bool) -> None:
    client, server = pair(world, peer)
    sent = os.urandom(8 * MIB)
    got = bytearray()

    def receive() -> None:
        while len(got) < len(sent) and (data := server.recv(MIB)):
            got.extend(data)

    with client, server:
        reader = threading.Thread(target=receive)
        reader.start()
        client.sendall(sent[: 4 * MIB])
        client.send(b"!", socket.MSG_OOB)  # one only: a second would make this one part of the stream
        client.sendall(sent[4 * MIB :])
        if closes:
            client.close()
        reader.join()
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.1, "nothing is left to do, and the relay is busy"
    gone(running)


@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=pytest.mark.long)])
def test_bulk_both_ways_at_once(world, running, peer, mib: int) -> None:
    client, server = pair(world, peer)
    source = os.urandom(2 * MIB)
    blocks = [memoryview(source)[start : start + MIB] for start in range(0, MIB, 16_411)]  # no two the same
    digests: dict[str, str] = {}

    def send(name: str, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        for number in range(mib):
            block = blocks[number % len(blocks)]
            digest.update(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        digests[f"to {name}"] = digest.hexdigest()

    def receive(name: str, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while data := sock.recv(MIB):
            digest.update(data)
        digests[f"at {name}"] = digest.hexdigest()

    with client, server:
        work = [(send, ("server", client)), (send, ("client", server))]
        work += [(receive, ("client", client)), (receive, ("server", server))]
        threads = [threading.Thread(target=function, args=arguments) for function, arguments in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(digests) == 4
    assert digests["to server"] == digests["at server"]
    assert digests["to client"] == digests["at client"]
    gone(running)
    (traffic,) = running.worker.traffic.values()
    assert (traffic.received, traffic.sent) == (mib * MIB, mib * MIB)


def test_a_reader_that_stops_stops_the_sender(world, running, peer) -> None:
    """What is in flight is bounded by the kernel's buffers and one pipe, and this process does not grow."""
    client, server = pair(world, peer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent = 0
    with client, server:
        client.settimeout(0.5)
        block = b"x" * 65536
        try:
            while sent < 64 * MIB:
                sent += client.send(block)
        except TimeoutError:
            pass
        assert sent < 32 * MIB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
        received = 0
        while received < sent:
            received += len(server.recv(MIB))
    gone(running)


def test_endpoints_that_do_not_answer_cost_a_moment(world, running, caplog: pytest.LogCaptureFixture) -> None:
    """One refuses, one is on no link, one swallows SYNs; the client sees the fourth, within the deadline."""
    dead = ["10.244.1.99", "192.168.77.99", "web2"]
    slices = [
        flows.endpoint_slice("web", *dead),
        {
            **flows.endpoint_slice("web", "web1", port=8081),
            "metadata": {
                "name": "web-2",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
        },
    ]
    running.sync([flows.service("web", ADDRESS)], slices)
    for _ in range(8):
        began = time.monotonic()
        with world.connect("client", ADDRESS, PORT) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"early")  # before any endpoint has answered: must reach the one that does
            assert stream.readline().startswith(b"web2")
            sock.shutdown(socket.SHUT_WR)
            assert stream.read() == b"early"
        assert time.monotonic() - began < 2
    (traffic,) = running.worker.traffic.values()
    assert traffic.retries >= 8
    assert traffic.rejected == {}
    assert caplog.records == [], "an error of ours while it looks after connects is logged by the loop"


def test_clients_of_a_silent_endpoint_hold_nobody_up(world, running) -> None:
    services = [flows.service("silent", ADDRESS), flows.service("web", "10.96.0.11")]
    silent = flows.endpoint_slice("silent", "192.168.77.99")
    running.sync(services, [silent, flows.endpoint_slice("web", "web1")])
    waiting = [world.connect("client", ADDRESS, PORT) for _ in range(40)]
    for _ in range(20):
        with world.connect("client", "10.96.0.11", PORT) as sock, sock.makefile("rb") as stream:
            assert stream.readline().startswith(b"web1")
    told, _, _ = select.select(waiting, [], [], 0)
    assert told == [], "they wait still, so the others were served meanwhile"
    for sock in waiting:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # a client that gives up
        sock.close()
    gone(running)


def test_only_silent_endpoints_end_in_a_reset_at_the_deadline(world, start) -> None:
    running = start(deadline=0.6)
    running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", "192.168.77.99")])
    began = time.monotonic()
    with world.connect("client", ADDRESS, PORT) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert 0.5 < time.monotonic() - began < 2
    (traffic,) = running.worker.traffic.values()
    assert traffic.rejected == {"unreachable": 1}


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_many_short_connections_leave_nothing_behind(world, running, count: int) -> None:
    running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", "web1", port=SHORT_PORT)])
    with (
        program(world, "web1", "server", "0.0.0.0", SHORT_PORT),
        program(world, "client", "client", ADDRESS, PORT) as client,
    ):

        def visit_often(often: int) -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{often}\n")
            client.stdin.flush()
            assert client.stdout.readline() == f"{often} answered\n"

        visit_often(2000)
        gone(running)
        descriptors = open_descriptors()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        visit_often(count)
        gone(running)
    assert open_descriptors() <= descriptors + 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 1024
    (traffic,) = running.worker.traffic.values()
    assert (traffic.connections, traffic.active, traffic.rejected) == (count + 2000, 0, {})


def test_flows_go_on_when_their_frontend_closes(world, running, peer) -> None:
    client, server = pair(world, peer)
    with client, server:
        running.sync([], [])
        with pytest.raises(ConnectionRefusedError):
            world.connect("client", ADDRESS, PORT)
        client.sendall(b"still")
        assert server.recv(5) == b"still"
    gone(running)


def test_descriptors_exhausted_pauses_accepts_and_recovers(world, running, peer) -> None:
    """Clients wait in the kernel's queue, are not refused, and are served once others have left."""
    running.call(_limit(running, open_descriptors()))
    first = [pair(world, peer) for _ in range(2)]
    running.call(_limit(running, 1))
    with world.connect("client", ADDRESS, PORT) as waiting:
        waiting.sendall(b"hello")
        for client, server in first:
            client.close()
            server.close()
        running.call(_limit(running, 10_000))
        with peer.accept() as server:
            assert server.recv(5) == b"hello"


def test_clients_who_have_this_process_only_find_room_where_others_wait(world, running, peer) -> None:
    """Services with affinity are the first worker's alone; others' clients may go to any other worker."""
    services = [
        flows.service("web", ADDRESS),
        flows.service("sticky", "10.96.0.12", sessionAffinity="ClientIP"),
    ]
    slices = [
        flows.endpoint_slice("web", "web1", port=peer.port),
        flows.endpoint_slice("sticky", "web2"),
    ]
    running.sync(services, slices)
    first = [pair(world, peer) for _ in range(4)]
    running.call(_limit(running))
    with world.connect("client", ADDRESS, PORT) as waiting:
        waiting.sendall(b"hello")
        with world.connect("client", "10.96.0.12", PORT) as sticky:
            assert sticky.recv(4) == b"web2"
            with world.connect("client", "10.96.0.12", PORT) as one_too_many:
                told, _, _ = select.select([waiting, one_too_many, *(ours for ours, _ in first)], [], [], 0.2)
                assert told == [], "nobody is turned away"
                for client, server in first[:2]:
                    client.close()
                    server.close()
                assert one_too_many.recv(4) == b"web2"
        for client, server in first[2:]:
            client.close()
            server.close()
        running.call(_limit(running, 10_000))
        with peer.accept() as server:
            assert server.recv(5) == b"hello"


def test_an_endpoint_behind_a_blackhole_is_passed_over(world, running) -> None:
    """connect(2) says EINVAL there: another endpoint is tried, and the client notices nothing."""
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("add", dst="10.244.9.9/32", type="blackhole")
    try:
        running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", "10.244.9.9", "web1")])
        assert {visit(world) for _ in range(6)} == {b"web1"}
        assert running.worker.ejected == ["10.244.9.9:8080"]
    finally:
        with rtnl(world.netns["n1"]) as ipr:
            ipr.route("del", dst="10.244.9.9/32", type="blackhole")


def visit(world) -> bytes:
    """Who answers."""
    with world.connect("client", ADDRESS, PORT) as sock, sock.makefile("rb") as stream:
        return bytes(stream.readline().split()[0])


async def _limit(running, descriptors: int | None = None) -> None:
    """Where no number is given: what is in use, between two events."""
    engine = running.worker.engine
    engine.admission.limit = engine.poller.count if descriptors is None else descriptors


def test_a_flow_can_be_looked_at(world, running, peer) -> None:
    from proxy.userspace.describe import describe_flows

    client, server = pair(world, peer)
    with client, server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"

        async def look():
            return describe_flows(running.worker.flows())

        (flow,) = running.call(look())
        port = client.getsockname()[1]
        assert flow["client"] == f"10.244.1.2:{port}"
        assert flow["frontend"] == f"{ADDRESS}:{PORT}/tcp"
        assert flow["endpoint"] == f"10.244.1.3:{peer.port}"
        assert flow["keepsClient"]
        assert 10240 <= int(flow["source"].rpartition(":")[2]) <= 29999, "never a port pods draw themselves"
        assert flow["service"] == "default/web:80"
    gone(running)


def test_the_clients_own_connection_to_the_endpoint_is_left_alone(world, running, peer) -> None:
    """A pod's direct connection and its Service connection to one endpoint live side by side."""
    with world.connect("client", "10.244.1.3", peer.port) as direct, peer.accept() as direct_server:
        for _ in range(20):
            client, server = pair(world, peer)
            with client, server:
                client.sendall(b"x")
                assert server.recv(1) == b"x"
        direct.sendall(b"mine")
        assert direct_server.recv(4) == b"mine"


def test_a_bug_that_one_flow_meets_ends_that_flow_only(world, running, peer, caplog) -> None:
    client, server = pair(world, peer)
    unlucky, unlucky_server = pair(world, peer)
    unlucky.sendall(b"a")
    assert unlucky_server.recv(1) == b"a"
    port = unlucky.getsockname()[1]
    flows = {_port_of(flow.client_side.fd): flow for flow in running.worker.engine.flows()}
    flows[port].client_side.peer = None  # a bug: it has an endpoint's socket and does not know it
    with client, server, unlucky, unlucky_server:
        unlucky.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            unlucky.recv(1)
        client.sendall(b"y")
        assert server.recv(1) == b"y"
    gone(running)
    assert "bug in the relay" in caplog.text


def _port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as copy:
        return copy.getpeername()[1]


@contextmanager
def answering(world, *names: str, port: int = 9100) -> Iterator[None]:
    """Endpoints that say who they are."""
    echoes = [Echo(world, name, port) for name in names]
    yield
    for echo in echoes:
        echo.close()


def retries(running) -> int:
    (traffic,) = running.worker.traffic.values()
    assert traffic.rejected == {}
    return int(traffic.retries)


def test_an_endpoint_that_fails_is_passed_over_and_let_in_again(world, running) -> None:
    """Two clients pay for a dead endpoint (with a retry), the others do not; in its time it gets another chance."""
    pods = ("web1", "web2", "remote")
    running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", *pods, port=9100)])
    with answering(world, "web1", "web2"):
        for _ in range(12):
            assert visit(world) in (b"web1", b"web2")
        ejected_at = time.monotonic()
        assert retries(running) == 2
        assert running.worker.ejected == ["10.244.2.2:9100"]
        with answering(world, "remote"):
            while visit(world) != b"remote":
                assert time.monotonic() < ejected_at + 10, "it is never tried again"
                time.sleep(0.02)
            eventually(lambda: not running.worker.ejected)
            assert time.monotonic() > ejected_at + EJECT_SECONDS / 2, "it was not left alone"
            assert Counter(visit(world) for _ in range(9)) == dict.fromkeys(map(str.encode, pods), 3)
    assert retries(running) == 2


def test_where_most_endpoints_fail_none_is_passed_over(world, running) -> None:
    """Then the fault is hardly theirs: what is back serves at once, however long it would have been left alone."""
    pods = ("web1", "web2", "remote", "remote2")
    running.sync([flows.service("web", ADDRESS)], [flows.endpoint_slice("web", *pods, port=9100)])
    with answering(world, "web1"):
        for _ in range(12):
            assert visit(world) == b"web1"
        assert len(running.worker.ejected) == 3
        assert retries(running) > 2 * 3, "they are tried still"
        with answering(world, *pods[1:]):
            assert {visit(world) for _ in range(4)} == set(map(str.encode, pods))


def test_least_connections_by_annotation(world, running) -> None:
    chosen = flows.service("web", ADDRESS)
    chosen["metadata"]["annotations"] = {"netplane.io/balance": "least-connections"}
    running.sync([chosen], [flows.endpoint_slice("web", "web1", "web2")])

    def visit() -> tuple[str, socket.socket]:
        sock = world.connect("client", ADDRESS, PORT)
        return sock.recv(4).decode(), sock

    first, second, third = visit(), visit(), visit()
    assert first[0] != second[0]
    idle = second if third[0] == first[0] else first
    fourth = visit()
    assert fourth[0] == idle[0], "the one with fewer"
    for _, sock in (first, second, third, fourth):
        sock.close()
    gone(running)
    assert next(iter(running.worker._listeners.values())).load == {}


def test_node_ports_at_chosen_addresses_only(world, running) -> None:
    """nodePortAddresses: the node's loopback here. The ClusterIP is not touched."""
    from dataclasses import replace
    from ipaddress import ip_network

    from tests.netns.proxy.conftest import snapshot

    want = snapshot([flows.service("web", ADDRESS, node_port=30080)], [flows.endpoint_slice("web", "web1")])
    node = replace(want.node, node_port_networks=(ip_network("127.0.0.0/8"),))
    running.call(running.datapath.sync(replace(want, node=node)))
    for source in ("outside", "client", "n1"):
        with pytest.raises(ConnectionRefusedError):
            world.connect(source, flows.NODES["n1"], 30080)
    for address, port in (("127.0.0.1", 30080), (ADDRESS, PORT)):
        with world.connect("n1", address, port) as sock:
            assert sock.recv(4) == b"web1"


@pytest.mark.parametrize(("version", "family"), [(4, b"\x11\0\x0c"), (6, b"\x21\0\x24")])
def test_proxy_protocol_by_annotation(world, running, peer, version: int, family: bytes) -> None:
    """The header comes first, and once, also where the first endpoint refused."""
    told = flows.dual_stack(flows.service("web", ADDRESS))
    told["metadata"]["annotations"] = {"netplane.io/proxy-protocol": "v2"}
    endpoints = flows.endpoint_slice("web", "web1", "10.244.1.99", "remote", port=peer.port)
    running.sync([told], [endpoints, flows.slice_in_six(endpoints)], node(*flows.VERSIONS))
    address, client_address = (flows.in_version(one, version) for one in (ADDRESS, "10.244.1.2"))
    for _ in range(3):
        with world.connect("client", address, PORT) as client, peer.accept() as server:
            client.sendall(b"question")
            expected = (
                b"\r\n\r\n\0\r\nQUIT\n\x21"
                + family
                + ip_address(client_address).packed
                + ip_address(address).packed
                + struct.pack("!HH", client.getsockname()[1], PORT)
                + b"question"
            )
            received = b""
            while len(received) < len(expected):
                received += server.recv(100)
            assert received == expected
            server.sendall(b"answer")
            assert client.recv(10) == b"answer"
    gone(running)
