"""What every data path promises, whatever moves the packets: the page is ``proxy/datapath.py``."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netplane.errors import KernelError
from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl
from proxy import routes
from proxy.ebpf.datapath import EbpfDataPath
from proxy.model import (
    Endpoint,
    Frontend,
    NodeFacts,
    Pool,
    Protocol,
    ServicePort,
    Snapshot,
    Target,
    WhenEmpty,
)
from proxy.nftables.datapath import NftablesDataPath
from proxy.userspace.datapath import UserspaceDataPath
from tests.bpf_place import BpfPlace, bpf_place
from tests.fakes_datapath import Hosted, MemoryDataPath

NODE = NodeFacts(
    "n1",
    (ip_address("192.168.77.11"),),
    (ip_network("10.244.1.0/24"),),
    (ip_network("10.244.0.0/16"),),
    (ip_network("10.96.0.0/12"),),
)
CLUSTER_IPS = [ip_address(f"10.96.0.{n}") for n in range(1, 4)]
PROTOCOLS = st.sampled_from([Protocol.TCP, Protocol.UDP])
FRONTENDS = st.one_of(
    st.builds(Frontend, st.sampled_from(CLUSTER_IPS), st.integers(80, 82), PROTOCOLS),
    st.builds(Frontend, st.just(ip_address("0.0.0.0")), st.integers(30000, 30003), PROTOCOLS),
)
ENDPOINTS = st.builds(
    Endpoint,
    st.integers(2, 9).map(lambda n: ip_address(f"10.244.1.{n}")),
    st.just(8080),
    st.booleans(),
)
POOLS = st.builds(Pool, st.lists(ENDPOINTS, max_size=2).map(tuple), st.sampled_from(WhenEmpty))
TARGETS = st.builds(
    Target, st.builds(ServicePort, st.just("default"), st.just("web"), st.just("80")), POOLS, POOLS
)
RANGES = st.lists(
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/17", "10.1.128.0/17", "192.0.2.0/24"]), max_size=3
).map(lambda said: tuple(map(ip_network, said)))  # as people write them: one within another
NAMED = st.builds(Frontend, st.just(ip_address("203.0.113.7")), st.integers(80, 81), st.just(Protocol.TCP))
RANGED = st.dictionaries(NAMED, st.builds(replace, TARGETS, allowed=RANGES), max_size=2)
SNAPSHOTS = st.builds(
    Snapshot,
    st.just(NODE),
    st.builds(lambda plain, ranged: plain | ranged, st.dictionaries(FRONTENDS, TARGETS, max_size=5), RANGED),
    st.integers(1, 99),
)


@pytest.fixture(scope="module")
def netns() -> Iterator[int]:
    """A namespace with the node's address on an interface of its own."""
    made = new_netns()
    with rtnl(made) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
        ipr.link("add", ifname="eth0", kind="veth", peer="eth1")
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=index, address="192.168.77.11", prefixlen=24)
        ipr.link("set", index=index, state="up")
    yield made
    os.close(made)


@pytest.fixture(scope="module")
def place() -> Iterator[BpfPlace]:
    with bpf_place() as made:
        yield made


IN_KERNEL = [pytest.param(mode, marks=pytest.mark.netns) for mode in ("userspace", "nftables", "ebpf")]


@pytest.fixture(params=["memory", *IN_KERNEL])
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Hosted]]:
    running: list[Hosted] = []

    def make(**options: Any) -> Hosted:
        if request.param == "memory":
            running.append(Hosted(MemoryDataPath))
        elif request.param == "ebpf":
            netns, place = request.getfixturevalue("netns"), request.getfixturevalue("place")
            running.append(Hosted(lambda: EbpfDataPath(NftablesDataPath(), **place.options), netns))
        elif request.param == "nftables":
            running.append(Hosted(NftablesDataPath, request.getfixturevalue("netns")))
        else:
            netns = request.getfixturevalue("netns")
            running.append(Hosted(lambda: UserspaceDataPath(**options), netns))
        return running[-1]

    yield make
    for one in running:
        if one.alive:
            one.stop()


def target(*addresses: str, **more: Any) -> Target:
    pool = Pool(tuple(Endpoint(ip_address(a), 8080) for a in addresses))
    return Target(ServicePort("default", "web", "80"), pool, pool, **more)


def frontend(address: str, port: int = 80, protocol: Protocol = Protocol.TCP) -> Frontend:
    return Frontend(ip_address(address), port, protocol)


def lose_a_route(netns: int) -> None:
    """Somebody takes away the route of the Service network."""
    with rtnl(netns) as ipr:
        for route in ipr.get_routes(family=socket.AF_INET, table=255):
            if route["proto"] == 96 and route.get_attr("RTA_DST") == "10.96.0.0":
                link = route.get_attr("RTA_OIF")
                ipr.route("del", dst="10.96.0.0/12", table=255, type=2, proto=96, scope=254, oif=link)


