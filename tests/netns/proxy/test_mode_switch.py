"""The mode of a running node is switched, and clients notice nothing: every ordered pair, in a real kernel."""

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from netplane.config import Paths
from netplane.linux import conntrack, nft
from netplane.linux.nfnetlink import Tables
from netplane.linux.rtnl import rtnl
from proxy import modes, routes
from proxy.ebpf.hostrouting import links
from proxy.ebpf.hostrouting.deciding import HostRouting
from proxy.ebpf.pins import HOOKS, missing_hooks
from proxy.flush import flush
from proxy.modes import Forwarding, Mode
from proxy.userspace.datapath import UserspaceDataPath
from tests import flows
from tests.bpf_place import BpfPlace
from tests.fakes_datapath import Hosted
from tests.netns.proxy.conftest import snapshot
from tests.netns.proxy.flows import ask, destination, visit

pytestmark = pytest.mark.netns
HOST_PORT = 31234
# As the CNI plugin leads a port of the node to a pod.
PORT_MAPPING = f"""
table inet other {{
  chain prerouting {{ type nat hook prerouting priority dstnat;
    ip daddr {flows.NODES["n1"]} tcp dport {HOST_PORT} dnat ip to {flows.ADDRESSES["web1"]}:{flows.PORT}
  }}
}}
"""


class Switching(Hosted):
    """A node's forwarding with its task of leaving modes behind."""

    def __init__(
        self,
        world,
        mode: Mode,
        paths: Paths | None = None,
        routing: HostRouting = HostRouting.BPF,  # whatever chains of others a test makes
    ) -> None:
        super().__init__(lambda: Forwarding(mode, UserspaceDataPath(), paths, routing), world.netns["n1"])
        self.call(self.datapath.sync(snapshot(flows.SERVICES, flows.SLICES)))
        work = (self.datapath.leave_behind(), self.datapath.tend())
        self._tasks = [asyncio.run_coroutine_threadsafe(one, self._loop) for one in work]

    def switch(self, mode: Mode) -> str:
        return str(self.call(self.datapath.switch(mode)))

    def left(self) -> None:
        """Until nothing of other modes is needed any more."""
        end = monotonic() + 20
        while self.datapath.leaving:
            assert monotonic() < end, f"still there: {self.datapath.leaving}"
            sleep(0.05)

    def stop(self, *, keep: bool = False) -> None:
        for task in self._tasks:
            task.cancel()
        super().stop(keep=keep)


class Stream:
    """A connection that goes on; every exchange is checked."""

    def __init__(self, world, source: str, address: str, port: int) -> None:
        self.sock = world.connect(source, address, port)
        self.stream = self.sock.makefile("rb")
        self.stream.readline()

    def exchange(self) -> None:
        self.sock.sendall(b"x" * 1000)
        assert self.stream.read(1000) == b"x" * 1000

    def close(self) -> None:
        self.stream.close()
        self.sock.close()


class Steady:
    """New connections one after the other, TCP and UDP, until stopped; none may fail."""

    def __init__(self, world, *sources: str) -> None:
        self.failures: list[str] = []
        self.count = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(world, source)) for source in sources]
        for thread in self._threads:
            thread.start()

    def _run(self, world, source: str) -> None:
        address, port = destination("all")
        udp_address, udp_port = destination("u-all")
        if source == "outside":
            address, port = udp_address, udp_port = flows.NODES["n1"], 30081
        while not self._over.is_set():
            try:
                visit(world, source, address, port)
                ask(world, source, udp_address, udp_port)
                self.count += 1
            except (OSError, ValueError, AssertionError) as error:
                self.failures.append(f"{source}: {error!r}")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "LEAVING_EVERY", 0.1)


@pytest.fixture
def mapped(world) -> Iterator[None]:
    world.run("n1", nft.apply, PORT_MAPPING)
    yield
    world.run("n1", nft.delete_table, "inet", "other")


def traces(world, place: BpfPlace | None = None) -> set[str]:
    """What of any mode n1 has."""

    def look() -> set[str]:
        with Tables() as tables:
            names = ("netplane_proxy", "netplane_services")
            found = {name for name in names if tables.has_table("inet", name)}
        with rtnl() as ipr:
            found |= {
                "rule" for rule in ipr.get_rules(family=socket.AF_INET) if rule.get_attr("FRA_PRIORITY") == 91
            }
        found |= {"short way"} if links.touched() else set()
        return found

    hooks = set(HOOKS) - set(missing_hooks(place.cgroup)) if place is not None else set()
    return world.run("n1", look) | ({"hooks"} if hooks else set())


OWN = {
    Mode.USERSPACE: {"netplane_proxy", "rule"},
    Mode.NFTABLES: {"netplane_services"},
    Mode.EBPF: {"netplane_services", "hooks", "short way"},
}


