"""What the nftables data path costs to fill and to change, beside rules of the shape that kube-proxy writes.

Each subject has a network namespace of its own, with nothing in it but its rules; changes alternate in random order.
kube-proxy's shape (``pkg/proxy/nftables``) is a chain for each Service port and each endpoint, and an anonymous map in
each Service's chain. It is given every advantage: one transaction, written once, in process. Loading it takes minutes
at ten thousand Services, so it is measured at as many as it can bear; its cost grows faster than their number.
"""

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from typing import Protocol as Typed

from netplane.bench.statistics import Summary, summarize
from netplane.linux import nft
from netplane.linux.namespaces import CLONE_NEWNET, unshare
from netplane.linux.nfnetlink import Tables
from netplane.linux.rtnl import rtnl
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Snapshot, Target
from proxy.nftables.datapath import NftablesDataPath
from proxy.targets import Targets

NODE = NodeFacts(
    "n1",
    (ip_address("192.0.2.1"),),
    (ip_network("10.244.1.0/24"),),
    (ip_network("10.244.0.0/16"),),
    (ip_network("10.96.0.0/12"),),
)
FIRST_SERVICE, FIRST_POD, PODS = int(ip_address("10.96.1.0")), int(ip_address("10.244.0.2")), 60_000
PORT = 8080
TABLE = "kube_shape"

Endpoints = tuple[int, ...]  # numbers of pods


@dataclass(frozen=True, slots=True)
class Row:
    """One subject at one size. Seconds; ``work``: of a processor, for a load."""

    subject: str
    services: int
    endpoints: int
    load: Summary
    work: Summary
    update: Summary


class Subject(Typed):
    """Something that can be filled with Services, and whose endpoints can be changed one at a time."""

    name: str

    async def load(self, services: list[Endpoints]) -> None:
        """Fill it, from nothing."""

    async def change(self, number: int, endpoints: Endpoints) -> None:
        """Give one Service other endpoints."""

    async def clear(self) -> None:
        """Take it all away."""


def measure(sizes: list[tuple[str, int]], *, endpoints: int, loads: int, updates: int) -> list[Row]:
    """One row for each (subject, number of Services): ``netplane`` or ``kube-proxy``. Blocking; needs root."""
    rows = []
    for size in sorted({services for _, services in sizes}):
        names = [name for name, services in sizes if services == size]
        with _placed(names) as places:
            rows += _side_by_side(places, size, endpoints, loads, updates)
    return rows


def _side_by_side(places: "list[_Place]", size: int, endpoints: int, loads: int, updates: int) -> list[Row]:
    dice = random.Random(1)
    services = [tuple((number * endpoints + k) % PODS for k in range(endpoints)) for number in range(size)]
    loaded: dict[str, list[float]] = {place.subject.name: [] for place in places}
    worked: dict[str, list[float]] = {place.subject.name: [] for place in places}
    changed: dict[str, list[float]] = {place.subject.name: [] for place in places}
    for turn in range(loads):
        for place in dice.sample(places, len(places)):
            if turn:
                place.run(place.subject.clear())
            work = time.process_time()
            loaded[place.subject.name].append(place.timed(place.subject.load(services)))
            worked[place.subject.name].append(time.process_time() - work)
    for _ in range(updates):
        number = dice.randrange(size)
        kept, new = services[number][1:], dice.randrange(PODS)
        services[number] = (*kept, new) if new not in kept else services[number]
        for place in dice.sample(places, len(places)):
            changed[place.subject.name].append(place.timed(place.subject.change(number, services[number])))
    columns = (loaded, worked, changed)
    return [Row(name, size, endpoints, *(summarize(of[name]) for of in columns)) for name in loaded]


class _Netplane:
    name = "netplane"

    def __init__(self) -> None:
        self._datapath = NftablesDataPath()
        self._targets = Targets()

    async def load(self, services: list[Endpoints]) -> None:
        self._targets = Targets(dict(_entry(number, pods) for number, pods in enumerate(services)))
        gc.collect()
        gc.freeze()
        await self._datapath.sync(Snapshot(NODE, self._targets))

    async def change(self, number: int, endpoints: Endpoints) -> None:
        self._targets = self._targets.derive(dict([_entry(number, endpoints)]))
        await self._datapath.sync(Snapshot(NODE, self._targets))

    async def clear(self) -> None:
        await self._datapath.close(keep=False)
        _settle()


def _settle() -> None:
    """The kernel takes its time to release what was deleted; the closing of a socket waits for that."""
    with Tables():
        pass


