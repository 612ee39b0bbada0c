"""Explain against real namespaces: a healthy path is said to work, each injected fault is named."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import pytest

from netplane.config import CLUSTER_CIDRS, SERVICE_CIDRS, Paths
from netplane.debug import explain
from netplane.debug.explain import Explanation
from netplane.debug.facts import Lookup
from netplane.debug.hops import State
from netplane.debug.routing import ask
from netplane.debug.verdict import Outcome
from netplane.errors import ConfigError
from netplane.kube.client import Client
from netplane.linux import nft
from netplane.linux.cgroups import Cgroup, detect
from netplane.linux.namespaces import entered_netns, netns_inode
from netplane.linux.orphans import own
from netplane.linux.rtnl import rtnl
from proxy.ebpf.build import build as build_programs
from proxy.ebpf.datapath import EbpfDataPath
from proxy.ebpf.probe import where
from proxy.nftables.datapath import NftablesDataPath
from proxy.snapshot import PROXY_NAME_LABEL, build, node_facts
from tests.fakes_datapath import Hosted
from tests.netns.debug.conftest import NODE_ADDRESSES, endpoint_slice, service

if TYPE_CHECKING:
    from tests.netns.debug.conftest import World
else:
    World = Any

pytestmark = pytest.mark.netns
SERVICE = "svc/hello:http"
RECEIVER = """
import signal, socket
receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiving.bind(("0.0.0.0", 8053))
print("ready", flush=True)
signal.pause()
"""
LISTENER = """
import signal, socket, sys
listening = socket.create_server((sys.argv[1], 10249))
print("ready", flush=True)
signal.pause()
"""


def explained(
    world: World, source: str = "default/client", target: str = SERVICE, **options: Any
) -> Explanation:
    # Its own event loop: the tests change routes between two looks, which pyroute2 cannot do inside one.
    run = explain.run(source, target, client=cast("Client", world), spawn=world.spawn(), **options)
    return asyncio.run(run)


def test_a_healthy_service_works_and_every_hop_is_seen(world: World) -> None:
    world.start_proxy()
    found = explained(world)
    text = found.render()
    assert found.verdict.outcome is Outcome.WORKS, text
    hops = [
        *found.walk.out,
        *found.walk.back,
        *(hop for branch in found.walk.branches for hop in branch.hops),
    ]
    assert all(hop.state is State.OK for hop in hops), text
    assert [b.choice.kept for b in found.walk.branches] == [True, True]
    for evidence in (
        "npclient",
        "proto 96",
        "proto 98",
        "proto 97",
        "proxy.sock",
        "guard",
        "0x200",
        "10.96.0.20:80",
    ):
        assert evidence in text
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("default/client", "default/a:8080"),
        ("default/client", "default/b:8080"),
        ("default/b", "10.244.1.7:8080"),
        ("default/client", "node/n1:30080"),
        ("default/b", "192.168.77.11:30080"),
        ("192.168.77.1", "node/n1:30080"),
        ("node/n1", "svc/hello:80"),
        ("node/n1", "default/b:8080"),
        ("node/n2", "default/b:8080"),
        ("default/a", "svc/hello.default:80"),
        ("default/client", "node/n1:10249"),
        ("default/b", "node/n1:10249"),
        ("node/n1", "node/n1:10249"),
    ],
)
def test_other_healthy_connections_work(world: World, source: str, target: str) -> None:
    world.start_proxy()
    world.start("n1", [sys.executable, "-c", LISTENER, "0.0.0.0"])
    found = explained(world, source, target)
    assert found.verdict.outcome is Outcome.WORKS, found.render()


def test_a_service_that_the_nodes_own_dns_answers_works(world: World) -> None:
    """Its answers start on the client's own node: asked as if they arrived there, the kernel refuses them."""
    dns = service(clusterIP="10.96.0.10", clusterIPs=["10.96.0.10"], ports=[{"port": 10249}])
    dns["metadata"] |= {"name": "dns", "labels": {PROXY_NAME_LABEL: "netplane-dns"}}
    world.objects["services"].append(dns)
    with rtnl(world.netns["n1"]) as ipr:
        ipr.addr("add", index=1, address="10.96.0.10", prefixlen=32)
    world.start("n1", [sys.executable, "-c", LISTENER, "10.96.0.10"])
    found = explained(world, target="svc/dns:10249")
    assert found.verdict.outcome is Outcome.WORKS, found.render()


def test_a_service_over_udp_is_explained_over_udp(world: World) -> None:
    port = {"name": "echo", "port": 53, "targetPort": 8053, "protocol": "UDP"}
    world.objects["services"] = [service(ports=[port])]
    world.objects["endpointslices"][0]["ports"] = [{"name": "echo", "port": 8053, "protocol": "UDP"}]
    world.start_proxy()
    missing = explained(world, target="svc/hello:53")
    assert "nothing listens at 10.244.1.7:8053: port unreachable" in missing.verdict.cause, missing.render()
    for name in ("a", "b"):
        world.start(name, [sys.executable, "-c", RECEIVER])
    found = explained(world, target="svc/hello:53")
    assert found.verdict.outcome is Outcome.WORKS, found.render()
    text = found.render()
    assert "10.96.0.20:53/UDP" in text
    assert "accepted at 10.96.0.20:53" in text
    assert "proxy picks in turn from 10.244.1.7:8053, 10.244.2.9:8053" in text
    with pytest.raises(ConfigError, match="the probe is a TCP connection, and this is UDP"):
        explained(world, target="svc/hello:53", probe=True)


