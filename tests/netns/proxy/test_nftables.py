"""What the kernel remembers of clients, and when it is made to forget: affinity, and flows of gone endpoints."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from time import monotonic, sleep

import pytest

from netplane.errors import KernelError
from netplane.linux import conntrack, nft
from netplane.linux.nfnetlink import Edit, Tables, key_of
from netplane.linux.rtnl import rtnl
from proxy.model import Endpoint, Frontend, Pool, Protocol, ServicePort, Snapshot, Target
from proxy.nftables import observe, probe, ruleset
from proxy.nftables.datapath import NftablesDataPath
from proxy.nftables.flows import describe
from tests import flows
from tests.fakes_datapath import Hosted
from tests.netns.proxy.conftest import node
from tests.netns.proxy.flows import ask, visit

pytestmark = pytest.mark.netns
ADDRESS = ip_address("10.96.7.7")
TCP, UDP = (Frontend(ADDRESS, 80, protocol) for protocol in (Protocol.TCP, Protocol.UDP))
NODE_PORT = Frontend(ip_address("0.0.0.0"), 30177, Protocol.UDP)


@pytest.fixture
def hosted(world) -> Iterator[Hosted]:
    made = Hosted(NftablesDataPath, world.netns["n1"])
    yield made
    made.stop()


def target(*pods: str, **more) -> Target:
    here = tuple(
        Endpoint(ip_address(flows.ADDRESSES[pod]), flows.PORT, local=flows.PODS[pod][0] == "n1")
        for pod in pods
    )
    pool = Pool(tuple(sorted(here, key=lambda endpoint: endpoint.order)))
    return Target(ServicePort("default", "it", "80"), pool, pool, **more)


def sync(hosted: Hosted, targets: dict[Frontend, Target]) -> None:
    hosted.call(hosted.datapath.sync(Snapshot(node(), targets)))


def who(world, source: str = "client") -> str:
    return visit(world, source, str(ADDRESS), 80)[0]


def test_a_client_stays_with_its_endpoint_until_that_leaves(world, hosted) -> None:
    sync(hosted, {TCP: target("web1", "web2", "remote", affinity=600)})
    first = who(world)
    assert {who(world) for _ in range(20)} == {first}
    others = [pod for pod in ("web1", "web2", "remote") if pod != first]
    sync(hosted, {TCP: target(*others, affinity=600)})
    second = who(world)
    assert second in others
    assert {who(world) for _ in range(20)} == {second}, "it has a new one, and stays with that"
    sync(hosted, {TCP: target("web1", "web2", "remote", affinity=600)})
    assert {who(world) for _ in range(20)} == {second}, "also when others come"


@pytest.fixture
def predecessor(world) -> Hosted:
    return Hosted(NftablesDataPath, world.netns["n1"])


def test_a_client_is_forgotten_whose_endpoint_left_while_no_process_was_there(
    world, predecessor, hosted
) -> None:
    sync(predecessor, {TCP: target("web1", affinity=600)})
    assert who(world) == "web1"
    predecessor.stop(keep=True)
    sync(hosted, {TCP: target("remote", affinity=600)})
    assert {who(world) for _ in range(5)} == {"remote"}


def test_a_client_stays_with_its_endpoint_over_a_restart(world, predecessor, hosted) -> None:
    want = {TCP: target("web1", "web2", "remote", affinity=600)}
    sync(predecessor, want)
    first = who(world)
    predecessor.stop(keep=True)
    sync(hosted, want)
    assert {who(world) for _ in range(10)} == {first}


def test_affinity_ends_with_its_time(world, hosted) -> None:
    sync(hosted, {TCP: target("web1", "web2", affinity=1)})
    first, end = who(world), monotonic() + 20
    while who(world) == first:
        assert monotonic() < end
        sleep(1.1)


def test_clients_of_a_sticky_service_are_spread(world, hosted) -> None:
    for number in range(20):
        sticky = target("web1", "web2", affinity=600)
        sync(hosted, {TCP: replace(sticky, service=ServicePort("default", f"it-{number}", "80"))})
        if who(world, "client") != who(world, "n1"):
            return
    pytest.fail("both clients had the same endpoint twenty times")


def test_a_frontend_with_fewer_endpoints_does_not_send_a_client_to_another_one(world, hosted) -> None:
    """Policy Local at one of a Service's addresses: a client that got an endpoint elsewhere has to have one here."""
    narrow = Frontend(ip_address("10.96.7.8"), 80, Protocol.TCP)
    sync(hosted, {TCP: target("remote", affinity=600), narrow: target("web1", affinity=600, apart=True)})
    assert who(world) == "remote"
    assert {visit(world, "client", str(narrow.address), 80)[0] for _ in range(5)} == {"web1"}


