"""Ten thousand attachments on one node: an ADD costs then what it cost at the first hundred, within a factor of two."""

import json
import statistics
import time

import pytest

from cni import client
from tests.netns.cni_node import CniNode, cni_node, netns_path, network, pods

pytestmark = [pytest.mark.netns, pytest.mark.long]
NAMESPACES, EACH = 100, 100  # far ends share namespaces; the host's side is real
WINDOW = 100


def add(node: CniNode, index: int, netns: int, stdin: bytes) -> float:
    """Milliseconds at the daemon's socket."""
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": f"c{index}",
        "CNI_IFNAME": f"net{index % EACH}",
        "CNI_NETNS": netns_path(netns),
        "CNI_PATH": "/",
    }
    began = time.perf_counter()
    client.call(node.socket_path, environment, stdin)
    return (time.perf_counter() - began) * 1000


def test_the_last_of_ten_thousand_costs_what_the_first_did(tmp_path):
    stdin = json.dumps(network(ipam={"ranges": [["10.244.0.0/16"]]})).encode()
    with cni_node(tmp_path) as node, pods(NAMESPACES) as namespaces:
        took = [add(node, index, namespaces[index // EACH], stdin) for index in range(NAMESPACES * EACH)]
        first, last = (statistics.median(part) for part in (took[:WINDOW], took[-WINDOW:]))
        print(f"ADD p50: first hundred {first:.2f} ms, last hundred {last:.2f} ms, worst {max(took):.0f} ms")
        assert len(node.leases()) == NAMESPACES * EACH
        assert last < 2 * first
        began = time.perf_counter()
        node.stop()
        node.start()
        print(f"restart and mend: {time.perf_counter() - began:.1f} s")
        assert len(node.leases()) == NAMESPACES * EACH, "and nothing is taken for lost"
