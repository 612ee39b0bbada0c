"""kill -9 of the daemon at random moments under parallel ADD and DEL: nothing may be left, nothing given twice."""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.netns.cni_node import CniNode, cni_node, pods

pytestmark = pytest.mark.netns


def addresses_given_twice(node: CniNode) -> list[str]:
    routed = [line.split()[0] for line in node.command("ip", "route", "show", "proto", "97").splitlines()]
    return sorted({address for address in routed if routed.count(address) > 1})


def rounds(node: CniNode, namespaces: list[int], count: int, seed: int) -> None:
    chance = random.Random(seed)
    node.start()
    with ThreadPoolExecutor(len(namespaces)) as threads:
        for number in range(count):
            work = [
                threads.submit(node.call, chance.choice(["ADD", "ADD", "DEL"]), f"c{index}", netns)
                for index, netns in enumerate(namespaces)
            ]
            threading.Event().wait(chance.uniform(0.02, 0.15))  # the moment is the test's subject
            node.stop(signal.SIGKILL)
            node.start()
            for one in work:
                one.result()
            kept = {lease.terms.link for lease in node.leases()}
            assert node.links() == kept, f"seed {seed}, round {number}"
            assert {str(lease.state) for lease in node.leases()} <= {"live"}
            assert addresses_given_twice(node) == []
    for index in range(len(namespaces)):
        assert node.call("DEL", f"c{index}").code == 0
    assert node.residue() == {}


def test_kills_under_load_leak_nothing(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(6) as namespaces:
        rounds(node, namespaces, 6, seed=1)


@pytest.mark.long
def test_many_kills_under_load_leak_nothing(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(6) as namespaces:
        rounds(node, namespaces, 300, seed=2)
