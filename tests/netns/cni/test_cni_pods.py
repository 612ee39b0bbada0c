"""What an attached pod can do and what the kernel then holds, from the first packet."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni import client, observe
from netplane.linux.namespaces import socket_in
from tests.netns.cni_node import (
    NODE_ADDRESS,
    OUTSIDE_ADDRESS,
    POD_CIDR,
    CniNode,
    netns_path,
    network,
    pods,
    run_in,
    until,
)

pytestmark = pytest.mark.netns


def serve_once(netns: int, address: str, port: int) -> tuple[threading.Thread, list[str]]:
    """A TCP server for one connection; whom it saw."""
    listener = socket_in(netns, socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    listener.settimeout(10)
    seen: list[str] = []

    def accept() -> None:
        with listener:
            connection, peer = listener.accept()
            with connection:
                seen.append(peer[0])
                connection.sendall(b"here")

    thread = threading.Thread(target=accept)
    thread.start()
    return thread, seen


def ask(netns: int, address: str, port: int) -> bytes:
    with socket_in(netns, socket.AF_INET) as client:
        client.settimeout(5)
        client.connect((address, port))
        return client.recv(4)


def seen_by(server: int, bind: str, client: int, target: str, port: int = 8080) -> str:
    """The client address that a server sees of one connection."""
    thread, seen = serve_once(server, bind, port)
    assert ask(client, target, port) == b"here"
    thread.join(10)
    return seen[0]


def test_two_pods_reach_each_other_and_the_node_from_the_first_packet(node: CniNode):
    with pods(2) as (one, two):
        first = node.call("ADD", "pod-1", one)
        second = node.call("ADD", "pod-2", two)
        assert first.code == 0, first.stdout
        assert second.code == 0, second.stdout
        assert first.json["ips"][0]["address"] == "10.244.1.2/32"
        # One packet, no retry: with ARP to wait for it would be late or lost.
        run_in(one, "ping", "-c1", "-W1", "10.244.1.3")
        run_in(two, "ping", "-c1", "-W1", "10.244.1.2")
        run_in(one, "ping", "-c1", "-W1", NODE_ADDRESS)
        run_in(one, "ping", "-c1", "-W1", "127.0.0.1")
        node.command("ping", "-c1", "-W1", "10.244.1.2")
        assert seen_by(two, "10.244.1.3", one, "10.244.1.3") == "10.244.1.2"
        assert node.call("DEL", "pod-1", one).code == 0
        assert node.call("DEL", "pod-2", two).stdout == b""
        assert node.residue() == {}


def test_the_kernel_holds_what_the_result_says(node: CniNode):
    with pods(1) as (pod,):
        result = node.call("ADD", "pod-1", pod, cniVersion="1.1.0", mtu=1400).json
        inside = {link["ifname"]: link for link in json.loads(run_in(pod, "ip", "-j", "address"))}
        outside = {link["ifname"]: link for link in json.loads(node.command("ip", "-j", "-d", "link"))}
        host, container = result["interfaces"]
        assert outside[host["name"]]["address"] == host["mac"]
        assert outside[host["name"]]["mtu"] == host["mtu"] == 1400
        assert "pod-1" in outside[host["name"]]["ifalias"]
        assert "sandbox" not in host
        assert inside["eth0"]["address"] == container["mac"]
        assert inside["eth0"]["mtu"] == container["mtu"] == 1400
        assert "UP" in inside["eth0"]["flags"]
        assert "UP" in inside["lo"]["flags"]
        (address,) = inside["eth0"]["addr_info"]
        assert f"{address['local']}/{address['prefixlen']}" == result["ips"][0]["address"]
        assert result["interfaces"][result["ips"][0]["interface"]] == container
        (route,) = json.loads(run_in(pod, "ip", "-j", "-4", "route"))
        assert (route["dst"], route["gateway"], route["dev"]) == ("default", "169.254.1.1", "eth0")
        assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
        (host_route,) = json.loads(node.command("ip", "-j", "-N", "route", "show", "proto", "97"))
        assert (host_route["dst"], host_route["dev"]) == ("10.244.1.2", host["name"])
        (neighbour,) = json.loads(run_in(pod, "ip", "-j", "neigh", "show", "nud", "permanent"))
        assert (neighbour["dst"], neighbour["lladdr"]) == ("169.254.1.1", host["mac"])
        assert len(re.findall(r"10\.244\.1\.2 \. 10\.244\.1\.2", node.nft())) == 1
        assert len(re.findall(r"set leaving4-\w+ {[^}]*10\.244\.1\.2 }", node.nft())) == 1


def test_a_link_too_small_for_ipv6_carries_ipv4(node: CniNode):
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod, mtu=1000).code == 0
        run_in(pod, "ping", "-c1", "-W1", NODE_ADDRESS)
        assert node.call("DEL", "pod-1", pod).code == 0
        assert node.residue() == {}


@pytest.mark.parametrize(
    "ranges", [["10.244.1.0/24"], ["10.244.1.0/24", "fd00:10:244:1::/64"]], ids=["4", "4 and 6"]
)
def test_a_pod_leaves_nothing_that_later_pods_would_wait_for(node: CniNode, ranges):
    """The kernel looks, for each new link, through all IPv6 routes and all links it has yet to say are up."""
    with pods(1) as (pod,):
        for index in range(20):
            ipam = {"ranges": [[subnet] for subnet in ranges]}
            assert node.call("ADD", "pod", pod, ipam=ipam, ifname=f"net{index}").code == 0
        inside = json.loads(run_in(pod, "ip", "-j", "link"))
        assert {link["ifname"]: link["operstate"] for link in inside if link["ifname"] != "lo"} == {
            f"net{index}": "UP" for index in range(20)
        }
        routes = json.loads(node.command("ip", "-j", "-6", "route", "show", "table", "all"))
        left = [route for route in routes if route.get("dev", "").startswith("np")]
        assert [route["dst"] for route in left if not route["dst"].startswith("fd00:")] == []
        assert len(left) == 20 * (len(ranges) - 1)


def test_what_leaves_the_cluster_has_the_nodes_address_and_what_does_not_keeps_the_pods(node: CniNode):
    run_in(node.outside, "ip", "address", "add", "10.244.9.9/32", "dev", "lo")
    run_in(node.outside, "ip", "route", "add", "10.244.1.0/24", "via", NODE_ADDRESS)
    node.command("ip", "route", "add", "10.244.9.0/24", "via", OUTSIDE_ADDRESS)
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0
        assert seen_by(node.outside, OUTSIDE_ADDRESS, pod, OUTSIDE_ADDRESS) == NODE_ADDRESS
        assert seen_by(node.outside, "10.244.9.9", pod, "10.244.9.9") == "10.244.1.2"


def test_without_masquerade_the_pods_address_is_seen(node: CniNode):
    run_in(node.outside, "ip", "route", "add", "10.244.1.0/24", "via", NODE_ADDRESS)
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod, masquerade=None).code == 0
        assert seen_by(node.outside, OUTSIDE_ADDRESS, pod, OUTSIDE_ADDRESS) == "10.244.1.2"


def test_a_pod_reaches_itself_through_a_translated_address(node: CniNode):
    rule = "ip daddr 10.96.0.99 dnat to 10.244.1.2"
    node.command("nft", "add table ip t; add chain ip t p { type nat hook prerouting priority dstnat; }")
    node.command("nft", f"add rule ip t p {rule}")
    with pods(2) as (one, two):
        assert node.call("ADD", "pod-1", one).code == 0
        assert node.call("ADD", "pod-2", two).code == 0
        assert seen_by(one, "0.0.0.0", one, "10.96.0.99", 8081) == NODE_ADDRESS
        assert seen_by(one, "0.0.0.0", two, "10.96.0.99", 8082) == "10.244.1.3", "only hairpin is masqueraded"


def test_a_pod_cannot_send_from_an_address_that_is_not_its_own(node: CniNode):
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0
        run_in(pod, "ip", "address", "add", "10.244.1.77/32", "dev", "lo")
        with socket_in(pod, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("10.244.1.77", 0))
            sender.sendto(b"x", (OUTSIDE_ADDRESS, 9))
        until(lambda: dropped_by_reverse_path(node) == 1, "the kernel to count the packet as spoofed")


def dropped_by_reverse_path(node: CniNode) -> int:
    lines = [line.split() for line in node.command("cat", "/proc/net/netstat").splitlines()]
    names, values = (line for line in lines if line[0] == "TcpExt:")
    return int(dict(zip(names, values, strict=True))["IPReversePathFilter"])


def test_both_families_at_once(node: CniNode):
    ranges = {"ranges": [["10.244.1.0/24"], ["fd00:10:244:1::/64"]]}
    with pods(2) as (one, two):
        first = node.call("ADD", "pod-1", one, ipam=ranges)
        assert first.code == 0, first.stdout
        assert [ip["address"] for ip in first.json["ips"]] == ["10.244.1.2/32", "fd00:10:244:1::2/128"]
        second = node.call("ADD", "pod-2", two, ipam=ranges)
        run_in(one, "ping", "-c1", "-W1", "fd00:10:244:1::3")
        run_in(two, "ping", "-c1", "-W1", "10.244.1.2")
        config = network(ipam=ranges, prevResult=second.json)
        checked = node.call("CHECK", "pod-2", two, config=config)
        assert (checked.code, checked.stdout) == (0, b"")
        for name in ("pod-1", "pod-2"):
            assert node.call("DEL", name).code == 0
        assert node.residue() == {}
        assert "fd00:10:244:1::2" not in node.nft()


def test_the_mtu_is_that_of_the_link_to_the_peers(node: CniNode):
    node.command("ip", "link", "set", "eth0", "mtu", "1450")
    with pods(3) as (one, two, three):
        assert node.call("ADD", "pod-1", one, cniVersion="1.1.0").json["interfaces"][1]["mtu"] == 1450
        node.command("ip", "link", "add", "other0", "mtu", "1300", "type", "veth", "peer", "other1")
        node.command("ip", "link", "set", "other0", "up")
        node.command("ip", "route", "add", "default", "via", OUTSIDE_ADDRESS)
        restart(node)  # what was read a moment ago would be used again
        assert node.call("ADD", "pod-2", two, cniVersion="1.1.0").json["interfaces"][1]["mtu"] == 1450
        node.command("ip", "route", "add", "10.244.2.0/24", "dev", "other0", "proto", "98")
        restart(node)
        assert node.call("ADD", "pod-3", three, cniVersion="1.1.0").json["interfaces"][1]["mtu"] == 1300


def restart(node: CniNode) -> None:
    node.stop()
    node.start()


def test_fifty_at_once_share_nothing_and_leave_nothing(node: CniNode):
    with pods(50) as namespaces, ThreadPoolExecutor(50) as threads:
        names = [f"pod-{number}" for number in range(50)]
        answers = list(threads.map(lambda pair: node.call("ADD", *pair), zip(names, namespaces, strict=True)))
        assert [a.stdout for a in answers if a.code] == []
        addresses = {answer.json["ips"][0]["address"] for answer in answers}
        assert len(addresses) == 50
        assert len(node.links()) == 50
        run_in(namespaces[0], "ping", "-c1", "-W1", answers[49].json["ips"][0]["address"].partition("/")[0])
        ends = list(threads.map(lambda name: node.call("DEL", name), names))
        assert [a.stdout for a in ends if a.code] == []
        assert node.residue() == {}


@pytest.mark.parametrize(
    ("family", "cidr"), [(socket.AF_INET, POD_CIDR), (socket.AF_INET6, "fd00:10:244:1::/64")]
)
def test_no_first_packet_is_lost(node: CniNode, family, cidr):
    """From the node to the pod and back, in the very moment in which ADD is answered."""
    lost = []
    stdin = json.dumps(network(ipam={"ranges": [[cidr]]})).encode()
    node.command("ip", "address", "add", "fd77::11/64", "dev", "eth0", "nodad")
    with socket_in(node.netns, family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        for number in range(30):
            with pods(1) as (pod,), socket_in(pod, family, socket.SOCK_DGRAM) as receiver:
                receiver.bind(("", 9))
                receiver.settimeout(1)
                environment = {
                    "CNI_CONTAINERID": f"pod-{number}",
                    "CNI_IFNAME": "eth0",
                    "CNI_NETNS": netns_path(pod),
                    "CNI_PATH": "/",
                }
                answer = client.call(node.socket_path, {**environment, "CNI_COMMAND": "ADD"}, stdin)
                sender.sendto(b"first", (answer["ips"][0]["address"].partition("/")[0], 9))
                try:
                    receiver.sendto(*receiver.recvfrom(10))
                    sender.recv(10)
                except TimeoutError:
                    lost.append(number)
                client.call(node.socket_path, {**environment, "CNI_COMMAND": "DEL"}, stdin)
    assert lost == []


def test_a_link_that_goes_while_it_is_looked_for_is_none_of_ours(monkeypatch):
    monkeypatch.setattr(observe.routes, "link_names", lambda: {1: "np0123456789ab"})
    assert observe.our_links() == frozenset()
