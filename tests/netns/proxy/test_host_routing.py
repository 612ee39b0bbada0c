"""Packets between pods of one node go past the host's stack, and nothing that the stack is needed for is missed."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from time import monotonic, sleep

import pytest

from netplane.errors import KernelError
from netplane.linux import bpf, conntrack, nft, rtmessages, sysctl, tc
from netplane.linux.namespaces import new_netns, socket_in
from netplane.linux.rtnl import rtnl
from proxy.ebpf.hostrouting import links, programs, shortway
from proxy.ebpf.hostrouting.deciding import HostRouting
from proxy.ebpf.hostrouting.layout import Ends, ends_of
from proxy.ebpf.hostrouting.translated import between
from proxy.ebpf.objects import PODS
from proxy.ebpf.pins import remove_directory
from proxy.flush import flush
from proxy.modes import Mode
from tests import flows
from tests.bpf_place import BpfPlace
from tests.netns.proxy.conftest import _add_pod
from tests.netns.proxy.flows import destination, visit
from tests.netns.proxy.test_mode_switch import HOST_PORT, PORT_MAPPING, Stream, Switching

pytestmark = pytest.mark.netns
CLIENT, WEB1 = flows.ADDRESSES["client"], flows.ADDRESSES["web1"]
IP_RECVERR = 11  # linux/in.h
CLIENT_IP, WEB1_IP = ip_address(CLIENT), ip_address(WEB1)
MAPPED_IPV6 = """
table ip6 other {
  chain prerouting { type nat hook prerouting priority dstnat;
    ip6 daddr fd00:99::1 tcp dport 80 dnat to [fd00:1::3]:8086
  }
}
"""
FILTER = f"""
table inet mine {{
  chain forward {{ type filter hook forward priority 0; ip saddr {CLIENT} ip daddr {WEB1} drop; }}
}}
"""


@pytest.fixture
def start(world, place: BpfPlace) -> Iterator[Callable[..., Switching]]:
    running: list[Switching] = []

    def make(routing: HostRouting = HostRouting.AUTO, mode: Mode = Mode.EBPF) -> Switching:
        running.append(Switching(world, mode, place.paths, routing))
        return running[-1]

    yield make
    for one in running:
        if one.alive:
            one.stop()


@pytest.fixture
def unhooked(world) -> Callable[..., socket.socket]:
    """A socket of a pod that runs in no cgroup of the node: nobody tells it an endpoint."""

    def make(
        kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, where: str = "client"
    ) -> socket.socket:
        sock = socket_in(world.netns[where], family, kind)
        sock.settimeout(3)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    return make


@contextmanager
def tapped(world, link: str) -> Iterator[list[tuple[bool, set[int]]]]:
    """The TCP and UDP packets that pass a link of n1 meanwhile, as tcpdump sees them: whether outgoing, and ports."""
    seen: list[tuple[bool, set[int]]] = []
    with world.run("n1", socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as tap:
        tap.bind((link, 0x0003))  # ETH_P_ALL
        yield seen
        tap.settimeout(0.1)
        while True:
            try:
                data, origin = tap.recvfrom(65535)
            except TimeoutError:
                return
            start, protocol = (20, data[9]) if data[0] >> 4 == 4 else (40, data[6])
            if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                ports = set(struct.unpack_from("!HH", data, start))
                seen.append((origin[2] == socket.PACKET_OUTGOING, ports))


def is_short(world, go: Callable[[], int], *, to: str = "web1") -> bool:
    """Whether what ``go`` sends from a port of pod client reaches a pod without passing the host's end of its link."""
    with tapped(world, f"v-{to}") as there, tapped(world, "v-client") as here:
        port = go()
    assert any(not out and port in ports for out, ports in here), (
        "the sender's tcpdump sees it, whatever way it goes"
    )
    return not any(out and port in ports for out, ports in there)