@pytest.fixture
def asking(world) -> Iterator[socket.socket]:
    """One socket, so one flow."""
    with world.open("client", socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        yield sock


def answer(sock: socket.socket) -> str:
    sock.send(b"hello")
    return sock.recv(100).split()[0].decode()


@pytest.mark.parametrize("frontend", [UDP, NODE_PORT], ids=str)
def test_a_udp_flow_moves_on_when_its_endpoint_leaves(world, hosted, asking, frontend: Frontend) -> None:
    address = flows.NODES["n1"] if frontend is NODE_PORT else str(ADDRESS)
    sync(hosted, {frontend: target("web1", "web2")})
    asking.connect((address, frontend.port))
    first = answer(asking)
    assert {answer(asking) for _ in range(5)} == {first}
    (other,) = {"web1", "web2"} - {first}
    sync(hosted, {frontend: target(other)})
    assert answer(asking) == other
    sync(hosted, {frontend: target(other, first)})
    assert {answer(asking) for _ in range(5)} == {other}, "a flow stays where it is while that serves"
    sync(hosted, {frontend: target()})
    with pytest.raises(ConnectionRefusedError):
        answer(asking)
    sync(hosted, {frontend: target("web1")})
    assert answer(asking) == "web1"
    sync(hosted, {})
    with pytest.raises(ConnectionRefusedError):
        answer(asking)


def test_a_strangers_udp_flow_stays_whatever_its_port(world, hosted) -> None:
    """Its number is a NodePort's, but its address is not this node's."""
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("add", dst="203.0.113.0/24", gateway=flows.OUTSIDE_ADDRESS)
    with world.open("client", socket.SOCK_DGRAM) as sock:
        sync(hosted, {NODE_PORT: target("web1"), UDP: target("web1")})
        sock.connect(("203.0.113.9", NODE_PORT.port))
        sock.send(b"to somebody else")
        before = world.run("n1", udp_flows, NODE_PORT.port)
        sync(hosted, {NODE_PORT: target("web2"), UDP: target("web2")})
        sync(hosted, {})
        assert world.run("n1", udp_flows, NODE_PORT.port) == before != []
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("del", dst="203.0.113.0/24", gateway=flows.OUTSIDE_ADDRESS)


def udp_flows(port: int) -> list[bytes]:
    return [flow.handle for flow in conntrack.flows(4, conntrack.Wanted(protocol=conntrack.UDP, port=port))]


def test_the_kernel_is_asked_for_no_other_flows_than_wanted(world, hosted, monkeypatch) -> None:
    """A table of connections may have hundreds of thousands."""
    sync(hosted, {TCP: target("web1"), UDP: target("web1")})
    with world.connect("client", str(ADDRESS), 80), world.open("client", socket.SOCK_DGRAM) as sock:
        sock.connect((str(ADDRESS), 80))
        answer(sock)
        monkeypatch.setattr(conntrack.Wanted, "has", lambda _self, _flow: True)  # what the kernel left in
        all_of_udp = world.run("n1", conntrack.flows, 4, conntrack.Wanted(protocol=conntrack.UDP))
        assert {flow.protocol for flow in all_of_udp} == {conntrack.UDP}
        at_port = conntrack.Wanted(protocol=conntrack.UDP, port=80)
        assert {f.called.destination_port for f in world.run("n1", conntrack.flows, 4, at_port)} == {80}
        assert world.run("n1", conntrack.flows, 4, conntrack.Wanted(protocol=conntrack.UDP, port=81)) == []


def test_a_connection_that_comes_while_its_service_loses_an_endpoint(world, hosted) -> None:
    """Its two look-ups are not one: the first may know of an endpoint that the second does not find any more."""
    for affinity in (None, 600):
        sync(hosted, {TCP: target("web1", "web2", "remote", affinity=affinity)})
        world.run("n1", forget_slots, "service4-slots")
        assert len({who(world) for _ in range(12)}) == 1
        hosted.call(hosted.datapath.sync(Snapshot(node(), {}), look=True))


def forget_slots(name: str) -> None:
    """All but each frontend's first: as it is for a moment when a Service with three endpoints keeps one."""
    with Tables() as tables:
        heads = tables.elements("inet", "netplane_services", name)
        gone = [head for head in heads if any(key_of(head)[-4:])]
        assert len(gone) == 2
        tables.change("inet", "netplane_services", [Edit(name, gone)])


def test_a_rule_that_somebody_edits_is_noticed(world, hosted) -> None:
    """As many rules as before, and another word in one of them."""
    sync(hosted, {TCP: target("web1")})
    listed = world.run("n1", nft.listing, "inet", "netplane_services")
    rules = [e["rule"] for e in listed if "rule" in e and e["rule"]["chain"] == "prerouting"]
    at = f"inet netplane_services prerouting handle {rules[0]['handle']}"
    world.run("n1", nft.apply, f"replace rule {at} accept")
    with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
        world.connect("client", str(ADDRESS), 80, timeout=0.3)
    report = hosted.call(hosted.datapath.sync(Snapshot(node(), {TCP: target("web1")}), look=True))
    assert report.done == ("nft table inet netplane_services",)
    assert who(world) == "web1"


def test_elements_that_no_rule_leads_to_serve_nobody(world, hosted) -> None:
    sync(hosted, {TCP: target("web1")})
    world.run("n1", nft.apply, "flush chain inet netplane_services prerouting")
    assert hosted.call(hosted.datapath.observe()) == {}
    hosted.call(hosted.datapath.sync(Snapshot(node(), {TCP: target("web1")}), look=True))
    assert hosted.call(hosted.datapath.observe()).keys() == {TCP}


def test_a_second_sync_writes_nothing(world, hosted) -> None:
    """The kernel counts every change of its tables."""
    want = {TCP: target("web1", "web2", affinity=60), UDP: target("web1"), NODE_PORT: target("web1")}
    sync(hosted, want)

    def generation() -> int:
        with Tables() as tables:
            return tables.generation()

    before = world.run("n1", generation)
    sync(hosted, want)
    hosted.call(hosted.datapath.sync(Snapshot(node(), want), look=True))
    assert world.run("n1", generation) == before


def test_a_udp_flow_moves_on_also_when_the_kernel_is_looked_at_meanwhile(world, hosted, asking) -> None:
    sync(hosted, {UDP: target("web1", "web2")})
    asking.connect((str(ADDRESS), UDP.port))
    (other,) = {"web1", "web2"} - {answer(asking)}
    hosted.datapath._looked_at = -1e9  # as if half a minute had passed
    sync(hosted, {UDP: target(other)})
    assert answer(asking) == other


def test_a_udp_client_that_began_before_its_service_had_endpoints(world, hosted, asking) -> None:
    """At a node's start its clients are sooner than its proxy, and their flows are tracked as they were then."""
    sync(hosted, {})
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("add", dst="203.0.113.0/24", gateway=flows.OUTSIDE_ADDRESS)
    asking.connect(("203.0.113.9", 80))
    asking.send(b"too early")
    sync(hosted, {Frontend(ip_address("203.0.113.9"), 80, Protocol.UDP): target("web1")})
    assert answer(asking) == "web1"
    with rtnl(world.netns["n1"]) as ipr:
        ipr.route("del", dst="203.0.113.0/24", gateway=flows.OUTSIDE_ADDRESS)


def test_a_connection_goes_on_while_everything_changes(world, hosted) -> None:
    sync(hosted, {TCP: target("web1")})
    with world.connect("client", str(ADDRESS), 80) as sock, sock.makefile("rb") as stream:
        stream.readline()
        for targets in ({TCP: target("web2")}, {TCP: target()}, {}, {TCP: target("web1", "remote")}):
            sync(hosted, targets)
            sock.sendall(b"x" * 100)
            assert stream.read(100) == b"x" * 100


IPPROTO_SCTP = 132


def sctp_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP)
    except OSError as error:
        pytest.skip(f"expected skip: this kernel has no SCTP (CONFIG_IP_SCTP): {error.strerror}")