def _entry(number: int, pods: Endpoints) -> tuple[Frontend, Target]:
    pool = Pool(tuple(Endpoint(ip_address(FIRST_POD + pod), PORT) for pod in sorted(pods)))
    frontend = Frontend(ip_address(FIRST_SERVICE + number), 80, Protocol.TCP)
    return frontend, Target(ServicePort("default", f"service-{number}", "80"), pool, pool)


class _KubeProxy:
    name = "kube-proxy"

    def __init__(self) -> None:
        self._has: dict[int, Endpoints] = {}

    async def load(self, services: list[Endpoints]) -> None:
        lines = [
            f"add table ip {TABLE}",
            f"add map ip {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}",
            f"add chain ip {TABLE} mark-for-masquerade",
            f"add rule ip {TABLE} mark-for-masquerade meta mark set meta mark or 0x4000",
            f"add chain ip {TABLE} services {{ type nat hook prerouting priority dstnat; }}",
            f"add rule ip {TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips",
        ]
        for number, pods in enumerate(services):
            lines += _service(number, pods)
            key = f"{ip_address(FIRST_SERVICE + number)} . tcp . 80"
            lines.append(f"add element ip {TABLE} service-ips {{ {key} : goto {_named(number)} }}")
        nft.apply("\n".join(lines))
        self._has = dict(enumerate(services))

    async def change(self, number: int, endpoints: Endpoints) -> None:
        gone = set(self._has[number]) - set(endpoints)
        lines = _service(number, endpoints)
        lines += [f"flush chain ip {TABLE} {_named(number, pod)}" for pod in gone]
        lines += [f"delete chain ip {TABLE} {_named(number, pod)}" for pod in gone]
        nft.apply("\n".join(lines))
        self._has[number] = endpoints

    async def clear(self) -> None:
        nft.delete_table("ip", TABLE)
        _settle()


def _named(number: int, pod: int | None = None) -> str:
    if pod is None:
        return f"service-{number:08x}-default/service-{number}/tcp/http"
    return f"endpoint-{number:08x}-default/service-{number}/tcp/http__{ip_address(FIRST_POD + pod)}/{PORT}"


def _service(number: int, pods: Endpoints) -> list[str]:
    """The Service's chain and its endpoints', as they are to be."""
    name, lines = _named(number), []
    for pod in pods:
        chain, address = _named(number, pod), ip_address(FIRST_POD + pod)
        lines += [f"add chain ip {TABLE} {chain}", f"flush chain ip {TABLE} {chain}"]
        lines.append(f"add rule ip {TABLE} {chain} ip saddr {address} jump mark-for-masquerade")
        lines.append(f"add rule ip {TABLE} {chain} meta l4proto tcp dnat to {address}:{PORT}")
    choices = ", ".join(f"{index} : goto {_named(number, pod)}" for index, pod in enumerate(pods))
    lines += [f"add chain ip {TABLE} {name}", f"flush chain ip {TABLE} {name}"]
    address = ip_address(FIRST_SERVICE + number)
    outside = f"ip daddr {address} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    lines.append(f"add rule ip {TABLE} {name} {outside}")
    lines.append(f"add rule ip {TABLE} {name} numgen random mod {len(pods)} vmap {{ {choices} }}")
    return lines


_SUBJECTS: Mapping[str, Callable[[], Subject]] = {_Netplane.name: _Netplane, _KubeProxy.name: _KubeProxy}


class _Place:
    """A thread in a network namespace of its own, with an event loop."""

    def __init__(self, name: str) -> None:
        ready: Future[Subject] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(name, ready), daemon=True)
        self._thread.start()
        self.subject = ready.result()

    def _serve(self, name: str, ready: "Future[Subject]") -> None:
        try:
            unshare(CLONE_NEWNET)
            with rtnl() as netlink:
                netlink.link("add", ifname="eth0", kind="veth", peer="eth1")
                for link in ("lo", "eth0"):
                    netlink.link("set", index=netlink.link_lookup(ifname=link)[0], state="up")
                (index,) = netlink.link_lookup(ifname="eth0")
                netlink.addr("add", index=index, address=str(NODE.addresses[0]), prefixlen=24)
            ready.set_result(_SUBJECTS[name]())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            ready.set_exception(error)
            return
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def timed(self, work: Coroutine[Any, Any, None]) -> float:
        async def clocked() -> float:
            began = time.perf_counter()
            await work
            return time.perf_counter() - began

        return asyncio.run_coroutine_threadsafe(clocked(), self._loop).result()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@contextmanager
def _placed(names: list[str]) -> Iterator[list[_Place]]:
    places = [_Place(name) for name in names]
    try:
        yield places
    finally:
        for place in places:
            place.run(place.subject.clear())
            place.end()
