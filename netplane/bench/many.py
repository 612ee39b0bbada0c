"""Ten thousand Services: does a connection notice, and what does one changed endpoint cost in the maps?"""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from netplane.bench.datapath import AGAIN, DIRECT, EBPF, NFTABLES, Subject, running, sliced
from netplane.bench.place import CLUSTER_IP, ONE, PORT, SERVED, SERVER, Services, start_netplane
from netplane.bench.statistics import paired, percentile, summarize
from proxy.ebpf import pins
from proxy.ebpf.pins import Pins
from proxy.ebpf.routes import Route
from proxy.ebpf.tables import MAPS, Tables
from proxy.model import Endpoint, Frontend, Protocol, ServicePort

SERVICES, ENDPOINTS = 10_000, 5
UPDATES = 1000
_FIRST_SERVICE, _FIRST_ENDPOINT = IPv4Address("10.97.0.0"), IPv4Address("10.244.2.0")


def measure(
    rounds: int, seconds: float, names: Sequence[str], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One connection at a time, all subjects in turn; then updates of the maps. Raises as ``datapath.measure``."""
    subjects = [
        Subject(DIRECT, lambda _: None, SERVER, SERVED),
        Subject(AGAIN, lambda _: None, SERVER, SERVED),
        *(Subject(mode, _crowded(mode)) for mode in (NFTABLES, EBPF)),
    ]
    chosen = [one for one in subjects if not names or one.name in names]
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory:
        with running(Path(directory), chosen, say) as here:
            say(f"one connection at a time: {rounds} rounds of {len(chosen)} slices of {seconds} s")
            found = sliced(here, "connect", 1, rounds, seconds)
        times = {name: figures["p50"] for name, figures in found.items()}
        rows = [_connect_row(name, times) for name in times]
        if not names or EBPF in names:
            say(f"{UPDATES} updates of one endpoint")
            rows.append(_updates(Path(directory)))
    return rows


def services() -> Services:
    """The one that is connected to, among ten thousand."""
    many: dict[tuple[str, int], Sequence[tuple[str, int]]] = dict(ONE)
    for number in range(SERVICES - 1):
        first = number * ENDPOINTS
        at = [(str(_FIRST_ENDPOINT + (first + index) % 50_000), SERVED) for index in range(ENDPOINTS)]
        many[str(_FIRST_SERVICE + number), PORT] = at
    assert (CLUSTER_IP, PORT) in many
    return many


def _crowded(mode: str) -> Callable[[Any], None]:
    return lambda place: start_netplane(place, mode, services())


def _connect_row(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"measure": f"connect, {SERVICES} Services", "subject": name, "unit": "µs"}
    row["rate"] = percentile(sorted(times[name]), 0.5)
    for base in (DIRECT, NFTABLES):
        if base in times and base != name:
            ratio, low, high = paired(times[name], times[base])
            row[base] = {"ratio": ratio, "low": low, "high": high}
    return row


def _updates(directory: Path) -> dict[str, Any]:
    """From a new set of endpoints to maps that have it, in microseconds."""
    mount = directory / "bpf"
    where = Pins(mount / "bench")
    pins.ensure_mounted(mount)
    try:
        with pins.programs(where) as made:
            tables = Tables({name: made.map(name) for name in MAPS})
        try:
            return _timed(tables)
        finally:
            tables.close()
    finally:
        pins.remove(where)
        pins.unmount(mount)


def _timed(tables: Tables) -> dict[str, Any]:
    routes = {}
    for number, ((address, port), endpoints) in enumerate(services().items()):
        frontend = Frontend(IPv4Address(address), port, Protocol.TCP)
        routes[frontend] = Route(ServicePort("bench", f"s{number}", "80"), _endpoints(endpoints))
    tables.load(routes)
    taken = []
    for frontend in random.sample(list(routes), UPDATES):
        route = routes[frontend]
        moved = Endpoint(IPv4Address("10.244.250.1"), random.randrange(1, 65536))
        changed = Route(
            route.service, tuple(sorted((*route.endpoints[1:], moved), key=lambda one: one.order))
        )
        before = time.perf_counter()
        tables.point(frontend, changed)
        taken.append((time.perf_counter() - before) * 1e6)
    summary = summarize(taken)
    row = {"measure": f"update, {SERVICES} Services", "subject": EBPF, "unit": "µs", "rate": summary.median}
    return row | {"summary": asdict(summary)}


def _endpoints(endpoints: Sequence[tuple[str, int]]) -> tuple[Endpoint, ...]:
    found = (Endpoint(IPv4Address(address), port, local=True) for address, port in endpoints)
    return tuple(sorted(found, key=lambda one: one.order))
