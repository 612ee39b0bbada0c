"""Service addresses outside the Service networks that are somebody's already: nothing is taken from who has them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from ipaddress import ip_network

import pytest

from netplane.linux.rtnl import rtnl
from proxy import routes
from proxy.modes import Mode
from tests import flows
from tests.bpf_place import BpfPlace
from tests.fakes_datapath import Hosted
from tests.netns.proxy.conftest import node, snapshot
from tests.netns.proxy.flows import DATA_PATHS, visit
from tests.netns.proxy.test_mode_switch import Stream, Switching

pytestmark = pytest.mark.netns
N1, N2 = flows.NODES["n1"], flows.NODES["n2"]
SECOND = "192.168.99.1"
BEYOND = "203.0.113.7"
NODES_OWN_PORT = 2222


@pytest.fixture(params=DATA_PATHS)
def hosted(request, world, place: BpfPlace) -> Iterator[Hosted]:
    if request.param != flows.EBPF:
        world.makers.clear()
    made = Hosted(lambda: DATA_PATHS[request.param](place.paths), world.netns["n1"])
    yield made
    if made.alive:
        made.stop()


def external(*addresses: str) -> dict:
    return flows.service("web", "10.96.0.10", externalIPs=list(addresses))


def sync(hosted: Hosted, *services: dict):
    return hosted.call(hosted.datapath.sync(snapshot(list(services), flows.SLICES[:1]), look=True))


@contextmanager
def own_listener(world) -> Iterator[None]:
    """As the node's sshd: at every address."""
    with world.open("n1") as listener:
        listener.bind(("0.0.0.0", NODES_OWN_PORT))
        listener.listen()
        yield


@contextmanager
def default_route(world) -> Iterator[None]:
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("add", dst="0.0.0.0/0", gateway=flows.OUTSIDE_ADDRESS)
        yield
        ipr.route("del", dst="0.0.0.0/0", gateway=flows.OUTSIDE_ADDRESS)


def test_another_node_is_not_cut_off(world, hosted) -> None:
    """`externalIPs: [n2's address]`, or a load balancer that reports its nodes' addresses."""
    report = sync(hosted, external(N2))
    with own_listener(world):
        world.connect("n2", N1, NODES_OWN_PORT).close()
    assert visit(world, "n1", N2, flows.PORT)[0] == "n2"
    assert visit(world, "client", flows.ADDRESSES["remote"], flows.PORT)[0] == "remote"
    if hosted.datapath.name == "userspace":
        (unserved,) = report.unserved
        assert f"{N2} is another machine's" in str(unserved)
    else:
        assert visit(world, "client", N2, 80)[0] in ("web1", "web2")
        assert visit(world, "n1", N2, 80)[0] in ("web1", "web2")


def test_an_address_of_this_machine_stays_its_own(world, hosted) -> None:
    """A second link's, or what kube-vip has put there: the rest of the machine is reached there now and afterwards."""
    with rtnl(world.netns["n1"]) as ipr:
        link = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=link, address=SECOND, prefixlen=32)
        with own_listener(world):
            sync(hosted, external(SECOND))
            assert visit(world, "client", SECOND, 80)[0] in ("web1", "web2")
            assert visit(world, "n1", SECOND, 80)[0] in ("web1", "web2")
            world.connect("client", SECOND, NODES_OWN_PORT).close()
            sync(hosted)
            world.connect("client", SECOND, NODES_OWN_PORT).close()
            with pytest.raises(ConnectionRefusedError):
                world.connect("client", SECOND, 80)
        ipr.addr("del", index=link, address=SECOND, prefixlen=32)


def test_an_address_that_comes_to_this_machine_later_is_let_go(world, hosted) -> None:
    sync(hosted, external(BEYOND))
    assert ip_network(BEYOND) in world.run("n1", routes.routed)
    with rtnl(world.netns["n1"]) as ipr, own_listener(world):
        link = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=link, address=BEYOND, prefixlen=32)
        assert sync(hosted, external(BEYOND)).done[0] == f"no route local {BEYOND}/32"
        assert visit(world, "client", BEYOND, 80)[0] in ("web1", "web2")
        world.connect("client", BEYOND, NODES_OWN_PORT).close()
        ipr.addr("del", index=link, address=BEYOND, prefixlen=32)


