"""IPv6 beside IPv4, relayed and translated: pod to pod by ClusterIP and NodePort, TCP and UDP, the client's address
kept."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netplane.linux import sysctl
from netplane.linux.rtnl import rtnl
from proxy.model import Endpoint, Frontend, Pool, Protocol, ServicePort, Snapshot, Target
from proxy.modes import Forwarding, Mode
from proxy.nftables.datapath import NftablesDataPath
from proxy.userspace.datapath import UserspaceDataPath
from tests.fakes_datapath import Hosted
from tests.netns.proxy.conftest import node

pytestmark = pytest.mark.netns
NODE6, CLIENT6, WEB6 = "fd00:77::11", "fd00:10:244:1::2", "fd00:10:244:1::3"
CLUSTER_IP, PORT = "fd00:10:96::1", 80
IFA_F_NODAD = 0x02
PERMANENT = 0x80


def index(world, name: str, link: str) -> int:
    with rtnl(world.netns[name]) as ipr:
        return ipr.link_lookup(ifname=link)[0]


@pytest.fixture(scope="module")
def six(world) -> None:
    """IPv6 on the node and on two of its pods."""
    world.run("n1", sysctl.write, "net.ipv6.conf.all.forwarding", "1")
    with rtnl(world.netns["n1"]) as ipr:
        ipr.addr("add", index=index(world, "n1", "eth0"), address=NODE6, prefixlen=64, flags=IFA_F_NODAD)
    for pod, address in (("client", CLIENT6), ("web1", WEB6)):
        outer, inner = index(world, "n1", f"v-{pod}"), index(world, pod, "eth0")
        with rtnl(world.netns["n1"]) as ipr:
            ipr.route("add", dst=f"{address}/128", oif=outer, family=socket.AF_INET6)
            ipr.neigh("add", dst=address, lladdr="02:00:00:00:00:02", ifindex=outer, state=PERMANENT)
        with rtnl(world.netns[pod]) as ipr:
            ipr.addr("add", index=inner, address=address, prefixlen=128, flags=IFA_F_NODAD)
            ipr.neigh("add", dst="fe80::1", lladdr="02:00:00:00:00:01", ifindex=inner, state=PERMANENT)
            ipr.route("add", dst="::/0", gateway="fe80::1", oif=inner, family=socket.AF_INET6)


@pytest.fixture(params=[Mode.USERSPACE, Mode.NFTABLES], ids=str)
def running(world, six, request: pytest.FixtureRequest) -> Iterator[Hosted]:
    made = Hosted(lambda: Forwarding(request.param, UserspaceDataPath()), world.netns["n1"])
    facts = replace(
        node(),
        addresses=(*node().addresses, ip_address(NODE6)),
        pod_cidrs=(*node().pod_cidrs, ip_network("fd00:10:244:1::/64")),
        cluster_cidrs=(*node().cluster_cidrs, ip_network("fd00:10:244::/56")),
        service_cidrs=(*node().service_cidrs, ip_network("fd00:10:96::/112")),
    )
    pool = Pool((Endpoint(ip_address(WEB6), 9000, local=True),))
    target = Target(ServicePort("default", "six", "80"), pool, pool)
    places = [(CLUSTER_IP, PORT), ("::", 30080)]
    frontends = [Frontend(ip_address(a), p, kind) for a, p in places for kind in (Protocol.TCP, Protocol.UDP)]
    report = made.call(made.datapath.sync(Snapshot(facts, dict.fromkeys(frontends, target))))
    assert report.unserved == ()
    yield made
    made.stop()


WAYS = [
    ("client", CLUSTER_IP, PORT, CLIENT6),
    ("client", NODE6, 30080, CLIENT6),
    ("n1", CLUSTER_IP, PORT, NODE6),
    ("n1", "::1", 30080, NODE6),
    ("web1", CLUSTER_IP, PORT, NODE6),
]


@pytest.mark.parametrize(("source", "address", "port", "seen"), WAYS)
def test_tcp(world, running, source: str, address: str, port: int, seen: str) -> None:
    with world.open("web1", family=socket.AF_INET6) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", 9000))
        listener.listen()
        with world.open(source, family=socket.AF_INET6) as client:
            client.connect((address, port))
            server, peer = listener.accept()
            with server:
                assert peer[0] == seen
                client.sendall(b"question")
                assert server.recv(100) == b"question"
                server.sendall(b"answer")
                assert client.recv(100) == b"answer"


@pytest.mark.parametrize(("source", "address", "port", "seen"), WAYS)
def test_udp(world, running, source: str, address: str, port: int, seen: str) -> None:
    with (
        world.open("web1", socket.SOCK_DGRAM, socket.AF_INET6) as server,
        world.open(source, socket.SOCK_DGRAM, socket.AF_INET6) as client,
    ):
        server.bind(("::", 9000))
        client.connect((address, port))
        answering = threading.Thread(target=lambda: peers.append(answer(server)))
        peers: list[str] = []
        answering.start()
        client.send(b"question")
        assert client.recv(100) == b"answer"
        answering.join()
        assert peers == [seen]


def answer(server: socket.socket) -> str:
    data, peer = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", peer)
    return str(peer[0])


def test_a_port_that_no_service_has(world, running) -> None:
    with world.open("client", family=socket.AF_INET6) as client, pytest.raises(ConnectionRefusedError):
        client.connect((CLUSTER_IP, 81))


def test_a_sticky_client_is_remembered(world, six) -> None:
    """The rule for IPv6 is one that libnftables cannot load: here it is ours."""
    facts = replace(node(), addresses=(*node().addresses, ip_address(NODE6)))
    pool = Pool(tuple(Endpoint(ip_address(WEB6), port, local=True) for port in (9000, 9001)))
    target = Target(ServicePort("default", "six", "80"), pool, pool, affinity=60)
    hosted = Hosted(NftablesDataPath, world.netns["n1"])
    frontend = Frontend(ip_address(CLUSTER_IP), PORT, Protocol.TCP)
    hosted.call(hosted.datapath.sync(Snapshot(facts, {frontend: target})))
    listeners = [world.open("web1", family=socket.AF_INET6) for _ in range(2)]
    for port, listener in zip((9000, 9001), listeners, strict=True):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", port))
        listener.listen()
        listener.settimeout(0.2)
    taken = [0, 0]
    for _ in range(8):
        with world.open("client", family=socket.AF_INET6) as client:
            client.connect((CLUSTER_IP, PORT))
            for index, listener in enumerate(listeners):
                with contextlib.suppress(TimeoutError):
                    listener.accept()[0].close()
                    taken[index] += 1
    for listener in listeners:
        listener.close()
    hosted.stop()
    assert sorted(taken) == [0, 8]