def answered(sock: socket.socket) -> None:
    """A UDP socket that its program keeps, as resolvers do."""
    sock.send(b"hello")
    assert sock.recv(100).startswith(b"web")


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(OWN, 2)), ids=str)
def test_nothing_is_cut_and_nothing_fails(world, quick, mapped, place, before: Mode, after: Mode) -> None:
    node = Switching(world, before, place.paths)
    steady = Steady(world, "client", "n1", "outside")
    asking = world.open("client", socket.SOCK_DGRAM)
    try:
        asking.connect(destination("u-web"))
        answered(asking)
        streams = [
            Stream(world, "client", *destination("web")),
            Stream(world, "n1", *destination("web")),
            Stream(world, "outside", flows.NODES["n1"], 30081),
            Stream(world, "outside", flows.NODES["n1"], HOST_PORT),
            Stream(world, "client", flows.NODES["n1"], HOST_PORT),
            Stream(world, "client", flows.ADDRESSES["web1"], flows.PORT),
        ]
        assert f"mode {after} serves" in node.switch(after)
        until = monotonic() + 1.5
        while monotonic() < until:
            answered(asking)
            for stream in streams:
                stream.exchange()
        steady.stop()
        assert steady.failures == []
        assert steady.count > 20
        carries = OWN[before] - OWN[Mode.EBPF] if before is Mode.EBPF else OWN[before]
        assert traces(world, place) >= carries | OWN[after], "the old mode carries what it had"
        for stream in streams:
            stream.exchange()
            stream.close()
        world.run("n1", conntrack.forget_where, lambda _flow: True)  # sooner than they end by themselves
        node.left()
        answered(asking)
        assert traces(world, place) == OWN[after]
        assert visit(world, "client", *destination("web"))[1] == flows.ADDRESSES["client"]
    finally:
        asking.close()
        steady.stop()
        node.stop()


def test_the_relay_is_whole_when_it_is_taken_back(world, quick) -> None:
    """Its rules went with its last connection, whether or not these Services ask for any of their own."""
    node = Switching(world, Mode.USERSPACE)
    try:
        node.call(node.datapath.sync(snapshot([flows.service("web", "10.96.0.10")], flows.SLICES[:1])))
        for mode in (Mode.NFTABLES, Mode.USERSPACE):
            node.switch(mode)
            world.run("n1", conntrack.forget_where, lambda _flow: True)  # sooner than they end by themselves
            node.left()
            assert visit(world, "client", *destination("web"))[1] == flows.ADDRESSES["client"]
        assert traces(world) == OWN[Mode.USERSPACE]
    finally:
        node.stop()


def test_a_port_of_another_runtime_does_not_keep_the_table(world, quick) -> None:
    """What others translate lives with their own chains: `netplane status` would say "leaving" for as long."""
    node = Switching(world, Mode.NFTABLES)
    world.run("n1", nft.apply, PORT_MAPPING.replace(str(HOST_PORT), "8443"))
    stream = Stream(world, "outside", flows.NODES["n1"], 8443)
    try:
        node.switch(Mode.USERSPACE)
        node.left()
        stream.exchange()
        assert traces(world) == OWN[Mode.USERSPACE]
    finally:
        stream.close()
        node.stop()
        world.run("n1", nft.delete_table, "inet", "other")


def test_a_switch_back_before_the_old_mode_has_left(world, quick, place) -> None:
    node = Switching(world, Mode.NFTABLES, place.paths)
    try:
        stream = Stream(world, "client", *destination("web"))
        for mode in (Mode.USERSPACE, Mode.EBPF, Mode.NFTABLES, Mode.USERSPACE, Mode.EBPF, Mode.NFTABLES):
            node.switch(mode)
            stream.exchange()
            visit(world, "client", *destination("web"))
        node.left()
        stream.exchange()
        stream.close()
        assert traces(world, place) == OWN[Mode.NFTABLES]
        assert "already" in node.switch(Mode.NFTABLES)
    finally:
        node.stop()


def test_a_mode_that_cannot_serve_is_not_switched_to(world, monkeypatch: pytest.MonkeyPatch) -> None:
    from netplane.errors import KernelError
    from proxy.nftables import datapath

    def refuse(_script: str) -> None:
        raise KernelError("cannot change nftables: Error: Could not process rule: No such file or directory")

    node = Switching(world, Mode.USERSPACE)
    try:
        monkeypatch.setattr(datapath.nft, "apply", refuse)
        with pytest.raises(KernelError, match="cannot load nft table inet netplane_services"):
            node.switch(Mode.NFTABLES)
        assert node.datapath.name == "userspace"
        visit(world, "client", *destination("web"))
        monkeypatch.undo()
    finally:
        node.stop()


def test_a_process_that_starts_in_another_mode_takes_the_old_one_away(world, quick) -> None:
    first = Switching(world, Mode.NFTABLES)
    stream = Stream(world, "client", *destination("web"))
    first.stop(keep=True)
    second = Switching(world, Mode.USERSPACE)
    try:
        until = monotonic() + 1.5
        while monotonic() < until:
            stream.exchange()
            visit(world, "client", *destination("web"))
        stream.close()
        world.run("n1", conntrack.forget_where, lambda _flow: True)
        second.left()
        assert traces(world) == OWN[Mode.USERSPACE]
    finally:
        second.stop()


@pytest.mark.parametrize("mode", OWN, ids=str)
def test_flush_takes_every_trace_of_a_stopped_proxy(world, place, mode: Mode) -> None:
    node = Switching(world, mode, place.paths)
    visit(world, "client", *destination("web"))
    node.stop(keep=True)
    assert traces(world, place) >= OWN[mode]
    said = world.run("n1", lambda: list(flush(place.paths)))
    assert any("local routes of 10.96.0.0/12" in line for line in said)
    assert traces(world, place) == set()
    assert world.run("n1", routes.routed) == []
    assert world.run("n1", lambda: list(flush(place.paths))) == [], "there is nothing left to be said"