WANT = Snapshot(
    NODE,
    {
        frontend("10.96.0.1"): target("10.244.1.2", "10.244.1.3"),
        frontend("10.96.0.2"): target(),
        frontend("0.0.0.0", 30080): target("10.244.1.2"),
        frontend("203.0.113.7"): target("10.244.1.2"),
        frontend("10.96.0.1", protocol=Protocol.UDP): target("10.244.1.2"),
        frontend("10.96.0.2", protocol=Protocol.UDP): target(),
        frontend("0.0.0.0", 30080, Protocol.UDP): target("10.244.1.2"),
    },
    revision=7,
)


def test_what_was_synced_is_observed(start) -> None:
    path = start()
    report = path.call(path.datapath.sync(WANT))
    assert (report.revision, report.added, report.changed, report.removed) == (7, 7, 0, 0)
    assert report.unserved == ()
    assert path.call(path.datapath.observe()) == WANT.targets
    assert path.call(path.datapath.count()) == len(WANT.targets)


def test_a_second_sync_changes_nothing(start) -> None:
    path = start()
    path.call(path.datapath.sync(WANT))
    report = path.call(path.datapath.sync(replace(WANT, revision=8)))
    assert (report.revision, report.added, report.changed, report.removed) == (8, 0, 0, 0)
    assert path.call(path.datapath.observe()) == WANT.targets


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(snapshots=st.lists(SNAPSHOTS, min_size=1, max_size=4))
def test_any_sequence_of_snapshots_converges(start, snapshots: list[Snapshot]) -> None:
    path = start()
    for want in snapshots:
        path.call(path.datapath.sync(want))
        assert path.call(path.datapath.observe()) == want.targets
        assert path.call(path.datapath.count()) == len(want.targets)
    path.stop()


def test_a_look_mends_what_somebody_broke_and_says_what(start, request) -> None:
    path = start()
    path.call(path.datapath.sync(WANT))
    if not isinstance(path.datapath, MemoryDataPath):
        lose_a_route(request.getfixturevalue("netns"))
        assert frontend("10.96.0.1") in path.datapath.targets, "this process remembers"
        assert path.call(path.datapath.sync(WANT)).done == (), "it looked just now"
        report = path.call(path.datapath.sync(WANT, look=True))
        assert report.done == ("route local 10.96.0.0/12 src 192.168.77.11",)
    report = path.call(path.datapath.sync(WANT, look=True))
    assert (report.added, report.changed, report.removed, report.done) == (0, 0, 0, ())
    assert path.call(path.datapath.observe()) == WANT.targets


def test_a_failed_sync_leaves_everything_as_it_was(start) -> None:
    path = start()
    path.call(path.datapath.sync(WANT))
    homeless = Snapshot(replace(NODE, addresses=()), {})
    with pytest.raises(KernelError, match="it has no address yet"):
        path.call(path.datapath.sync(homeless))
    assert path.call(path.datapath.observe()) == WANT.targets


def test_close_leaves_nothing(start) -> None:
    path = start()
    path.call(path.datapath.sync(WANT))
    path.stop(keep=False)
    fresh = start()
    assert path.alive is False
    assert fresh.call(fresh.datapath.observe()) == {}
    assert fresh.call(fresh.datapath.count()) == 0


class Shelf:
    """Keeps copies of descriptors, as a supervisor does."""

    def __init__(self) -> None:
        self.kept: dict[str, list[socket.socket]] = {}

    def store(self, name: str, *descriptors: int) -> None:
        self.kept.setdefault(name, []).extend(socket.socket(fileno=os.dup(fd)) for fd in descriptors)

    def unstore(self, name: str) -> None:
        for sock in self.kept.pop(name, []):
            sock.close()


