"""kill -9 of the daemon and of the executables at random moments under parallel ADD and DEL: nothing may be left,
nothing given twice, and what was promised while the daemon was down is kept.
"""

import json
import os
import random
import signal
import threading

import pytest

from tests.netns.cni_node import CniNode, cni_node, netns_path, network, pods, run_in

pytestmark = pytest.mark.netns
PORTS = {"portMappings": [{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]}


def attached(netns: int) -> list[str] | None:
    """The IPv4 addresses of a pod's eth0; None where it has none."""
    for link in json.loads(run_in(netns, "ip", "-j", "address")):
        if link["ifname"] == "eth0":
            return [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"]
    return None


def elements_without_a_lease(node: CniNode) -> list[str]:
    held = {str(address) for lease in node.leases() for address in lease.addresses}
    words = {
        word.strip("{},;") for line in node.nft().splitlines() if "daddr" not in line for word in line.split()
    }
    return sorted({word for word in words if word.startswith("10.244.1.")} - held)


class Killed:
    """An executable that may be killed while it runs, as a runtime does whose time is over."""

    def __init__(self, node: CniNode, verb: str, index: int, netns: int) -> None:
        source, feed = os.pipe()
        port = {**PORTS["portMappings"][0], "hostPort": 20000 + index}
        document = network(runtimeConfig={"portMappings": [port]}, capabilities={"portMappings": True})
        os.write(feed, json.dumps(document).encode())
        os.close(feed)
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"c{index}",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": netns_path(netns),
            "CNI_PATH": str(node.plugin.parent),
        }
        null = os.open(os.devnull, os.O_WRONLY)
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, null, 2),
        ]
        self.pid = os.posix_spawn(node.plugin, [str(node.plugin)], environment, file_actions=actions)
        os.close(source)
        os.close(null)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def check(node: CniNode, namespaces: list[int], what: str) -> None:
    leases = node.leases()
    assert node.links() == {lease.terms.link for lease in leases}, what
    assert {str(lease.state) for lease in leases} <= {"live"}, what
    assert elements_without_a_lease(node) == [], what
    held = {lease.attachment.container_id: [str(address) for address in lease.addresses] for lease in leases}
    inside = {f"c{index}": attached(netns) for index, netns in enumerate(namespaces)}
    assert {name: addresses for name, addresses in inside.items() if addresses is not None} == held, what
    routes = node.command("ip", "-o", "route", "show", "proto", "97").splitlines()
    assert sorted(line.split()[0] for line in routes) == sorted(address for (address,) in held.values()), what


def rounds(node: CniNode, namespaces: list[int], kills: int, seed: int) -> int:
    """Kill the daemon once a round and every third executable; how many kills it were."""
    chance, done, number = random.Random(seed), 0, 0
    node.start()
    while done < kills:
        number += 1
        running = [
            Killed(node, chance.choice(["ADD", "ADD", "DEL"]), index, netns)
            for index, netns in enumerate(namespaces)
        ]
        threading.Event().wait(chance.uniform(0.001, 0.06))  # the moment is the test's subject
        victims = [one for one in running if chance.random() < 0.4]
        for one in victims:
            one.kill()
        node.stop(signal.SIGKILL)
        done += len(victims) + 1
        node.start()
        for one in running:
            one.wait()
        check(node, namespaces, f"seed {seed}, round {number}")
    return done


def test_three_hundred_kills_under_load_leak_nothing(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(24) as namespaces:
        assert rounds(node, namespaces, 300, seed=1) >= 300
        for index in range(len(namespaces)):
            assert node.call("DEL", f"c{index}").code == 0
        assert node.residue() == {}


@pytest.mark.long
def test_ten_thousand_kills_under_load_leak_nothing(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(24) as namespaces:
        assert rounds(node, namespaces, 10_000, seed=2) >= 10_000
        for index in range(len(namespaces)):
            assert node.call("DEL", f"c{index}").code == 0
        assert node.residue() == {}
