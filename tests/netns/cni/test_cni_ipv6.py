"""Pods with IPv6 addresses, alone and beside IPv4: from the first packet on, with ports of the node and masquerade."""

import errno
import json
import socket
import struct

import pytest

from netplane.linux.namespaces import socket_in
from tests.netns.cni_node import NODE_ADDRESS, CniNode, network, pods, run_in

pytestmark = pytest.mark.netns

ONLY = {"ranges": [["fd00:10:244:1::/64"]]}
BOTH = {"ranges": [["10.244.1.0/24"], ["fd00:10:244:1::/64"]]}
POD, SECOND = "fd00:10:244:1::2", "fd00:10:244:1::3"
NODE6, OUTSIDE6 = "fd77::11", "fd77::1"
TOTAL_RETRANSMISSIONS = 100  # offset of tcpi_total_retrans, linux/tcp.h


@pytest.fixture
def node6(node: CniNode) -> CniNode:
    """A node that has an IPv6 address, as the outside has."""
    for netns, address in ((node.netns, NODE6), (node.outside, OUTSIDE6)):
        run_in(netns, "ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    return node


def listen(netns: int, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket_in(netns, socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(5)
    made.bind((address, port))  # a tentative address cannot be bound
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def seen(netns: int, target: str, port: int, server: socket.socket) -> str:
    """Whom the server sees when ``netns`` connects; no packet was sent twice."""
    with socket_in(netns, server.family) as client:
        client.settimeout(5)
        client.connect((target, port))
        accepted, peer = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"
        told = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        assert struct.unpack_from("I", told, TOTAL_RETRANSMISSIONS) == (0,)
    return str(peer[0])


def refused(netns: int, target: str, port: int) -> bool:
    with socket_in(netns, socket.AF_INET6 if ":" in target else socket.AF_INET) as client:
        client.settimeout(5)
        return client.connect_ex((target, port)) == errno.ECONNREFUSED


@pytest.mark.parametrize("ranges", [ONLY, BOTH], ids=["only IPv6", "both families"])
def test_the_first_packet_after_add_arrives(node6: CniNode, ranges):
    with pods(2) as (one, two):
        assert node6.call("ADD", "pod-1", one, ipam=ranges).code == 0
        with listen(one, POD, 80) as server:
            assert seen(node6.netns, POD, 80, server)
            answer = node6.call("ADD", "pod-2", two, ipam=ranges, cniVersion="1.1.0")
            assert seen(two, POD, 80, server) == SECOND
        with listen(node6.netns, NODE6, 80) as server:
            assert seen(two, NODE6, 80, server) == SECOND
        routes = [route["dst"] for route in answer.json["routes"]]
        assert routes == (["::/0"] if ranges is ONLY else ["0.0.0.0/0", "::/0"])
        assert "tentative" not in run_in(two, "ip", "-6", "address", "show", "scope", "global")


def test_the_kernel_holds_an_ipv6_pod_as_the_result_says(node6: CniNode):
    with pods(1) as (pod,):
        result = node6.call("ADD", "pod-1", pod, ipam=ONLY, cniVersion="1.1.0").json
        assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in result["ips"]] == [
            (f"{POD}/128", "fe80::1", 1)
        ]
        assert run_in(pod, "ip", "-4", "address", "show", "dev", "eth0") == ""
        (route,) = json.loads(run_in(pod, "ip", "-j", "-6", "route", "show", "default"))
        assert (route["gateway"], route["dev"]) == ("fe80::1", "eth0")
        (host_route,) = json.loads(node6.command("ip", "-j", "-6", "-N", "route", "show", "proto", "97"))
        assert (host_route["dst"], host_route["dev"]) == (POD, result["interfaces"][0]["name"])
        checked = node6.call("CHECK", "pod-1", pod, config=network(ipam=ONLY, prevResult=result))
        assert (checked.code, checked.stdout) == (0, b"")
        assert node6.call("DEL", "pod-1", pod).code == 0
        assert node6.residue() == {}
        assert node6.command("ip", "-6", "route", "show", "proto", "97") == ""
        assert POD not in node6.nft()


def test_ports_of_the_node_by_either_family(node6: CniNode):
    wanted = [{"hostPort": 8080, "containerPort": 80, "protocol": kind} for kind in ("tcp", "udp")]
    with pods(2) as (one, two):
        added = node6.call("ADD", "pod-1", one, ipam=BOTH, runtimeConfig={"portMappings": wanted})
        assert added.code == 0, added.stdout
        assert node6.call("ADD", "pod-2", two, ipam=BOTH).code == 0
        with listen(one, POD, 80) as server:
            assert seen(node6.outside, NODE6, 8080, server) == OUTSIDE6, "the client's own address"
            assert seen(node6.netns, NODE6, 8080, server) == NODE6
            assert seen(two, NODE6, 8080, server) == SECOND
            assert seen(one, NODE6, 8080, server) != POD, "hairpin"
            assert refused(node6.netns, "::1", 8080), (
                "the kernel cannot translate from ::1: at once, and not in silence"
            )
        with listen(one, "10.244.1.2", 80) as server:
            assert seen(node6.outside, NODE_ADDRESS, 8080, server) == "192.168.77.1"
        with (
            listen(one, POD, 80, socket.SOCK_DGRAM) as server,
            socket_in(node6.outside, socket.AF_INET6, socket.SOCK_DGRAM) as client,
        ):
            client.connect((NODE6, 8080))
            client.send(b"hello")
            message, peer = server.recvfrom(10)
            server.sendto(message, peer)
            client.settimeout(5)
            assert (client.recv(10), peer[0]) == (b"hello", OUTSIDE6)
        assert node6.call("DEL", "pod-1", one).code == 0
        assert refused(node6.outside, NODE6, 8080)
        assert "8080" not in node6.nft()


def test_a_port_of_one_ipv6_address_and_a_family_each(node6: CniNode):
    bound = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": NODE6}
    other = {**bound, "hostIP": "0.0.0.0"}
    with pods(2) as (one, two):
        for name, pod, wanted in (("pod-1", one, bound), ("pod-2", two, other)):
            assert node6.call("ADD", name, pod, ipam=BOTH, runtimeConfig={"portMappings": [wanted]}).code == 0
        with listen(one, POD, 80) as first, listen(two, "10.244.1.3", 80) as second:
            assert seen(node6.outside, NODE6, 8080, first) == OUTSIDE6
            assert seen(node6.outside, NODE_ADDRESS, 8080, second) == "192.168.77.1"


def test_what_leaves_the_cluster_by_ipv6_has_the_nodes_address(node6: CniNode):
    run_in(node6.outside, "ip", "address", "add", "fd00:10:244:9::9/128", "dev", "lo", "nodad")
    run_in(node6.outside, "ip", "route", "add", "fd00:10:244:1::/64", "via", NODE6)
    node6.command("ip", "route", "add", "fd00:10:244:9::/64", "via", OUTSIDE6)
    with pods(1) as (pod,):
        exclude = {"exclude": ["fd00:10:244::/56"]}
        assert node6.call("ADD", "pod-1", pod, ipam=ONLY, masquerade=exclude).code == 0
        with listen(node6.outside, "::", 80) as server:
            assert seen(pod, OUTSIDE6, 80, server) == NODE6
            assert seen(pod, "fd00:10:244:9::9", 80, server) == POD


def test_the_mtu_is_that_of_an_ipv6_link_to_the_peers(node6: CniNode):
    for name, mtu, route in (("other", 9000, "default"), ("peers", 8900, "fd00:10:244:2::/64")):
        node6.stop()
        node6.command("ip", "link", "add", f"{name}0", "mtu", str(mtu), "type", "veth", "peer", f"{name}1")
        node6.command("ip", "link", "set", f"{name}0", "up")
        protocol = ("proto", "98") if name == "peers" else ()
        node6.command("ip", "-6", "route", "add", route, "dev", f"{name}0", *protocol)
        node6.start()
        with pods(1) as (pod,):
            added = node6.call("ADD", f"pod-{name}", pod, ipam=ONLY, cniVersion="1.1.0")
            assert added.json["interfaces"][1]["mtu"] == mtu
            assert node6.call("DEL", f"pod-{name}", pod).code == 0


def advertise(pod: int) -> None:
    """What a router says of itself, to the node's own address: RFC 4861, 4.2. The kernel fills in the checksum."""
    lifetime = 1800
    with socket_in(pod, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        router.bind(("fe80::bad", 0, 0, socket_index(pod, "eth0")))
        router.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0), (NODE6, 0))


def socket_index(netns: int, name: str) -> int:
    return int(json.loads(run_in(netns, "ip", "-j", "link", "show", "dev", name))[0]["ifindex"])


def test_a_pod_cannot_be_the_nodes_router(node6: CniNode):
    with pods(1) as (pod,):
        assert node6.call("ADD", "pod-1", pod, ipam=BOTH).code == 0
        run_in(pod, "ip", "address", "add", "fe80::bad/64", "dev", "eth0", "nodad")
        # A node that forwards takes no advertisement anyhow: one of IPv4 pods alone need not forward IPv6.
        node6.command("sysctl", "-w", "net.ipv6.conf.all.forwarding=0")
        advertise(pod)
        assert node6.command("ip", "-6", "route", "show", "default") == ""
        node6.command("nft", "flush", "chain", "inet", "netplane_cni", "guard6")
        advertise(pod)  # so it was the guard, not this test
        assert "via fe80::bad" in node6.command("ip", "-6", "route", "show", "default")
