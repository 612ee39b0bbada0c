"""Port mappings: a port of the node leads to the pod wherever a client is, and nowhere once it is gone."""

import socket

import pytest

from netplane.linux.namespaces import socket_in
from tests.netns.cni_node import NODE_ADDRESS, CniNode, pods

pytestmark = pytest.mark.netns
POD = "10.244.1.2"


def mapping(host, container=80, **more):
    return {"hostPort": host, "containerPort": container, "protocol": "tcp", **more}


def add(node: CniNode, name, pod, *mappings, **keys):
    return node.call("ADD", name, pod, runtimeConfig={"portMappings": list(mappings)}, **keys)


def listener(pod, port=80, address=POD):
    made = socket_in(pod, socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen()
    made.settimeout(2)
    return made


def reaches(netns, address, port, server=None):
    """The address the server sees a client of ``netns`` come from; None where it does not arrive."""
    with socket_in(netns, socket.AF_INET) as client:
        client.settimeout(5)
        try:
            client.connect((address, port))
        except OSError:
            return None
        if server is None:
            return ""
        accepted, peer = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"
        return peer[0]


def test_a_mapped_port_leads_to_the_pod_from_everywhere_until_del(node: CniNode):
    with pods(2) as (one, two):
        added = add(node, "pod-1", one, mapping(8080))
        assert added.code == 0, added.stdout
        assert node.call("ADD", "pod-2", two).code == 0
        with listener(one) as server:
            assert reaches(node.outside, NODE_ADDRESS, 8080, server) == "192.168.77.1", (
                "the client's own address"
            )
            assert reaches(node.netns, NODE_ADDRESS, 8080, server) == NODE_ADDRESS
            assert reaches(node.netns, "127.0.0.1", 8080, server) == NODE_ADDRESS
            assert reaches(two, NODE_ADDRESS, 8080, server) == "10.244.1.3"
            assert reaches(one, NODE_ADDRESS, 8080, server) is not None, "hairpin"
            assert reaches(node.outside, NODE_ADDRESS, 8081) is None
            assert node.call("CHECK", "pod-1", one, prevResult=added.json).code == 0
            assert node.call("DEL", "pod-1", one).code == 0
            assert reaches(node.outside, NODE_ADDRESS, 8080) is None
        assert "8080" not in node.nft()


def test_a_port_of_one_address_is_no_port_of_another(node: CniNode):
    node.command("ip", "address", "add", "192.168.77.12/24", "dev", "eth0")
    with pods(2) as (one, two):
        assert add(node, "pod-1", one, mapping(8080, hostIP=NODE_ADDRESS)).code == 0
        assert add(node, "pod-2", two, mapping(8080, 81, hostIP="192.168.77.12")).code == 0
        with listener(one) as first, listener(two, 81, "10.244.1.3") as second:
            assert reaches(node.outside, NODE_ADDRESS, 8080, first) == "192.168.77.1"
            assert reaches(node.outside, "192.168.77.12", 8080, second) == "192.168.77.1"
            assert reaches(node.netns, "127.0.0.1", 8080) is None


def test_a_port_of_the_loopback_address_is_for_the_node_alone(node: CniNode):
    with pods(2) as (one, two):
        assert add(node, "pod-1", one, mapping(8080, hostIP="127.0.0.1")).code == 0
        assert node.call("ADD", "pod-2", two).code == 0
        with listener(one) as server:
            assert reaches(node.netns, "127.0.0.1", 8080, server) == NODE_ADDRESS
            for netns in (node.outside, node.netns, two):
                assert reaches(netns, NODE_ADDRESS, 8080) is None


def test_a_taken_port_is_an_error_and_costs_nothing(node: CniNode):
    with pods(2) as (one, two):
        assert add(node, "pod-1", one, mapping(8080)).code == 0
        for wanted in (mapping(8080), mapping(8080, hostIP=NODE_ADDRESS)):
            refused = add(node, "pod-2", two, wanted)
            assert refused.json["code"] == 105
            assert "8080/tcp" in refused.json["msg"]
        assert len(node.leases()) == 1
        assert add(node, "pod-2", two, mapping(8080, protocol="udp"), mapping(8081)).code == 0
        assert node.call("DEL", "pod-1", one).code == 0
        assert add(node, "pod-1", one, mapping(8080)).code == 0


def test_udp_flows_from_before_the_mapping_are_led_to_the_pod(node: CniNode):
    """A client that keeps its socket: without a flush its entry would bypass the mapping for ever."""
    with pods(1) as (one,), socket_in(node.outside, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((NODE_ADDRESS, 5353))
        client.send(b"before")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        assert add(node, "pod-1", one, mapping(5353, 53, protocol="udp")).code == 0
        with socket_in(one, socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((POD, 53))
            server.settimeout(2)
            client.send(b"after")
            assert server.recv(10) == b"after"
        assert node.call("DEL", "pod-1", one).code == 0
        assert "5353" not in node.command("conntrack", "-L", "-p", "udp", check=False)


def udp(netns, address="0.0.0.0", port=0):
    made = socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(2)
    return made


def answered(client, server, said=b"hello"):
    """Whom the server sees, once its answer came back to the client."""
    client.send(said)
    message, peer = server.recvfrom(100)
    assert message == said
    server.sendto(b"yes", peer)
    assert client.recv(10) == b"yes"
    return peer[0]


def test_udp_by_a_port_of_the_node_from_everywhere(node: CniNode):
    with pods(2) as (one, two):
        assert add(node, "pod-1", one, mapping(5353, 53, protocol="udp")).code == 0
        assert node.call("ADD", "pod-2", two).code == 0
        with udp(one, POD, 53) as server:
            for netns, target, seen in (
                (node.outside, NODE_ADDRESS, "192.168.77.1"),
                (node.netns, NODE_ADDRESS, NODE_ADDRESS),
                (node.netns, "127.0.0.1", NODE_ADDRESS),
                (two, NODE_ADDRESS, "10.244.1.3"),
            ):
                with udp(netns) as client:
                    client.connect((target, 5353))
                    assert answered(client, server) == seen


def test_a_udp_client_that_keeps_its_socket_is_led_to_the_next_pod(node: CniNode):
    with pods(2) as (one, two), udp(node.outside) as client:
        client.connect((NODE_ADDRESS, 5353))
        assert add(node, "pod-1", one, mapping(5353, 53, protocol="udp")).code == 0
        with udp(one, POD, 53) as server:
            answered(client, server)
        assert node.call("DEL", "pod-1", one).code == 0
        assert add(node, "pod-2", two, mapping(5353, 53, protocol="udp")).code == 0
        with udp(two, "10.244.1.3", 53) as server:
            answered(client, server)


def test_pods_do_not_reach_what_listens_on_the_nodes_loopback(node: CniNode):
    with pods(1) as (one,), socket_in(node.netns, socket.AF_INET) as private:
        private.bind(("127.0.0.1", 6000))
        private.listen()
        assert add(node, "pod-1", one, mapping(8080)).code == 0
        node.command("ip", "netns", "list", check=False)
        with socket_in(one, socket.AF_INET) as client:
            client.settimeout(0.5)
            with pytest.raises(OSError, match=r"timed out|refused|unreachable|Invalid"):
                client.connect(("127.0.0.1", 6000))


def test_mapped_ports_outlive_the_daemon(node: CniNode):
    with pods(1) as (one,):
        assert add(node, "pod-1", one, mapping(8080)).code == 0
        with listener(one) as server:
            node.stop()
            assert reaches(node.outside, NODE_ADDRESS, 8080, server) == "192.168.77.1"
            node.command("nft", "flush", "ruleset")
            node.start()
            assert reaches(node.outside, NODE_ADDRESS, 8080, server) == "192.168.77.1"
