"""Sockets of a node told endpoints, in a real kernel: programs attached to a cgroup made for the test."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from time import monotonic, sleep
from typing import Any

import pytest

from netplane.errors import KernelError
from netplane.linux import bpf
from netplane.linux.rtnl import rtnl
from netplane.linux.sockdiag import Sockets
from proxy.ebpf import pins, sockets
from proxy.ebpf.datapath import EbpfDataPath, Ending
from proxy.ebpf.routes import Route
from proxy.ebpf.tables import Tables
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Snapshot, Target
from tests import flows
from tests.bpf_place import BpfPlace, bpf_place
from tests.fakes_datapath import Hosted, MemoryDataPath

pytestmark = pytest.mark.netns
TCP, UDP = Protocol.TCP, Protocol.UDP
WEB1, WEB2 = flows.ADDRESSES["web1"], flows.ADDRESSES["web2"]
N1 = flows.NODES["n1"]
NODE = NodeFacts("n1", (ip_address(N1),))


@pytest.fixture(scope="module")
def place() -> Iterator[BpfPlace]:
    with bpf_place() as made:
        yield made


@pytest.fixture
def path(world, place: BpfPlace) -> Iterator[Hosted]:
    hosted = hosted_at(world, place)
    yield hosted
    if hosted.alive:
        hosted.stop()


@pytest.fixture
def open_socket(world, place: BpfPlace) -> Iterator[Callable[..., socket.socket]]:
    """A socket of a process of node n1 (its pods' included), closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(where: str, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
            sock = stack.enter_context(place.open(world.netns[where], family, kind))
            sock.settimeout(3)
            return sock

        yield make


def hosted_at(world, place: BpfPlace) -> Hosted:
    return Hosted(lambda: EbpfDataPath(MemoryDataPath(), **place.options), world.netns["n1"])


def frontend(address: str, port: int = 80, protocol: Protocol = TCP) -> Frontend:
    return Frontend(ip_address(address), port, protocol)


def target(*addresses: str, name: str = "web", port: int = flows.PORT, **more: Any) -> Target:
    pool = Pool(tuple(Endpoint(ip_address(address), port) for address in addresses))
    return Target(ServicePort("default", name, "80"), pool, pool, **more)


def want(targets: dict[Frontend, Target]) -> Snapshot:
    return Snapshot(NODE, targets, revision=1)


def greeting(sock: socket.socket) -> tuple[str, str]:
    """Who answered, and whose address it saw."""
    name, seen = sock.makefile("rb").readline().decode().split()
    return name, seen


def test_a_pod_connects_to_an_endpoint_and_believes_it_is_the_service(path, open_socket) -> None:
    path.call(path.datapath.sync(want({frontend("10.96.0.10"): target(WEB1, WEB2)})))
    answers = []
    for _ in range(6):
        sock = open_socket("client")
        sock.connect(("10.96.0.10", 80))
        assert sock.getpeername() == ("10.96.0.10", 80)
        answers.append(greeting(sock))
    assert {name for name, _ in answers} == {"web1", "web2"}
    assert {seen for _, seen in answers} == {flows.ADDRESSES["client"]}


def test_connections_can_be_asked_for_while_services_are_filled_in(path) -> None:
    """A metrics page comes when it comes: also in the second in which a process begins."""
    many = {frontend(f"10.97.{n // 200}.{n % 200 + 1}"): target(WEB1, name=f"s{n}") for n in range(1000)}

    async def ask_meanwhile() -> int:
        async with asyncio.TaskGroup() as tasks:
            syncing = tasks.create_task(path.datapath.sync(want(many)))
            while not syncing.done():
                path.datapath.connections()
                await asyncio.sleep(0)
        return len(path.datapath.connections())

    assert path.call(ask_meanwhile()) == 1000


def test_connections_end_while_services_come_and_go(path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that asks whether another frontend still leads to an endpoint finds the answer standing still."""
    look = Tables.lacks

    def look_slowly(self: Tables, *lost: Any) -> bool:
        before = self.routes
        sleep(0.02)
        assert self.routes == before
        return look(self, *lost)

    monkeypatch.setattr(Tables, "lacks", look_slowly)
    path.call(path.datapath.sync(want({})))

    async def change() -> None:
        for number in range(50):
            await path.datapath.sync(want({frontend(f"10.98.0.{number + 1}"): target(WEB1)}))
            await asyncio.sleep(0.001)

    async def end_meanwhile() -> None:
        async with asyncio.TaskGroup() as tasks:
            changing = tasks.create_task(change())
            while not changing.done():
                path.datapath._endings.append(Ending(TCP, 0.0, {(1, ip_address(WEB2), 1)}))
                await path.datapath.end_due()
                await asyncio.sleep(0)

    path.call(end_meanwhile())


def test_only_processes_of_the_node_are_told(path, world) -> None:
    path.call(path.datapath.sync(want({frontend("10.96.0.10"): target(WEB1)})))
    with pytest.raises(OSError, match=r"timed out|unreachable"):
        world.connect("client", "10.96.0.10", 80, timeout=0.2)


def test_an_unconnected_socket_hears_the_service_and_stays_with_an_endpoint(path, open_socket) -> None:
    service = frontend("10.96.0.10", 53, UDP)
    path.call(path.datapath.sync(want({service: target(WEB1, WEB2)})))
    sock = open_socket("client", socket.SOCK_DGRAM)
    heard = set()
    for _ in range(6):
        sock.sendto(b"hello", ("10.96.0.10", 53))
        data, peer = sock.recvfrom(100)
        assert peer == ("10.96.0.10", 53)
        heard.add(data.split()[0])
    assert len(heard) == 1, "one conversation"
    other = {b"web1": WEB2, b"web2": WEB1}[next(iter(heard))]
    path.call(path.datapath.sync(want({service: target(other)})))
    sock.sendto(b"hello", ("10.96.0.10", 53))
    assert sock.recvfrom(100)[0].split()[0] not in heard, "its endpoint has gone: another at once"


def test_dual_stack_sockets_are_told_too(path, open_socket) -> None:
    both = {frontend("10.96.0.10"): target(WEB1), frontend("10.96.0.10", 53, UDP): target(WEB1)}
    path.call(path.datapath.sync(want(both)))
    sock = open_socket("client", family=socket.AF_INET6)
    sock.connect(("::ffff:10.96.0.10", 80))
    assert greeting(sock)[0] == "web1"
    assert sock.getpeername()[:2] == ("::ffff:10.96.0.10", 80)
    sock = open_socket("client", socket.SOCK_DGRAM, socket.AF_INET6)
    sock.sendto(b"hello", ("::ffff:10.96.0.10", 53))
    assert sock.recvfrom(100)[1][:2] == ("::ffff:10.96.0.10", 53)


def test_node_ports_are_at_the_nodes_addresses_and_loopback_is_its_own(path, open_socket) -> None:
    path.call(path.datapath.sync(want({frontend("0.0.0.0", 30080): target(WEB1)})))
    for source, address in (("client", N1), ("n1", N1), ("n1", "127.0.0.1"), ("n1", "0.0.0.0")):
        sock = open_socket(source)
        sock.connect((address, 30080))
        assert greeting(sock)[0] == "web1"
    with pytest.raises(ConnectionRefusedError):
        open_socket("client").connect(("127.0.0.1", 30080))


def test_ipv6_and_node_ports_on_its_loopback(path, world, open_socket) -> None:
    for where, address in (("n1", "fd00:77::11"), ("web1", "fd00:1::3"), ("client", "fd00:1::2")):
        with rtnl(world.netns[where]) as ipr:
            index = ipr.link_lookup(ifname="lo" if where == "n1" else "eth0")[0]
            ipr.addr("replace", index=index, address=address, prefixlen=128, flags=0x02)  # IFA_F_NODAD
    with world.open("web1", family=socket.AF_INET6) as server:
        server.bind(("fd00:1::3", 8086))
        server.listen()
        six = target("fd00:1::3", port=8086)
        path.call(path.datapath.sync(want({frontend("fd00:96::1"): six, frontend("::", 30086): six})))
        sock = open_socket("web1", family=socket.AF_INET6)
        sock.connect(("fd00:96::1", 80))
        assert sock.getpeername()[:2] == ("fd00:96::1", 80)
        sock = open_socket("n1", family=socket.AF_INET6)
        sock.settimeout(0.2)
        with pytest.raises(OSError, match=r"timed out|unreachable"):  # told, but nothing here routes to it
            sock.connect(("::1", 30086))


def test_no_endpoint_is_refused_at_once(path, open_socket) -> None:
    path.call(path.datapath.sync(want({frontend("10.96.0.10"): target()})))
    with pytest.raises(ConnectionRefusedError):
        open_socket("client").connect(("10.96.0.10", 80))


def test_affinity_holds_for_its_time_and_no_longer_than_its_endpoint(path, open_socket) -> None:
    service = frontend("10.96.0.10")
    everybody = target(*sorted((WEB1, WEB2, flows.ADDRESSES["remote"])), affinity=100)
    path.call(path.datapath.sync(want({service: everybody})))

    def visit() -> str:
        sock = open_socket("client")
        sock.connect(("10.96.0.10", 80))
        return greeting(sock)[0]

    first = visit()
    assert {visit() for _ in range(6)} == {first}
    choices = path.datapath._tables.maps["choices"]

    def visit_after_its_time() -> str:
        ((key, value),) = choices.items()
        choices.put(key, value[:24] + bytes(8))  # last seen when the machine started
        return visit()

    assert len({visit_after_its_time() for _ in range(12)}) > 1, "it takes turns again"
    kept = visit()
    assert {visit() for _ in range(6)} == {kept}
    left = [flows.ADDRESSES[name] for name in ("web1", "web2", "remote") if name != kept]
    path.call(path.datapath.sync(want({service: target(*sorted(left), affinity=100)})))
    assert visit() != kept


def test_connections_are_counted_by_service(path, open_socket) -> None:
    path.call(path.datapath.sync(want({frontend("10.96.0.10"): target(WEB1)})))
    for _ in range(5):
        open_socket("client").connect(("10.96.0.10", 80))
    assert path.datapath._tables.connections() == {(ServicePort("default", "web", "80"), TCP): 5}


def test_nobody_meets_half_a_change(path, open_socket, world, place) -> None:
    """Endpoints are replaced thousands of times a second; every connection finds one of either set."""
    service = frontend("10.96.0.10")
    sets = (target(WEB1), target(WEB1, WEB2))
    path.call(path.datapath.sync(want({service: sets[0]})))
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path.call(path.datapath.sync(want({service: sets[number % 2]})))

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(400):
            with place.open(world.netns["client"], socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(3)
                sock.connect(("10.96.0.10", 80))
    finally:
        stop.set()
        writer.join()


def test_forwarding_goes_on_without_us_and_the_next_process_changes_only_what_differs(
    world, place, path, open_socket
) -> None:
    wanted = want({frontend("10.96.0.10"): target(WEB1), frontend("10.96.0.11"): target(WEB2, name="b")})
    path.call(path.datapath.sync(wanted))
    path.stop(keep=True)
    sock = open_socket("client")
    sock.connect(("10.96.0.10", 80))
    assert greeting(sock)[0] == "web1"
    following = hosted_at(world, place)
    changed = replace(wanted, targets={**wanted.targets, frontend("10.96.0.11"): target(WEB1, name="b")})
    following.call(following.datapath.sync(changed))
    counted = following.datapath._tables.connections()
    assert counted[ServicePort("default", "web", "80"), TCP] == 1, "the maps are those of before"
    assert following.call(following.datapath.observe()) == changed.targets
    following.stop()


def test_every_trace_goes(world, place, path) -> None:
    path.call(path.datapath.sync(want({frontend("10.96.0.10"): target(WEB1)})))
    assert pins.missing_hooks(place.cgroup) == []
    path.stop(keep=False)
    assert pins.missing_hooks(place.cgroup) == list(pins.HOOKS)
    assert not place.mount.exists()


def test_a_hook_taken_away_is_noticed_and_put_back(path, place) -> None:
    wanted = want({frontend("10.96.0.10"): target(WEB1)})
    path.call(path.datapath.sync(wanted))
    bpf.detach(place.pins.links / "connect4")
    assert path.call(path.datapath.observe()) == {}, "the kernel is asked, and not memory"
    path.datapath._mended_at = -1e9  # as if half a minute had passed
    assert path.call(path.datapath.sync(wanted)).done == ("the hooks connect4",)
    assert path.call(path.datapath.observe()) == wanted.targets


def test_an_entry_changed_by_another_is_noticed_by_a_look(path, place) -> None:
    wanted = want({frontend("10.96.0.10"): target(WEB1), frontend("10.96.0.11"): target(WEB1)})
    path.call(path.datapath.sync(wanted))
    maps = place.pins.open_maps()
    (key, *_) = [key for key, _ in maps["frontends"].items()]
    maps["frontends"].delete(key)
    for one in maps.values():
        one.close()
    assert len(path.call(path.datapath.observe())) == 1
    assert path.call(path.datapath.sync(wanted, look=True)).done == ("1 frontends in the maps",)
    assert path.call(path.datapath.observe()) == wanted.targets
    assert path.call(path.datapath.sync(wanted, look=True)).done == ()


def test_conversations_with_a_removed_endpoint_end(path, place, open_socket) -> None:
    """A UDP socket at once, a TCP one where the Service asks for it; others, and direct ones, go on."""
    udp, polite, strict = frontend("10.96.0.10", 53, UDP), frontend("10.96.0.10"), frontend("10.96.0.11")
    both = {udp: target(WEB1), polite: target(WEB1), strict: target(WEB1, name="strict", drain=0)}
    path.call(path.datapath.sync(want(both)))
    asked = open_socket("client", socket.SOCK_DGRAM)
    asked.connect(("10.96.0.10", 53))
    ends, goes_on, direct = (open_socket("client") for _ in range(3))
    ends.connect(("10.96.0.11", 80))
    goes_on.connect(("10.96.0.10", 80))
    direct.connect((WEB1, flows.PORT))
    for sock in (ends, goes_on, direct):
        assert greeting(sock)[0] == "web1"
    moved = {udp: target(WEB2), polite: target(WEB2), strict: target(WEB2, name="strict", drain=0)}
    path.call(path.datapath.sync(want(moved)))
    for sock in (asked, ends):
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)
    for sock in (goes_on, direct):
        sock.sendall(b"still here")
        assert sock.recv(10) == b"still here"


def aborted(path, sock: socket.socket, seconds: float = 10) -> float:
    """After how long a socket is ended; its data path looks as often as the proxy does, or oftener."""
    began = monotonic()
    sock.settimeout(0.05)
    while monotonic() - began < seconds:
        path.call(path.datapath.end_due())
        with contextlib.suppress(TimeoutError):
            try:
                sock.recv(1)
            except ConnectionAbortedError:
                return monotonic() - began
    pytest.fail("it goes on")


def test_a_connection_ends_when_its_time_to_drain_is_over(path, open_socket) -> None:
    web = frontend("10.96.0.11")
    path.call(path.datapath.sync(want({web: target(WEB1, drain=1)})))
    sock = open_socket("client")
    sock.connect((str(web.address), web.port))
    assert greeting(sock)[0] == "web1"
    path.call(path.datapath.sync(want({web: target(WEB2, drain=1)})))
    sock.sendall(b"still here")
    assert sock.recv(10) == b"still here"
    assert 0.7 < aborted(path, sock) < 5


def test_an_endpoint_that_comes_back_in_time_keeps_its_connections(path, open_socket) -> None:
    web = frontend("10.96.0.11")
    path.call(path.datapath.sync(want({web: target(WEB1, drain=1)})))
    sock = open_socket("client")
    sock.connect((str(web.address), web.port))
    assert greeting(sock)[0] == "web1"
    path.call(path.datapath.sync(want({web: target(WEB2, drain=1)})))
    path.call(path.datapath.sync(want({web: target(WEB1, WEB2, drain=1)})))
    until = monotonic() + 1.5
    while monotonic() < until:
        path.call(path.datapath.end_due())
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


def test_a_drain_goes_on_when_another_process_does(world, place, path, open_socket) -> None:
    web, name = frontend("10.96.0.11"), frontend("10.96.0.11", 53, UDP)
    before = {web: target(WEB1, drain=1), name: target(WEB1)}
    path.call(path.datapath.sync(want(before)))
    sock, other = open_socket("client"), open_socket("client")
    sock.connect((str(web.address), web.port))
    assert greeting(sock)[0] == "web1"
    other.connect((WEB1, flows.PORT))
    after = want({web: target(WEB2, drain=1), name: target(WEB2)})
    path.call(path.datapath.sync(after))
    path.stop(keep=True)
    following = hosted_at(world, place)
    following.call(following.datapath.sync(after))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    assert aborted(following, sock) < 5
    assert greeting(other)[0] == "web1", "what went to the pod itself goes on"
    following.stop()


def test_a_kernel_that_cannot_end_connections_is_said(path, open_socket, monkeypatch) -> None:
    def refuse(_self: Sockets, _sock: object) -> bool:
        raise KernelError("cannot end connections to removed endpoints: the kernel has no SOCK_DESTROY")

    monkeypatch.setattr(Sockets, "end", refuse)
    web = frontend("10.96.0.11")
    path.call(path.datapath.sync(want({web: target(WEB1, drain=0)})))
    open_socket("client").connect((str(web.address), web.port))
    report = path.call(path.datapath.sync(want({web: target(WEB2, drain=0)})))
    assert any("the kernel has no SOCK_DESTROY" in warning for warning in report.warnings)


def test_what_finds_no_room_in_the_maps_is_left_to_the_table_beneath(path, open_socket) -> None:
    first, second = frontend("10.96.0.10"), frontend("10.96.0.11")
    path.call(path.datapath.sync(want({})))
    path.datapath._tables._most = 2
    both = want({first: target(WEB1, WEB2), second: target(WEB2, name="b")})
    report = path.call(path.datapath.sync(both))
    assert report.warnings == ("1 frontends are left to nftables: the maps of ebpf mode are full",)
    assert path.call(path.datapath.observe()) == both.targets, "beneath it is served"
    sock = open_socket("client")
    sock.connect(("10.96.0.10", 80))
    assert greeting(sock)[0] in ("web1", "web2")
    report = path.call(path.datapath.sync(want({second: target(WEB2, name="b")})))
    assert report.warnings == ()
    sock = open_socket("client")
    sock.connect(("10.96.0.11", 80))
    assert greeting(sock)[0] == "web2"


def test_what_only_sockets_are_told_is_observed(path, place) -> None:
    """A frontend too many in the maps, which no table beneath has."""
    wanted = want({frontend("10.96.0.10"): target(WEB1)})
    path.call(path.datapath.sync(wanted))
    another, extra = Tables(place.pins.open_maps()), frontend("10.96.0.66")
    another.load({extra: Route(ServicePort("default", "gone", "80"), (Endpoint(ip_address(WEB2), 80),))})
    another.close()
    seen = path.call(path.datapath.observe())
    assert seen == wanted.targets | {extra: target(WEB2, name="gone", port=80)}
    assert path.call(path.datapath.sync(wanted, look=True)).done == ("1 frontends in the maps",)
    assert path.call(path.datapath.observe()) == wanted.targets


def test_new_programs_take_over_while_clients_connect(world, place, path) -> None:
    """A newer netplane swaps them under the links, one hook after the other; nobody is told nothing meanwhile."""
    wanted = want({frontend("10.96.0.10"): target(WEB1)})
    path.call(path.datapath.sync(wanted))
    stop, failures = threading.Event(), []

    def connect() -> None:
        while not stop.is_set():
            with place.open(world.netns["client"], socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(5)
                try:
                    sock.connect(("10.96.0.10", 80))
                    greeting(sock)  # one after the other: more would overflow the server's queue
                    if sock.getpeername() != ("10.96.0.10", 80):
                        failures.append(f"its peer is {sock.getpeername()}")
                except OSError as error:
                    failures.append(str(error))

    client = threading.Thread(target=connect)
    client.start()
    try:
        for _ in range(10):
            path.datapath._forget()  # as a new process: it knows nothing, and loads programs of its own
            path.call(path.datapath.sync(wanted))
    finally:
        stop.set()
        client.join()
    assert failures == []


def test_the_kernel_tells_who_speaks_to_whom(path, place, open_socket) -> None:
    path.call(path.datapath.sync(want({frontend("0.0.0.0", 30080): target(WEB1)})))
    sock, direct = open_socket("client"), open_socket("client")
    sock.connect((N1, 30080))
    direct.connect((WEB1, flows.PORT))
    maps = place.pins.open_maps()
    assert maps is not None
    (found,) = sockets.conversations(maps, place.cgroup)
    assert found.client == (ip_address(flows.ADDRESSES["client"]), sock.getsockname()[1])
    assert found.asked == frontend(N1, 30080)
    assert found.endpoint == Endpoint(ip_address(WEB1), flows.PORT)


def origins(path) -> int:
    return len(list(path.datapath._tables.maps["origins"].items()))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
@pytest.mark.parametrize("mapped", [False, True], ids=["IPv4", "IPv4 by an IPv6 socket"])
def test_what_a_socket_asked_for_is_forgotten_when_it_is_closed(
    path, world, place, kind: socket.SocketKind, mapped: bool
) -> None:
    """Else short connections push a long one out: its `getpeername` changes, and a drain does not end it."""
    both = {frontend("10.96.0.10"): target(WEB1), frontend("10.96.0.10", 80, UDP): target(WEB1)}
    path.call(path.datapath.sync(want(both)))
    family, before = (socket.AF_INET6, "::ffff:") if mapped else (socket.AF_INET, "")
    counted = origins(path)
    with place.open(world.netns["client"], family, kind) as sock:
        sock.settimeout(3)
        sock.connect((f"{before}10.96.0.10", 80))
        assert origins(path) == counted + 1
    assert origins(path) == counted


def test_clients_that_stay_are_not_pushed_out_by_lookups_of_names(path, open_socket) -> None:
    """musl asks each name by sendto() on a socket of its own."""
    name, web = frontend("10.96.0.10", 53, UDP), frontend("10.96.0.11")
    path.call(path.datapath.sync(want({name: target(WEB1), web: target(WEB1, name="sticky", affinity=100)})))
    open_socket("client").connect(("10.96.0.11", 80))
    maps = path.datapath._tables.maps
    sticks, counted = list(maps["choices"].items()), origins(path)
    for _ in range(5):
        sock = open_socket("client", socket.SOCK_DGRAM)
        sock.sendto(b"hello", ("10.96.0.10", 53))
        assert sock.recvfrom(100)[1] == ("10.96.0.10", 53)
    assert list(maps["choices"].items()) == sticks
    assert len(sticks) >= 1
    assert origins(path) == counted


def test_an_unconnected_ipv6_socket_hears_the_service(path, world, open_socket) -> None:
    for where, address in (("web1", "fd00:1::3"), ("client", "fd00:1::2")):
        with rtnl(world.netns[where]) as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            ipr.addr("replace", index=index, address=address, prefixlen=128, flags=0x02)  # IFA_F_NODAD
    with world.open("web1", socket.SOCK_DGRAM, socket.AF_INET6) as server:
        server.bind(("fd00:1::3", 8086))
        six = frontend("fd00:96::1", 53, UDP)
        path.call(path.datapath.sync(want({six: target("fd00:1::3", port=8086)})))
        for asks in ("sendto", "connect"):
            sock = open_socket("web1", socket.SOCK_DGRAM, socket.AF_INET6)
            if asks == "connect":
                sock.connect(("fd00:96::1", 53))
                assert sock.getpeername()[:2] == ("fd00:96::1", 53)
                sock.send(b"question")
            else:
                sock.sendto(b"question", ("fd00:96::1", 53))
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            assert sock.recvfrom(100)[1][:2] == ("fd00:96::1", 53)