def test_a_refusal_of_the_kernels_is_named_for_what_it_is(world: World) -> None:
    world.route("n1", "add", dst="10.9.0.0/16", type="blackhole")
    with entered_netns(world.netns["n1"]), rtnl() as ipr:
        own = ask(ipr, Lookup(to="10.244.1.3", source=NODE_ADDRESSES["n1"], arriving=NODE_ADDRESSES["n1"]))
        assert own.error == "no packet from 192.168.77.11 may arrive there (EINVAL)"
        assert ask(ipr, Lookup(to="10.9.0.1")).error == "blackhole"
        passed_on = Lookup(to="10.9.0.1", source="10.244.1.3", arriving="10.244.1.3")
        assert ask(ipr, passed_on).error == "blackhole"


def test_a_lost_route_to_one_node_is_a_suspect_and_to_all_is_broken(world: World) -> None:
    world.start_proxy()
    world.route("n1", "del", dst="10.244.2.0/24", gateway="192.168.77.12", proto=98)
    found = explained(world)
    assert found.verdict.outcome is Outcome.WORKS, found.render()
    (suspect,) = found.verdict.suspects
    assert "10.244.2.9" in suspect
    assert "no route" in suspect
    alone = explained(world, target="default/b:8080")
    assert alone.verdict.outcome is Outcome.BROKEN
    assert "n1: route to 10.244.2.9 on n2: no route" in alone.verdict.cause


def test_a_pod_without_its_host_route_is_named(world: World) -> None:
    world.route("n2", "del", dst="10.244.2.9/32", scope=253, proto=97)
    found = explained(world, target="default/b:8080")
    assert found.verdict.outcome is Outcome.BROKEN
    assert "n2: no route to 10.244.2.9/32: npb is up" in found.verdict.cause


def test_a_link_that_is_down_is_named(world: World) -> None:
    world.start_proxy()
    with rtnl(world.netns["n1"]) as ipr:
        (index,) = ipr.link_lookup(ifname="npclient")
        ipr.link("set", index=index, state="down")
    found = explained(world)
    assert found.verdict.outcome is Outcome.BROKEN, found.render()
    assert "npclient is DOWN" in found.verdict.cause


def test_a_pod_is_told_from_a_stranger_with_its_address(world: World) -> None:
    inode = netns_inode(world.netns["client"])
    assert f"netlink in the pod, namespace {inode}" in explained(world, target="default/b:8080").render()
    world.route("n1", "del", dst="10.244.1.3/32", scope=253, proto=97)  # only the link is left to know it by
    text = explained(world, target="default/b:8080").render()
    assert f"netlink in the pod, namespace {inode}" in text
    assert "no route to 10.244.1.3/32: npclient is up" in text


def test_a_pod_whose_link_is_gone_is_not_sought_at_a_stranger(world: World) -> None:
    with rtnl(world.netns["n1"]) as ipr:
        ipr.link("del", ifname="npclient")
    found = explained(world, target="default/b:8080")
    assert "n1: no route to 10.244.1.3/32: no link leads to it" in found.verdict.cause
    assert "pod 10.244.1.3: no process of this node is in its namespace" in found.render()


def test_a_node_that_does_not_forward_is_named(world: World) -> None:
    from netplane.linux import sysctl

    with entered_netns(world.netns["n2"]):
        sysctl.write("net.ipv4.ip_forward", "0")
    found = explained(world, target="default/b:8080")
    assert found.verdict.outcome is Outcome.BROKEN
    assert "net.ipv4.ip_forward=0" in found.verdict.cause


def test_without_a_proxy_the_missing_plumbing_is_named(world: World) -> None:
    found = explained(world)
    assert found.verdict.outcome is Outcome.BROKEN
    assert "n1: 10.96.0.20 is not local here" in found.verdict.cause


def test_a_dead_proxy_is_named(world: World) -> None:
    proxy = world.start_proxy()
    proxy.kill()
    proxy.wait()
    found = explained(world)
    assert found.verdict.outcome is Outcome.BROKEN
    assert "nothing listens at 10.96.0.20:80" in found.verdict.cause


def test_a_missing_divert_rule_is_named(world: World) -> None:
    world.start_proxy()
    with entered_netns(world.netns["n1"]):
        nft.apply("flush chain inet netplane_proxy divert")
    found = explained(world)
    assert found.verdict.outcome is Outcome.BROKEN
    assert "divert rule is missing" in found.verdict.cause


