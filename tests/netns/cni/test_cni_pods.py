"""Two pods, the node and the first packet, in real namespaces."""

import socket

import pytest

from tests.netns.cni_node import CniNode, cni_node, in_netns, pods, run_in

pytestmark = pytest.mark.netns


@pytest.fixture
def node(tmp_path):
    with cni_node(tmp_path) as made:
        yield made


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
        node.command("ping", "-c1", "-W1", "10.244.1.2")
        assert node.call("DEL", "pod-1", one).code == 0
        assert node.call("DEL", "pod-2", two).stdout == b""
        assert node.residue() == {}