class SlowShelf(Shelf):
    """Takes its time, as a supervisor under load does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def store(self, name: str, *descriptors: int) -> None:
        self.asked.set()
        assert self.go_on.wait(5)
        super().store(name, *descriptors)


def test_the_next_process_takes_over_what_it_wants_and_drops_the_rest(start) -> None:
    shelf = Shelf()
    first = start(keeper=shelf)
    first.call(first.datapath.sync(WANT))
    first.stop(keep=True)
    second = start(keeper=Shelf(), kept=shelf.kept)
    want = replace(WANT, targets={frontend("10.96.0.1"): target("10.244.1.9")})
    second.call(second.datapath.sync(want))
    assert second.call(second.datapath.observe()) == want.targets


@pytest.mark.netns
class TestUserspaceOnly:
    """What memory cannot show."""

    @pytest.fixture
    def path(self, netns) -> Iterator[Hosted]:
        hosted = Hosted(UserspaceDataPath, netns)
        yield hosted
        hosted.stop()

    def test_stopped_in_the_midst_of_a_sync_the_listeners_are_kept_all_the_same(self, netns) -> None:
        """Else the clients of a Service that has just come are refused until the next process listens."""
        shelf = SlowShelf()
        first = Hosted(lambda: UserspaceDataPath(keeper=shelf), netns)

        async def sync_until_stopped() -> None:
            async with asyncio.TaskGroup() as tasks:
                syncing = tasks.create_task(first.datapath.sync(WANT))
                await asyncio.to_thread(shelf.asked.wait, 5)
                syncing.cancel()
            asyncio.get_running_loop().call_later(0.05, shelf.go_on.set)

        first.call(sync_until_stopped())
        first.stop(keep=True)
        assert shelf.go_on.is_set(), "it waits for what is being told"
        kept = {sock.getsockname()[:2] for socks in shelf.kept.values() for sock in socks}
        assert kept == {(str(f.address), f.port) for f, t in WANT.targets.items() if not t.empty}
        second = Hosted(lambda: UserspaceDataPath(kept=shelf.kept), netns)
        second.call(second.datapath.sync(WANT))
        assert second.call(second.datapath.observe()) == WANT.targets
        second.stop()

    def test_the_kernel_is_asked_and_not_memory(self, path, netns) -> None:
        path.call(path.datapath.sync(WANT))
        lose_a_route(netns)
        observed = path.call(path.datapath.observe())
        assert frontend("10.96.0.1") not in observed, "no route leads there any more"
        assert frontend("0.0.0.0", 30080) in observed
        path.datapath._mended_at = -1e9  # as if half a minute had passed
        path.call(path.datapath.sync(WANT))
        assert path.call(path.datapath.observe()) == WANT.targets

    def test_plumbing_is_idempotent_and_removed_whole(self, netns) -> None:
        from proxy.userspace import plumbing
        from proxy.userspace.demands import plan_of

        with entered_netns(netns):
            assert plumbing.ensure(plan_of(WANT)).done != []
            assert plumbing.ensure(plan_of(WANT)).done == []
            changed = plumbing.ensure(plan_of(replace(WANT, targets={}))).done
            assert changed == ["no route local 203.0.113.7/32", "nft table inet netplane_proxy"]
            plumbing.ensure(plan_of(WANT))
            plumbing.nft.apply("flush chain inet netplane_proxy guard")
            assert plumbing.ensure(plan_of(WANT)).done == ["nft table inet netplane_proxy"], (
                "a rule lost is noticed"
            )
            plumbing.remove()
            plumbing.remove()
            assert routes.routed() == []

    def test_ipv6_beside_ipv4(self, netns) -> None:
        with rtnl(netns) as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            ipr.addr("replace", index=index, address="fd00:77::11", prefixlen=64, flags=0x02)  # IFA_F_NODAD
        node = replace(
            NODE,
            addresses=(*NODE.addresses, ip_address("fd00:77::11")),
            service_cidrs=(*NODE.service_cidrs, ip_network("fd00:10:96::/112")),
        )
        six = {frontend("fd00:10:96::1"): target("fd00:1::2"), frontend("::", 30080): target("fd00:1::2")}
        want = replace(WANT, node=node, targets={**WANT.targets, **six})
        hosted = Hosted(UserspaceDataPath, netns)
        assert hosted.call(hosted.datapath.sync(want)).unserved == ()
        assert hosted.call(hosted.datapath.observe()) == want.targets
        with entered_netns(netns), socket.socket(socket.AF_INET6) as agent:
            agent.bind(("::", 10250))
            agent.listen()
            with socket.socket(socket.AF_INET6) as client, pytest.raises(ConnectionRefusedError):
                client.connect(("fd00:10:96::1", 10250))
        hosted.stop()
        with rtnl(netns) as ipr:
            assert [r for r in ipr.get_routes(family=socket.AF_INET6) if r["proto"] == 96] == []

    def test_other_protocols_are_refused_by_name(self, path) -> None:
        sctp = frontend("10.96.0.1", 53, Protocol.SCTP)
        want = replace(WANT, targets={**WANT.targets, sctp: target("10.244.1.2")})
        (entry,) = path.call(path.datapath.sync(want)).unserved
        assert (entry.frontend, entry.again) == (sctp, False)
        assert entry.reason == "SCTP is not served in userspace mode"
        assert path.call(path.datapath.observe()) == WANT.targets

    def test_a_taken_port_is_named_and_taken_later(self, path, netns) -> None:
        with entered_netns(netns), socket.socket() as taken:
            taken.bind(("0.0.0.0", 30080))
            taken.listen()
            report = path.call(path.datapath.sync(WANT))
            assert report.incomplete
            assert "port 30080 is taken by another process" in str(report.unserved[0])
        assert path.call(path.datapath.sync(WANT)).unserved == ()

    def test_a_missing_kernel_feature_is_named(self, path, monkeypatch) -> None:
        from proxy.userspace import plumbing

        def refuse(_script: str) -> None:
            raise KernelError(
                "cannot change nftables: Error: Could not process rule: No such file or directory"
            )

        monkeypatch.setattr(plumbing.nft, "apply", refuse)
        with pytest.raises(KernelError, match="nft_socket"):
            path.call(path.datapath.sync(WANT))
        assert path.call(path.datapath.observe()) == {}, "nothing half-made"

    def test_a_node_address_that_no_interface_has_is_named(self, path) -> None:
        stranger = replace(NODE, addresses=(ip_address("192.168.99.1"),))
        with pytest.raises(KernelError, match=r"192\.168\.99\.1"):
            path.call(path.datapath.sync(replace(WANT, node=stranger)))