def test_sctp_is_translated(world, hosted) -> None:
    with world.run("web1", sctp_socket) as listener, world.run("client", sctp_socket) as client:
        listener.bind(("0.0.0.0", flows.PORT))
        listener.listen()
        sync(hosted, {Frontend(ADDRESS, 80, Protocol.SCTP): target("web1")})
        client.settimeout(5)
        client.connect((str(ADDRESS), 80))
        listener.settimeout(5)
        served, peer = listener.accept()
        with served:
            assert peer[0] == flows.ADDRESSES["client"]
            client.sendall(b"hello")
            assert served.recv(100) == b"hello"
        (flow,) = world.run("n1", describe)
        assert (flow["frontend"], flow["endpoint"]) == (
            f"{ADDRESS}:80/sctp",
            f"{flows.ADDRESSES['web1']}:8080",
        )


def test_a_new_process_changes_only_what_differs(world, hosted) -> None:
    """It finds endpoints where the last process left them, and mends what somebody broke."""
    want = {TCP: target("web1", "web2", "remote"), UDP: target("web1")}
    sync(hosted, want)
    before = world.run("n1", observe.read)
    again = Hosted(NftablesDataPath, world.netns["n1"])
    sync(again, want)
    assert world.run("n1", observe.read) == before
    world.run(
        "n1",
        nft.apply,
        "flush map inet netplane_services service4\nflush chain inet netplane_services arrive4",
    )
    assert again.call(again.datapath.observe()) == {}
    again.datapath._looked_at = -1e9  # as if half a minute had passed
    sync(again, want)
    assert again.call(again.datapath.observe()) == want
    who(world)
    world.run("n1", nft.apply, "flush map inet netplane_services service4")
    report = again.call(again.datapath.sync(Snapshot(node(), want), look=True))
    assert report.done == ("2 elements of nft table inet netplane_services",)
    assert again.call(again.datapath.observe()) == want
    again.stop(keep=True)


