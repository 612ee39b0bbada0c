"""What only the userspace data path shows of the table of flows: its turns, its sockets, its silence on the link."""

import socket
from collections.abc import Iterator

import pytest

from netplane.linux import sysctl
from netplane.linux.rtnl import rtnl
from tests import flows
from tests.flows import Where
from tests.netns.proxy.flows import destination, serving, visit

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def served(world) -> Iterator[None]:
    with serving(world, flows.USERSPACE):
        yield


@pytest.mark.parametrize("address", ["10.96.0.10", "10.96.99.99"])
def test_udp_of_the_node_is_not_reachable_through_a_cluster_ip(world, served, address: str) -> None:
    for source in (Where.CLIENT, Where.HOST):
        with world.open(source, socket.SOCK_DGRAM) as sock:
            sock.connect((address, flows.NODE_AGENT_PORT))
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


def test_round_robin_is_even(world, served) -> None:
    answers = [visit(world, "client", *destination("all"))[0] for _ in range(30)]
    assert {name: answers.count(name) for name in answers} == {"web1": 10, "web2": 10, "remote": 10}


def test_affinity_keeps_a_client_with_its_endpoint(world, served) -> None:
    """Clients take turns, then each stays, also a client that comes back after others."""
    first = {source: visit(world, source, *destination("sticky"))[0] for source in ("client", "n1")}
    assert len(set(first.values())) == 2, "the second client is not sent where the first one was"
    for _ in range(5):
        for source, name in first.items():
            assert visit(world, source, *destination("sticky"))[0] == name


def test_nobody_answers_arp_for_a_service_address(world, served) -> None:
    """Without arp_ignore every node would claim all Service addresses on the shared link."""
    world.run("outside", sysctl.write, "net.ipv4.neigh.eth0.retrans_time_ms", "100")  # three times it asks
    with rtnl(world.netns["outside"]) as ipr:
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.route("add", dst="10.96.0.0/12", oif=index, scope=253)
    with pytest.raises(OSError, match=r"No route to host|timed out"):
        world.connect("outside", "10.96.0.10", 80, timeout=4)
