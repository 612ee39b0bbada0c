"""Data paths by mode, serving the table of flows in node n1; and clients that look at them from all sides."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

from netplane.config import Paths
from proxy.datapath import DataPath
from proxy.modes import Forwarding, Mode
from proxy.userspace.datapath import UserspaceDataPath
from tests import flows
from tests.bpf_place import bpf_place
from tests.fakes_datapath import Hosted
from tests.netns.proxy.conftest import FAMILIES, IP_FREEBIND, World, node, snapshot

DATA_PATHS: dict[str, Callable[[Paths], DataPath]] = {
    flows.USERSPACE: lambda _: UserspaceDataPath(),
    flows.NFTABLES: lambda _: Forwarding(Mode.NFTABLES, UserspaceDataPath()),
    flows.EBPF: lambda paths: Forwarding(Mode.EBPF, UserspaceDataPath(), paths),
}
HERE = ("n1", *(pod for pod, (node, _) in flows.PODS.items() if node == "n1"))  # what runs on this node


@contextmanager
def serving(world: World, mode: str) -> Iterator[Hosted]:
    """A data path that has the table's Services, beside a node agent that must not be met through any of them."""
    with ExitStack() as left:
        paths = Paths()
        if mode == flows.EBPF:
            place = left.enter_context(bpf_place())
            paths = place.paths
            left.callback(world.makers.clear)
            world.makers.update(dict.fromkeys(HERE, place.open))
        hosted = Hosted(lambda: DATA_PATHS[mode](paths), world.netns["n1"])
        left.callback(hosted.stop)
        serve_table(hosted)
        with (
            world.open("n1", family=socket.AF_INET6) as agent_tcp,
            world.open("n1", socket.SOCK_DGRAM, socket.AF_INET6) as agent_udp,
        ):
            agent_tcp.bind(("::", flows.NODE_AGENT_PORT))  # IPv4 as well
            agent_tcp.listen()
            agent_udp.bind(("::", flows.NODE_AGENT_PORT))
            yield hosted


def serve_table(hosted: Hosted, node_port_network: str = "") -> None:
    """Have the table's Services served, by NodePort on addresses of that network only where one is named."""
    facts = node(*flows.VERSIONS, node_port_network=node_port_network)
    want = snapshot(flows.DUAL_SERVICES, flows.DUAL_SLICES, facts)
    report = hosted.call(hosted.datapath.sync(want))
    assert report.unserved == ()


def destination(to: str, version: int = 4) -> tuple[str, int]:
    """Where a row of the table leads."""
    if ":" in to:
        address, _, port = to.rpartition(":")
        return flows.in_version(address, version), int(port)
    found = next(s for s in flows.SERVICES if s["metadata"]["name"] == to)
    return flows.in_version(found["spec"]["clusterIP"], version), found["spec"]["ports"][0]["port"]


def visit(world, where: str, address: str, port: int, *, source: str = "") -> tuple[str, str]:
    """One connection, from a certain address if need be: who answered, whom it saw; bytes must come back both ways."""
    with world.connect(where, address, port, source=source) as sock:
        stream = sock.makefile("rb")
        name, seen = stream.readline().decode().split()
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b"hello"
    return name, seen


def ask(
    world, where: str, address: str, port: int, timeout: float = 2, *, source: str = ""
) -> tuple[str, str]:
    """The same by one datagram, from a socket of its own."""
    with world.open(where, socket.SOCK_DGRAM, FAMILIES[ip_address(address).version]) as sock:
        sock.settimeout(timeout)
        if source:
            sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            sock.bind((source, 0))
        sock.connect((address, port))  # so an answer from any other address would not be heard
        sock.send(b"hello")
        head, _, body = sock.recv(100).partition(b"\n")
        assert body == b"hello"
        name, seen, _ = head.decode().split()
    return name, seen