@pytest.mark.parametrize("failing", range(4))
def test_a_process_killed_in_the_middle_of_a_sync_is_followed_by_one_that_mends(
    world, hosted, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whatever step was the last: the next process comes to the same state."""

    class Killed(Exception):
        pass

    steps = iter(range(100))

    def counted(function):
        def run(*arguments, **options):
            if next(steps) == failing:
                raise Killed
            return function(*arguments, **options)

        return run

    sync(hosted, {TCP: target("web1"), UDP: target("web1")})
    killed = Hosted(NftablesDataPath, world.netns["n1"])
    want = {TCP: target("web2", "remote", affinity=60), NODE_PORT: target("web2")}
    with monkeypatch.context() as patched:
        patched.setattr(nft, "apply", counted(nft.apply))
        patched.setattr(Tables, "change", counted(Tables.change))
        patched.setattr(conntrack, "forget_where", counted(conntrack.forget_where))
        with pytest.raises(Killed):
            sync(killed, want)
    killed.stop(keep=True)
    successor = Hosted(NftablesDataPath, world.netns["n1"])
    sync(successor, want)
    assert successor.call(successor.datapath.observe()) == want
    successor.stop(keep=True)
    assert who(world) in ("web2", "remote")
    assert ask(world, "client", flows.NODES["n1"], NODE_PORT.port)[0] == "web2"


def test_the_kernel_is_read_where_no_process_knows_anything(world, hosted) -> None:
    want = {
        TCP: target("web1", "remote", affinity=90),
        NODE_PORT: target("web1"),
        Frontend(ip_address("198.51.100.9"), 80, Protocol.TCP): target(
            "web1", allowed=(flows_network(),), keep_outside_address=True
        ),
    }
    sync(hosted, want)
    assert world.run("n1", observe.targets) == want


def flows_network():
    from ipaddress import ip_network

    return ip_network("192.168.77.0/28")


def test_what_a_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.check()

    def refuse(_script: str) -> None:
        raise KernelError("cannot change nftables: Error: Could not process rule: No such file or directory")

    monkeypatch.setattr(nft, "apply", refuse)
    with pytest.raises(
        KernelError, match=r"cannot use nftables mode: cannot change nftables: .* Linux 5\.15"
    ):
        probe.check()


def test_what_the_rules_say_can_be_read() -> None:
    """`nft list` shows the frame as it was written, so a person can follow a packet by it."""
    text = ruleset.frame(replace(node(), node_port_networks=node().pod_cidrs))
    assert "guard ip daddr 10.96.0.0/12 meta l4proto { tcp, udp } socket wildcard 1 goto refuse" in text
    assert "arrive4 ip daddr != 10.244.1.0/24 return" in text


def test_whoever_lists_the_machines_rules_can_read_ours(world, hosted) -> None:
    """`nft` ends by an assertion over rules that it cannot put in words (1.0.6), and with it every listing."""
    six = Pool(tuple(Endpoint(ip_address(f"fd00:10:244:1::{n}"), 80) for n in (1, 2)))
    targets = {TCP: target("web1", "web2", affinity=60), NODE_PORT: target("web1", affinity=60)}
    for address, port in (("fd00:10:96::1", 80), ("::", 30178)):
        sticky = Target(ServicePort("default", "six", "80"), six, six, 60, keep_outside_address=True)
        targets[Frontend(ip_address(address), port, Protocol.TCP)] = sticky
    sync(hosted, targets)
    netns = world.netns["n1"]
    command = ["nsenter", f"--net=/proc/self/fd/{netns}", "nft", "list", "table", "inet", "netplane_services"]
    done = subprocess.run(command, pass_fds=[netns], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ip saddr . ip daddr @hairpin4 snat ip to 192.168.77.11 fully-random" in done.stdout
    assert "dnat ip to meta priority . ip saddr map @clients4" in done.stdout