def test_what_a_default_route_leads_to_is_served_and_taken_only_where_sockets_need_it(world, hosted) -> None:
    with default_route(world):
        sync(hosted, external(BEYOND))
        for source in ("client", "n1"):
            assert visit(world, source, BEYOND, 80)[0] in ("web1", "web2")
        led = ip_network(BEYOND) in world.run("n1", routes.routed)
        assert led is (hosted.datapath.name == "userspace")


def test_a_cluster_ip_is_the_nodes_own_where_no_service_networks_are_told(world, hosted) -> None:
    with default_route(world):
        want = snapshot([external()], flows.SLICES[:1])
        hosted.call(hosted.datapath.sync(replace(want, node=replace(want.node, service_cidrs=()))))
        assert world.run("n1", routes.routed) == [ip_network("10.96.0.10")]
        for source in ("client", "n1"):
            assert visit(world, source, "10.96.0.10", 80)[0] in ("web1", "web2")
            with pytest.raises(ConnectionRefusedError):
                world.connect(source, "10.96.0.10", 81)


@pytest.mark.parametrize("routed", [False, True], ids=["no default route", "a default route"])
def test_a_cluster_ip_of_an_added_service_cidr_works(world, hosted, routed: bool) -> None:
    """Of a ServiceCIDR object (Kubernetes 1.33) that `serviceCidrs` does not name: each is led here by itself."""
    added, partner = "10.200.0.10", "fd00:200::10"
    service = flows.service("web", added)
    service["spec"] |= {"clusterIPs": [added, partner], "ipFamilies": ["IPv4", "IPv6"]}
    slices = [flows.SLICES[0], flows.slice_in_six(flows.SLICES[0])]
    with default_route(world) if routed else nullcontext():
        want = snapshot([service], slices, node(4, 6))
        hosted.call(hosted.datapath.sync(want))
        for source in ("client", "n1"):
            for address in (added, partner):
                assert visit(world, source, address, 80)[0] in ("web1", "web2")
        hosted.call(hosted.datapath.sync(replace(want, targets={})))
        assert not {ip_network(added), ip_network(partner)} & set(world.run("n1", routes.routed))


def test_connections_of_the_relay_go_on_when_the_kernel_takes_over(world, place, quick_leave) -> None:
    with default_route(world):
        node = Switching(world, Mode.USERSPACE, place.paths)
        try:
            node.call(node.datapath.sync(snapshot([external(BEYOND)], flows.SLICES[:1])))
            stream = Stream(world, "client", BEYOND, 80)
            node.switch(Mode.NFTABLES)
            for _ in range(3):
                stream.exchange()
                assert visit(world, "client", BEYOND, 80)[0] in ("web1", "web2")
                node.call(node.datapath.sync(snapshot([external(BEYOND)], flows.SLICES[:1]), look=True))
            stream.close()
            node.left()
            node.call(node.datapath.sync(snapshot([external(BEYOND)], flows.SLICES[:1]), look=True))
            assert ip_network(BEYOND) not in world.run("n1", routes.routed)
        finally:
            node.stop()


def test_a_switch_says_what_the_new_mode_does_not_serve(world, place, quick_leave) -> None:
    node = Switching(world, Mode.NFTABLES, place.paths)
    try:
        node.call(node.datapath.sync(snapshot([external(N2)], flows.SLICES[:1])))
        assert f"not served: default/web:80 at {N2}:80/tcp: {N2} is another machine's" in node.switch(
            Mode.USERSPACE
        )
    finally:
        node.stop()


@pytest.fixture
def quick_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy import modes

    monkeypatch.setattr(modes, "SETTLE", 0.2)
    monkeypatch.setattr(modes, "LEAVING_EVERY", 0.05)
