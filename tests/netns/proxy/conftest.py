"""A cluster's worth of network namespaces: two nodes, their pods, and a host outside; nothing of this machine."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import pytest

from netplane.linux import sysctl
from netplane.linux.namespaces import entered_netns, new_netns, socket_in
from netplane.linux.rtnl import rtnl
from proxy.model import IPNetwork, NodeFacts, Snapshot
from proxy.snapshot import build
from proxy.userspace.datapath import UserspaceDataPath
from tests import flows
from tests.bpf_place import BpfPlace, bpf_place
from tests.fakes_datapath import Hosted
from tests.netns.proxy.daemon import NODE_OBJECT, Api, Supervisor

T = TypeVar("T")
GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
WHOLE = {4: 32, 6: 128}  # bits of an address
IP_FREEBIND = 15  # ip(7); also for IPv6
IFA_F_NODAD = 0x02
RTN_LOCAL = 2
PERMANENT = 0x80  # NUD_PERMANENT


@dataclass
class World:
    """The namespaces by name: wire, n1, n2, outside and the pods."""

    netns: dict[str, int] = field(default_factory=dict)
    makers: dict[str, Callable[[int, int, int], socket.socket]] = field(
        default_factory=dict
    )  # of sockets, by name

    def run(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Call something in a namespace, in a thread of its own."""
        box: list[Any] = []

        def call() -> None:
            try:
                with entered_netns(self.netns[name]):
                    box.append((True, function(*arguments)))
            except BaseException as error:
                box.append((False, error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        good, value = box[0]
        if not good:
            raise value
        return value

    def open(self, name: str, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        """A socket in a namespace, with a deadline on everything."""
        sock = self.makers.get(name, socket_in)(self.netns[name], family, kind)
        sock.settimeout(5)
        return sock

    def connect(
        self, name: str, address: str, port: int, *, timeout: float = 5, source: str = ""
    ) -> socket.socket:
        """A TCP connection from a namespace, from this address of it if one is named. Raises OSError."""
        sock = self.open(name, family=FAMILIES[ip_address(address).version])
        sock.settimeout(timeout)
        try:
            if source:
                sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
                sock.bind((source, 0))
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock


def _veth(world: World, one: str, one_name: str, other: str, other_name: str) -> tuple[int, int]:
    with rtnl(world.netns[one]) as ipr:
        ipr.link(
            "add", ifname=one_name, kind="veth", peer={"ifname": other_name, "net_ns_fd": world.netns[other]}
        )
        return ipr.link_lookup(ifname=one_name)[0], _index(world, other, other_name)


def _index(world: World, name: str, link: str) -> int:
    with rtnl(world.netns[name]) as ipr:
        return ipr.link_lookup(ifname=link)[0]


def _up(world: World, name: str) -> None:
    with rtnl(world.netns[name]) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")


def _attach_to_wire(world: World, name: str, *addresses: str) -> None:
    port, inner = _veth(world, "wire", f"p-{name}", name, "eth0")
    with rtnl(world.netns["wire"]) as ipr:
        ipr.link("set", index=port, master=ipr.link_lookup(ifname="br0")[0], state="up")
    with rtnl(world.netns[name]) as ipr:
        ipr.link("set", index=inner, state="up")
        for address in addresses:
            prefix = {4: 24, 6: 64}[ip_address(address).version]
            ipr.addr("add", index=inner, address=address, prefixlen=prefix, flags=IFA_F_NODAD)


def _add_pod(world: World, pod: str, node: str, *addresses: str) -> None:
    """As the CNI plugin does."""
    outer, inner = _veth(world, node, f"v-{pod}", pod, "eth0")
    outer_mac, inner_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"
    with rtnl(world.netns[pod]) as ipr:
        ipr.link("set", index=inner, state="up", address=inner_mac)
    with rtnl(world.netns[node]) as ipr:
        ipr.link("set", index=outer, state="up", address=outer_mac)
    for address in addresses:
        version = ip_address(address).version
        bits, gateway, six = WHOLE[version], GATEWAYS[version], version == 6
        with rtnl(world.netns[pod]) as ipr:
            ipr.addr("add", index=inner, address=address, prefixlen=bits, flags=IFA_F_NODAD)
            ipr.neigh("add", dst=gateway, lladdr=outer_mac, ifindex=inner, state=PERMANENT)
            if not six:
                ipr.route("add", dst=f"{gateway}/32", oif=inner, scope=253)
            ipr.route("add", dst="::/0" if six else "0.0.0.0/0", gateway=gateway, oif=inner)
        with rtnl(world.netns[node]) as ipr:
            ipr.route("add", dst=f"{address}/{bits}", oif=outer, proto=97, **({} if six else {"scope": 253}))
            ipr.neigh("add", dst=address, lladdr=inner_mac, ifindex=outer, state=PERMANENT)
    world.run(pod, sysctl.write, "net.ipv4.ip_local_port_range", "30000 60999")


def _lead(world: World, name: str, network: str, to: str) -> None:
    """Routes for a network and its partner, by way of that node."""
    with rtnl(world.netns[name]) as ipr:
        for version, gateway in zip(flows.VERSIONS, flows.addresses_of(to), strict=True):
            ipr.route("add", dst=flows.in_version(network, version), gateway=gateway)


def build_world() -> World:
    """All namespaces, linked as `tests/flows.py` says; the caller closes the descriptors."""
    world = World()
    for name in ("wire", *flows.NODES, "outside", *flows.PODS):
        world.netns[name] = new_netns()
        world.run(name, sysctl.write, "net.ipv6.conf.default.accept_dad", "0")  # addresses are good at once
        for limit in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
            world.run(name, sysctl.write, limit, "0")  # every refusal is heard, not one a second
        _up(world, name)
    with rtnl(world.netns["wire"]) as ipr:
        ipr.link("add", ifname="br0", kind="bridge")
        ipr.link("set", index=ipr.link_lookup(ifname="br0")[0], state="up")
    for name in (*flows.NODES, "outside"):
        four, six = flows.addresses_of(name)
        second = [flows.in_version(flows.SECOND, v) for v in flows.VERSIONS] if name == "n1" else []
        # Where nobody says which, Linux takes the first one of IPv4, and of IPv6 the last.
        _attach_to_wire(world, name, four, *second, six)
    for node in flows.NODES:
        world.run(node, sysctl.write, "net.ipv4.ip_forward", "1")
        world.run(node, sysctl.write, "net.ipv6.conf.all.forwarding", "1")
    for pod, (node, _) in flows.PODS.items():
        _add_pod(world, pod, node, *flows.addresses_of(pod))
    for node, other in (("n1", "n2"), ("n2", "n1"), ("outside", "n1")):
        _lead(world, node, flows.POD_CIDRS[other], other)
    for network in flows.EXTERNAL_NETWORKS:
        for name in ("outside", "n2"):
            _lead(world, name, network, "n1")
    _lead(world, "outside", flows.SECOND_NETWORK, "n1")
    _lead(world, "n1", flows.STRANGERS, "outside")
    with rtnl(world.netns["outside"]) as ipr:
        for version in flows.VERSIONS:
            network, lo = flows.in_version(flows.STRANGERS, version), ipr.link_lookup(ifname="lo")[0]
            ipr.route("add", dst=network, oif=lo, type=RTN_LOCAL, table=255, scope=254)
    return world


def plain(address: str) -> str:
    """An address as a socket for both IP versions has it, without the sign that it is of IPv4."""
    return address.removeprefix("::ffff:")


class Echo:
    """A pod's server, TCP and UDP, IPv4 and IPv6: says who it is and whom it sees, then sends back what it gets."""

    def __init__(self, world: World, name: str, port: int = flows.PORT) -> None:
        self.name = name
        self.listener = world.open(name, family=socket.AF_INET6)
        self.listener.settimeout(None)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("::", port))
        self.listener.listen(512)
        self.datagrams = world.open(name, socket.SOCK_DGRAM, socket.AF_INET6)
        self.datagrams.settimeout(None)
        self.datagrams.bind(("::", port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._answerer = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        self._answerer.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock, plain(peer[0])), daemon=True).start()

    def _serve(self, sock: socket.socket, peer: str) -> None:
        with sock, contextlib.suppress(OSError):
            sock.sendall(f"{self.name} {peer}\n".encode())
            while data := sock.recv(65536):
                sock.sendall(data)

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.datagrams.recvfrom(65536)
                if self.listener.fileno() < 0:
                    return
                self.datagrams.sendto(f"{self.name} {plain(peer[0])} {peer[1]}\n".encode() + data, peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with contextlib.suppress(OSError):
            self.datagrams.shutdown(socket.SHUT_RDWR)  # wakes the reader, though it says ENOTCONN
        self._thread.join()
        self._answerer.join()
        self.datagrams.close()


class Running(Hosted):
    """A userspace data path in node n1."""

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(lambda: UserspaceDataPath(**options), world.netns["n1"])

    @property
    def worker(self) -> Any:
        """The one that carries the traffic, in this process."""
        return self.datapath.carrier

    def sync(self, services: list[Any], slices: list[Any], facts: NodeFacts | None = None) -> Any:
        return self.call(self.datapath.sync(snapshot(services, slices, facts)))


def node(*versions: int, node_port_network: str = "") -> NodeFacts:
    """What n1's data path knows of it, with IPv4 alone where no version is named."""

    def networks(text: str) -> tuple[IPNetwork, ...]:
        return tuple(ip_network(flows.in_version(text, version)) for version in versions or (4,))

    return NodeFacts(
        name="n1",
        addresses=tuple(network.network_address for network in networks(flows.NODES["n1"])),
        pod_cidrs=networks(flows.POD_CIDRS["n1"]),
        cluster_cidrs=networks("10.244.0.0/16"),
        service_cidrs=networks("10.96.0.0/12"),
        node_port_networks=networks(node_port_network) if node_port_network else (),
    )


def snapshot(services: list[Any], slices: list[Any], facts: NodeFacts | None = None) -> Snapshot:
    return build(services, slices, facts or node())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = build_world()
    echoes = [Echo(made, pod) for pod in (*flows.PODS, *flows.NODES) if pod != "client"]
    yield made
    for echo in echoes:
        echo.close()
    for descriptor in made.netns.values():
        os.close(descriptor)


@pytest.fixture
def place(world: World) -> Iterator[BpfPlace]:
    """The node's cgroup, in which its clients are, and a place for what ebpf mode pins."""
    from tests.netns.proxy.flows import HERE

    with bpf_place() as made:
        world.makers.update(dict.fromkeys(HERE, made.open))
        yield made
        world.makers.clear()


@pytest.fixture(scope="session")
def running_class() -> type[Running]:
    """For tests that share one data path in a module."""
    return Running


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., Running]]:
    """Make data paths in n1; those still running at the end are removed with every trace."""
    running: list[Running] = []

    def make(**options: Any) -> Running:
        running.append(Running(world, **options))
        return running[-1]

    yield make
    for one in running:
        if one.alive:
            one.stop()


@pytest.fixture
def api(world) -> Iterator[Api]:
    made = Api(world)
    for service in flows.SERVICES[:3]:
        made.put("services", service)
    for item in flows.SLICES[:3]:
        made.put("endpointslices", item)
    made.put("nodes", NODE_OBJECT)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def supervisor(world, api, tmp_path, start) -> Iterator[Supervisor]:
    start()  # so that every trace in n1 is removed at the end
    made = Supervisor(world, tmp_path)
    made.start()
    yield made
    made.close()
