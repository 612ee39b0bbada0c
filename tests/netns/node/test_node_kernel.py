"""Address and routes against the real kernel, in a namespace of the test's own."""

import asyncio
import os
from ipaddress import ip_address, ip_network

import pytest

from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl
from netplane.node import address, routes
from netplane.node.routes import Route

pytestmark = pytest.mark.netns


@pytest.fixture
def vagrant():
    """A machine as Vagrant makes it: eth0 with 10.0.2.15 and the default route, eth1 with the private network."""
    netns = new_netns()
    with rtnl(netns) as ipr:
        for number, (text, length) in enumerate((("10.0.2.15", 24), ("192.168.77.11", 24))):
            ipr.link("add", ifname=f"eth{number}", kind="veth", peer={"ifname": f"far{number}"})
            for name in (f"eth{number}", f"far{number}"):
                ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")
            ipr.addr("add", index=ipr.link_lookup(ifname=f"eth{number}")[0], address=text, prefixlen=length)
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
        ipr.route("add", dst="default", gateway="10.0.2.2")
    yield netns
    os.close(netns)


def inside(netns, work, *args):
    with entered_netns(netns):
        return work(*args)


async def test_the_address_is_that_of_the_private_network(vagrant):
    facts = await asyncio.to_thread(inside, vagrant, address.look_up, [ip_address("192.168.77.10")])
    assert [str(local.address) for local in facts.locals] == ["10.0.2.15", "192.168.77.11"]
    assert facts.towards == [ip_address("192.168.77.11")]
    assert address.choose(facts) == ip_address("192.168.77.11")


async def test_an_api_server_behind_the_nat_changes_nothing(vagrant):
    facts = await asyncio.to_thread(inside, vagrant, address.look_up, [ip_address("203.0.113.5")])
    assert facts.towards == [ip_address("10.0.2.15")]
    assert address.choose(facts) == ip_address("192.168.77.11")


def node(name, cidr, gateway):
    return {
        "metadata": {"name": name},
        "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": gateway}]},
    }


def route(cidr, gateway):
    return Route(ip_network(cidr), ip_address(gateway) if gateway else None)


def foreign(netns):
    with rtnl(netns) as ipr:
        return [m.get("dst") for m in ipr.get_routes(table=254, family=2) if m["proto"] == 3]


def test_routes_follow_the_nodes_and_only_ours_are_touched(vagrant):
    with rtnl(vagrant) as ipr:
        ipr.route("add", dst="10.244.77.0/24", gateway="192.168.77.99", proto=3)
    nodes = [node("n1", "10.244.1.0/24", "192.168.77.11"), node("n2", "10.244.2.0/24", "192.168.77.12")]
    assert inside(vagrant, routes.reconcile, "n1", nodes) == (2, [])
    both = {route("10.244.1.0/24", None), route("10.244.2.0/24", "192.168.77.12")}
    assert inside(vagrant, routes.observe) == both
    assert inside(vagrant, routes.reconcile, "n1", nodes) == (2, [])
    moved = [
        nodes[0],
        node("n2", "10.244.2.0/24", "192.168.77.13"),
        node("n3", "10.244.3.0/24", "198.51.100.9"),
    ]
    with rtnl(vagrant) as ipr:
        ipr.route("del", dst="default", gateway="10.0.2.2")
    count, problems = inside(vagrant, routes.reconcile, "n1", moved)
    assert count == 2
    assert len(problems) == 1
    assert "10.244.3.0/24" in problems[0]
    assert inside(vagrant, routes.observe) == {
        route("10.244.1.0/24", None),
        route("10.244.2.0/24", "192.168.77.13"),
    }
    assert inside(vagrant, routes.reconcile, "n1", [nodes[0]]) == (1, [])
    assert inside(vagrant, routes.observe) == {route("10.244.1.0/24", None)}
    assert foreign(vagrant) == ["10.244.77.0"]


async def test_what_others_take_away_is_heard_of_and_put_back(vagrant, monkeypatch):
    """By a route that is deleted, and by a link that goes down and comes back, of which only the latter is told."""
    monkeypatch.setattr(routes, "LOOK_EVERY", 600.0)
    nodes = [node("n1", "10.244.1.0/24", "192.168.77.11"), node("n2", "10.244.2.0/24", "192.168.77.12")]
    await asyncio.to_thread(inside, vagrant, routes.reconcile, "n1", nodes)
    whole = inside(vagrant, routes.observe)
    assert len(whole) == 2
    unrest = routes.unrest()

    async def heard():
        async with asyncio.timeout(5):
            await anext(unrest)

    for take in (without_route, without_link):
        async with asyncio.TaskGroup() as tasks:
            with entered_netns(vagrant):
                tasks.create_task(heard())
                await asyncio.sleep(0)  # it listens from now on
            await asyncio.to_thread(take, vagrant)
        await asyncio.to_thread(inside, vagrant, routes.reconcile, "n1", nodes)
        assert inside(vagrant, routes.observe) == whole
    await unrest.aclose()


def without_route(netns):
    with rtnl(netns) as ipr:
        ipr.route("del", dst="10.244.2.0/24")
    assert len(inside(netns, routes.observe)) == 1


def without_link(netns):
    with rtnl(netns) as ipr:
        index = ipr.link_lookup(ifname="eth1")[0]
        ipr.link("set", index=index, state="down")
        assert len(inside(netns, routes.observe)) == 1
        ipr.link("set", index=index, state="up")