def direct(world, kind: int = socket.SOCK_STREAM, *, port: int = 0) -> int:
    """Speak to pod web1; from which port."""
    with world.open("client", kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.connect((WEB1, flows.PORT))
        sock.sendall(b"hello")
        assert sock.recv(100).split()[:2] == [b"web1", CLIENT.encode()]
        return int(sock.getsockname()[1])


def send(sock: socket.socket, data: bytes) -> int:
    sock.send(data)
    return int(sock.getsockname()[1])


def is_up(world, pod: str) -> bool:
    """Whether both ends of a new pod's link transmit: the kernel's link watch has run."""
    states = []
    for where, link in ((pod, "eth0"), ("n1", f"v-{pod}")):
        with rtnl(world.netns[where]) as ipr:
            states.append(ipr.link("get", ifname=link)[0].get_attr("IFLA_OPERSTATE"))
    return states == ["UP", "UP"]


def eventually(check: Callable[[], bool], seconds: float = 5) -> None:
    end = monotonic() + seconds
    while not check():
        assert monotonic() < end
        sleep(0.05)


def noted(place: BpfPlace) -> set[Ends]:
    held = bpf.pinned_map(place.paths.bpf_root / f"{programs.PREFIX}{PODS.layout}/translated")
    assert held is not None
    found = {ends_of(key) for key, _ in held.items()}
    held.close()
    return found


@pytest.mark.parametrize("kind", ["tcx", "a filter of a clsact"])
def test_tcp_and_udp_go_past_the_stack_and_every_trace_goes(
    world, place, start, monkeypatch, kind: str
) -> None:
    if kind != "tcx":
        monkeypatch.setattr(tc, "_by_tcx", lambda _hook: False)
    node = start()
    assert node.datapath.host_routing == "bpf"
    assert is_short(world, lambda: direct(world))
    assert is_short(world, lambda: direct(world, socket.SOCK_DGRAM))
    found = {visit(world, "client", *destination("web")) for _ in range(9)}
    assert found <= {("web1", CLIENT), ("web2", CLIENT), ("remote", CLIENT)}
    assert not noted(place), "nobody translated anything"
    with world.open("client", socket.SOCK_DGRAM) as sock:  # as traceroute asks
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((WEB1, flows.PORT))
        sock.send(b"who is there?")
        with pytest.raises(OSError, match="No route to host"):  # time exceeded, says the node
            sock.recv(100)
    node.switch(Mode.NFTABLES)
    node.left()
    assert world.run("n1", links.touched) == []
    assert not any("clsact" in kinds for kinds in world.run("n1", rtmessages.queues).values())
    assert not is_short(world, lambda: direct(world))


def test_ipv6(world, place, start, unhooked) -> None:
    addresses = {"client": "fd00:1::2", "web1": "fd00:1::3"}
    for pod, address in addresses.items():
        with rtnl(world.netns["n1"]) as ipr:
            index = ipr.link_lookup(ifname=f"v-{pod}")[0]
            ipr.route("replace", dst=f"{address}/128", oif=index, proto=97)
            ipr.neigh("replace", dst=address, lladdr="02:00:00:00:00:02", ifindex=index, state=0x80)
        with rtnl(world.netns[pod]) as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            ipr.addr("replace", index=index, address=address, prefixlen=128, flags=0x02)  # IFA_F_NODAD
            ipr.neigh("replace", dst="fe80::1", lladdr="02:00:00:00:00:01", ifindex=index, state=0x80)
            ipr.route("replace", dst="::/0", gateway="fe80::1", oif=index)
    world.run("n1", sysctl.write, "net.ipv6.conf.all.forwarding", "1")
    world.run("n1", nft.apply, MAPPED_IPV6)
    try:
        start(HostRouting.BPF)
        with world.open("web1", family=socket.AF_INET6) as server:
            server.bind((addresses["web1"], 8086))
            server.listen()

            def call(address: str, port: int) -> int:
                with unhooked(family=socket.AF_INET6) as sock:
                    sock.connect((address, port))
                    accepted, peer = server.accept()
                    with accepted:
                        accepted.sendall(b"hello")
                    assert sock.recv(100) == b"hello"
                return int(peer[1])

            assert is_short(world, lambda: call(addresses["web1"], 8086))
            port = call("fd00:99::1", 80)
        client, web1 = (ip_address(address) for address in addresses.values())
        assert noted(place) == {Ends(socket.IPPROTO_TCP, (client, port), (web1, 8086))}
    finally:
        world.run("n1", nft.delete_table, "ip6", "other")


def test_what_nftables_translates_is_answered_by_the_stack(world, place, start, unhooked) -> None:
    """A client whose socket was told nothing; and then one that was, with the same port."""
    start()
    services = {"web1": destination("web"), "udp": destination("u-web")}
    ports = []
    for _ in range(12):
        with unhooked() as sock:
            sock.connect(services["web1"])
            assert sock.recv(100).split()[1] == CLIENT.encode()
            ports.append(sock.getsockname()[1])
        with unhooked(socket.SOCK_DGRAM) as sock:
            sock.connect(services["udp"])
            for size in (5, 4000):  # one packet, then fragments
                sock.send(b"x" * size)
                assert len(sock.recv(5000)) > size
    assert {ends.one[0] for ends in noted(place)} | {ends.other[0] for ends in noted(place)} >= {
        CLIENT_IP,
        WEB1_IP,
    }
    for port in ports:  # conntrack still has the ends of those that went to web1
        direct(world, port=port)
    assert is_short(world, lambda: direct(world))


def test_a_port_of_the_node_leads_to_a_pod_beside_the_client(world, place, start) -> None:
    world.run("n1", nft.apply, PORT_MAPPING)
    try:
        start(HostRouting.BPF)
        stream = Stream(world, "client", flows.NODES["n1"], HOST_PORT)
        stream.exchange()
        stream.close()
        assert is_short(world, lambda: direct(world))
    finally:
        world.run("n1", nft.delete_table, "inet", "other")


def test_what_the_relay_still_carries_is_answered_by_the_stack_even_if_the_pod_speaks_first(
    world, place, start
) -> None:
    node = start(mode=Mode.USERSPACE)
    stream = Stream(world, "client", *destination("web"))
    streams = [Stream(world, "client", *destination("web")) for _ in range(6)]
    node.switch(Mode.EBPF)
    relayed = [e for e in noted(place) if CLIENT_IP in (e.one[0], e.other[0])]
    assert relayed, "known before it has sent anything since"
    for one in (stream, *streams):
        one.exchange()
        one.close()


def test_a_pod_with_a_limit_keeps_it(world, place, start) -> None:
    start()
    assert is_short(world, lambda: direct(world))
    with rtnl(world.netns["n1"]) as ipr:
        index = ipr.link_lookup(ifname="v-web1")[0]
        ipr.tc("add", "tbf", index, rate=2_000_000, burst=20_000, latency="25ms")
    try:
        eventually(lambda: not is_short(world, lambda: direct(world)))
        with world.open("client") as sock:
            sock.connect((WEB1, flows.PORT))
            began, block = monotonic(), b"x" * 1_000_000
            threading.Thread(target=sock.sendall, args=(block,)).start()
            left = len(block)
            while left > 0:
                left -= len(sock.recv(65536))
            assert monotonic() - began > 0.3, "1 MB at 2 MB/s"
    finally:
        with rtnl(world.netns["n1"]) as ipr:
            ipr.tc("del", "tbf", index, rate=2_000_000, burst=20_000, latency="25ms")
    eventually(lambda: is_short(world, lambda: direct(world)))


def test_a_filter_of_somebody_else_is_obeyed_and_said(world, place, start) -> None:
    node = start()
    open_stream = Stream(world, "client", WEB1, flows.PORT)
    world.run("n1", nft.apply, FILTER)
    try:
        eventually(lambda: "nft chain inet mine forward" in node.datapath.host_routing)
        assert node.datapath.host_routing.startswith("legacy: ")
        with pytest.raises(TimeoutError):
            world.connect("client", WEB1, flows.PORT, timeout=0.3)
    finally:
        world.run("n1", nft.delete_table, "inet", "mine")
    eventually(lambda: node.datapath.host_routing == "bpf")
    open_stream.exchange()
    assert is_short(world, lambda: direct(world))
    open_stream.close()


def test_it_can_be_forbidden_and_insisted_on(world, place, start) -> None:
    world.run("n1", nft.apply, FILTER)
    try:
        node = start(HostRouting.BPF)
        assert is_short(world, lambda: direct(world))
        node.stop(keep=True)
        assert start(HostRouting.LEGACY).datapath.host_routing == "legacy: hostRouting is legacy"
        assert world.run("n1", links.touched) == []
    finally:
        world.run("n1", nft.delete_table, "inet", "mine")


def test_what_the_kernel_lacks_is_named_and_the_mode_works(world, place, start, monkeypatch) -> None:
    monkeypatch.setattr(programs.bpf, "has_helper", lambda _type, number: number != 155)
    node = start()
    assert node.datapath.host_routing == "legacy: the kernel has no bpf_redirect_peer"
    assert visit(world, "client", *destination("web"))[1] == CLIENT


def test_an_address_goes_to_another_pod_while_nobody_of_netplane_is_alive(world, place, start) -> None:
    """Packets follow the address at once: never to the old link, never into nothing."""
    world.netns["first"], world.netns["second"] = new_netns(), new_netns()
    for name in ("first", "second"):
        with rtnl(world.netns[name]) as ipr:
            ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")
    address = "10.244.1.77"
    try:
        _add_pod(world, "first", "n1", address)
        eventually(lambda: is_up(world, "first"))
        node = start()
        with (
            world.open("first", socket.SOCK_DGRAM) as server,
            world.open("client", socket.SOCK_DGRAM) as client,
        ):
            server.bind((address, 9000))
            client.connect((address, 9000))
            client.send(b"one")
            assert server.recv(10) == b"one"
            assert is_short(world, lambda: send(client, b"two"), to="first")
            node.stop(keep=True)
            with rtnl(world.netns["n1"]) as ipr:
                ipr.link("del", index=ipr.link_lookup(ifname="v-first")[0])
            _add_pod(world, "second", "n1", address)
            eventually(lambda: is_up(world, "second"))
            with world.open("second", socket.SOCK_DGRAM) as successor:
                successor.bind((address, 9000))
                client.send(b"three")
                data, peer = successor.recvfrom(10)
                assert data == b"three"
                successor.sendto(b"four", peer)
                assert client.recv(10) == b"four"
                again = start()
                eventually(lambda: is_short(world, lambda: send(client, b"five"), to="second"))
                assert again.datapath.host_routing == "bpf"
    finally:
        with rtnl(world.netns["n1"]) as ipr:
            for name in ("v-first", "v-second"):
                for index in ipr.link_lookup(ifname=name):
                    ipr.link("del", index=index)
        for name in ("first", "second"):
            os.close(world.netns.pop(name))


def test_a_new_pod_is_taken_in(world, place, start) -> None:
    start()
    world.netns["new"] = new_netns()
    try:
        _add_pod(world, "new", "n1", "10.244.1.78")
        eventually(lambda: is_up(world, "new"))
        with (
            world.open("new", socket.SOCK_DGRAM) as server,
            world.open("client", socket.SOCK_DGRAM) as client,
        ):
            server.bind(("10.244.1.78", 9000))
            client.connect(("10.244.1.78", 9000))
            eventually(lambda: is_short(world, lambda: send(client, b"one"), to="new"))
    finally:
        os.close(world.netns.pop("new"))


def test_with_every_process_dead_it_goes_on(world, place, start, unhooked) -> None:
    start().stop(keep=True)
    assert is_short(world, lambda: direct(world))
    with unhooked() as sock:
        sock.connect(destination("web"))
        assert sock.recv(100).split()[1] == CLIENT.encode()


def test_a_full_map_leads_everything_to_the_stack_until_there_is_room(
    world, place, start, unhooked, monkeypatch
) -> None:
    for name in ("LOOK_EVERY", "SWEEP_EVERY"):
        monkeypatch.setattr(shortway, name, 1e9)
    node = start()
    held = bpf.pinned_map(place.paths.bpf_root / f"{programs.PREFIX}{PODS.layout}/translated")
    assert held is not None
    stranger = Ends(socket.IPPROTO_TCP, (CLIENT_IP, 1), (WEB1_IP, 1)).packed
    made_up = {
        n.to_bytes(4, "big") + stranger[4:]: bytes(8)
        for n in range(1, held.max_entries + 1 - len(noted(place)))
    }
    held.put_all(made_up)
    for _ in range(9):
        with unhooked() as sock:
            sock.connect(destination("web"))
            assert sock.recv(100).split()[1] == CLIENT.encode()
    assert not is_short(world, lambda: direct(world)), "not all is written down"
    for name in ("LOOK_EVERY", "SWEEP_EVERY"):
        monkeypatch.setattr(shortway, name, 0.0)
    eventually(lambda: is_short(world, lambda: direct(world)), 60)
    assert not set(made_up) & {key for key, _ in held.items()}
    assert node.datapath.host_routing == "bpf"
    held.close()


def test_a_connection_is_valid_again_when_it_comes_back_to_the_stack(world, place, start) -> None:
    """What conntrack knew of it before is forgotten, so that it is not taken for a forgery."""
    node = start(mode=Mode.NFTABLES)
    stream = Stream(world, "client", WEB1, flows.PORT)
    node.switch(Mode.EBPF)
    for _ in range(100):
        stream.exchange()
    rule = (
        "table inet mine {\n chain f {\n type filter hook forward priority 0;\n ct state invalid drop\n }\n }"
    )
    node.switch(Mode.NFTABLES)
    world.run("n1", nft.apply, rule)
    try:
        node.left()
        stream.exchange()
        stream.close()
    finally:
        world.run("n1", nft.delete_table, "inet", "mine")


def test_of_a_large_table_of_connections_those_between_pods_are_read_and_no_others(world, start) -> None:
    """Whatever was translated of them: the kernel's own entries are held against what is looked for in them."""
    start(mode=Mode.NFTABLES)
    world.run("n1", conntrack.forget_where, lambda _flow: True)
    visit(world, "client", *destination("web"))
    visit(world, "client", WEB1, flows.PORT)
    visit(world, "client", flows.in_version(WEB1, 6), flows.PORT)
    visit(world, "outside", flows.NODES["n1"], 30081)
    pods = {ip_address(address) for pod in ("client", "web1", "web2") for address in flows.addresses_of(pod)}

    def is_between(flow: conntrack.Flow) -> bool:
        ways = [(ip_address(way.source), ip_address(way.destination)) for way in (flow.called, flow.answers)]
        return any(one in pods and other in pods for one, other in ways)

    everything = world.run("n1", conntrack.flows, conntrack.BOTH)
    read = world.run("n1", conntrack.flows, conntrack.BOTH, conntrack.EVERYTHING, between(pods))
    assert {flow.version for flow in read} == {4, 6}
    assert [flow.handle for flow in read] == [flow.handle for flow in everything if is_between(flow)]
    assert len(read) < len(everything)


def test_flows_that_have_ended_are_swept_up(world, place, start, unhooked, monkeypatch) -> None:
    monkeypatch.setattr(shortway, "QUIET", 0.1)
    start()
    for _ in range(9):
        with unhooked() as sock:
            sock.connect(destination("web"))
            sock.recv(100)
    assert noted(place)
    world.run("n1", conntrack.forget_where, lambda _flow: True)
    for name in ("LOOK_EVERY", "SWEEP_EVERY"):
        monkeypatch.setattr(shortway, name, 0.0)
    eventually(lambda: not noted(place))


def test_a_kernel_that_refuses_a_program_leaves_the_mode_working(world, place, start, monkeypatch) -> None:
    def refuse(*_: object) -> bool:
        raise KernelError(
            "cannot attach clsact (CONFIG_NET_SCH_INGRESS) to a pod's link: No such file or directory"
        )

    monkeypatch.setattr(tc, "attach", refuse)
    node = start()
    assert "CONFIG_NET_SCH_INGRESS" in node.datapath.host_routing
    assert visit(world, "client", *destination("web"))[1] == CLIENT


def test_flush_takes_programs_from_links_whose_pins_are_gone(world, place, start) -> None:
    """A BPF file system that was unmounted takes the pins away; a tcx program hangs on its link all the same."""
    node = start()
    node.stop(keep=True)
    assert world.run("n1", links.touched) != []
    for directory in place.paths.bpf_root.iterdir():
        remove_directory(directory)
    place.paths.bpf_root.rmdir()
    said = world.run("n1", lambda: list(flush(place.paths)))
    assert any(line.startswith("the programs at ") for line in said)
    assert world.run("n1", links.touched) == []