def test_a_proxy_behind_the_api_is_named(world: World) -> None:
    world.start_proxy()
    ready = world.objects["endpointslices"][0]["endpoints"]
    world.objects["endpointslices"][0]["endpoints"] = ready[:1]
    found = explained(world)
    assert found.verdict.outcome is Outcome.BROKEN
    assert "still has 10.244.2.9:8080" in found.verdict.cause


def test_a_service_without_ready_endpoints_is_named_from_the_api(world: World) -> None:
    for entry in world.objects["endpointslices"][0]["endpoints"]:
        entry["conditions"] = {"ready": False}
    world.start_proxy()
    found = explained(world)
    assert (found.verdict.outcome, found.exit_code) == (Outcome.BROKEN, 1)
    assert found.verdict.cause == "no endpoint of the Service is ready"
    assert "10.244.1.7 not ready (excluded)" in found.render()


def test_a_port_that_the_pod_does_not_listen_at_is_named(world: World) -> None:
    found = explained(world, target="default/a:9999")
    assert found.verdict.outcome is Outcome.BROKEN
    assert "nothing listens at 10.244.1.7:9999" in found.verdict.cause


def test_a_node_out_of_sight_is_not_observed_rather_than_broken(world: World) -> None:
    world.start_proxy()
    world.blind.add("n2")
    found = explained(world)
    assert (found.verdict.outcome, found.exit_code) == (Outcome.UNDETERMINED, 2)
    assert "node n2 cannot be looked into from here" in found.verdict.cause


def test_what_does_not_exist_is_bad_usage(world: World) -> None:
    for source, target in [
        ("default/none", SERVICE),
        ("default/client", "svc/none:80"),
        ("node/n9", SERVICE),
    ]:
        with pytest.raises(ConfigError, match="there is no"):
            explained(world, source, target)
    with pytest.raises(ConfigError, match="http=80"):
        explained(world, target="svc/hello:81")


def sync(hosted: Hosted, objects: dict[str, list[dict[str, Any]]]) -> None:
    """Tell n1's data path what the objects say now."""
    n1 = next(node for node in objects["nodes"] if node["metadata"]["name"] == "n1")
    facts = node_facts(n1, CLUSTER_CIDRS, SERVICE_CIDRS)
    hosted.call(hosted.datapath.sync(build(objects["services"], objects["endpointslices"], facts)))


@pytest.fixture
def translated(world: World) -> Iterator[Callable[[], None]]:
    """Sync n1's nftables data path with the objects as they are now."""
    hosted = Hosted(NftablesDataPath, world.netns["n1"])

    yield lambda: sync(hosted, world.objects)
    hosted.stop()


def test_a_translation_is_told_from_the_kernels_own_maps(
    world: World, translated: Callable[[], None]
) -> None:
    translated()
    found = explained(world)
    text = found.render()
    assert found.verdict.outcome is Outcome.WORKS, text
    hops = [*found.walk.out, *found.walk.back, *(hop for b in found.walk.branches for hop in b.hops)]
    assert all(hop.state is State.OK for hop in hops), text
    assert "becomes one at random of 10.244.1.7:8080, 10.244.2.9:8080  [nft inet netplane_services]" in text
    assert "tries no other" in text
    assert "guard" not in text
    # The API goes on, the table does not.
    world.objects["endpointslices"] = [endpoint_slice("a")]
    behind = explained(world)
    assert behind.verdict.outcome is Outcome.BROKEN
    assert "the table is behind the API: it still has 10.244.2.9:8080" in behind.verdict.cause


@pytest.fixture
def told(world: World) -> Iterator[Callable[[], None]]:
    """The same for an ebpf data path, in a cgroup of n1's own."""
    paths = Paths(world.root / "n1")
    cgroup = Cgroup(detect(), PurePosixPath(paths.cgroup_name))
    own(cgroup)
    at = where(paths)

    def make() -> EbpfDataPath:
        return EbpfDataPath(NftablesDataPath(), cgroup=at.cgroup, mount=at.mount, directory=at.directory)

    build_programs()
    hosted = Hosted(make, world.netns["n1"])

    yield lambda: sync(hosted, world.objects)
    hosted.stop()
    cgroup.remove()


def test_what_a_socket_is_told_is_read_from_the_maps(world: World, told: Callable[[], None]) -> None:
    told()
    found = explained(world)
    text = found.render()
    assert found.verdict.outcome is Outcome.WORKS, text
    hops = [*found.walk.out, *(hop for branch in found.walk.branches for hop in branch.hops)]
    assert all(hop.state is State.OK for hop in hops), text
    assert "is told in turn one of 10.244.1.7:8080, 10.244.2.9:8080; no packet goes to 10.96" in text
    assert (
        text.count("from npclient straight into the pod behind npa, past the host's stack  [BPF maps of") == 1
    )
    assert "takes one in turn for each connection, and tries no other" in text
    world.objects["endpointslices"] = [endpoint_slice("a")]
    behind = explained(world)
    assert behind.verdict.outcome is Outcome.BROKEN
    assert "the maps are behind the API: they still have 10.244.2.9:8080" in behind.verdict.cause
