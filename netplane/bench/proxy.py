"""How fast is the userspace proxy beside HAProxy? Bulk, connections, requests, memory, in one interleaved run.

Why slices: on a machine whose speed moves by a third from one second to the next, only what ran within the
same second can be compared. Each round runs every path once, in random order, for a fraction of a second; a
ratio belongs to one round, and its median over all rounds comes with a bootstrap 95 % interval. The first
path runs twice a round: the ratio of its two runs (A/A) shows what differences mean nothing.
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.bench.place import (
    CLUSTER_IP,
    NODE,
    PLAIN,
    PORT,
    SPLICE,
    Place,
    cpu_seconds,
    memory_bytes,
    place,
)
from netplane.bench.statistics import paired, percentile
from netplane.errors import PeerError

IDLE = 1000  # connections for the memory figure
OURS, AGAIN = "netplane", "netplane again"


@dataclass(frozen=True, slots=True)
class Route:
    """One way from the client to the endpoint."""

    name: str
    address: str
    port: int


ROUTES = (
    Route(OURS, CLUSTER_IP, PORT),
    Route(AGAIN, CLUSTER_IP, PORT),
    Route("haproxy", NODE, PLAIN),
    Route("haproxy splice", NODE, SPLICE),
)
# Measure → (the load's kind, parallel connections).
MEASURES = {
    "bulk 1": ("bulk", 1),
    "bulk 8": ("bulk", 8),
    "connections": ("connect", 16),
    "requests": ("request", 32),
}
UNITS = {"bulk 1": "Gb/s", "bulk 8": "Gb/s", "connections": "1/s", "requests": "1/s"}

Figures = dict[str, list[float]]  # figure → one value a round


def measure(rounds: int, seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The whole comparison, one row a figure and path. Raises ConfigError, PeerError."""
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory, place(Path(directory), say) as here:
        pids = {name: _pid_of(here, name) for name in ("netplane", "haproxy")}
        rows: list[dict[str, Any]] = []
        for name, (kind, parallel) in MEASURES.items():
            say(f"{name}: {rounds} rounds of {len(ROUTES)} slices of {seconds} s")
            found = {route.name: _empty() for route in ROUTES}
            for _ in range(rounds):
                for route in random.sample(ROUTES, len(ROUTES)):
                    _slice(here, route, kind, seconds, parallel, pids, found[route.name])
            rows += _rows(name, found, latency=kind != "bulk")
        say(f"memory of {IDLE} idle connections")
        rows += _memory(here, pids)
    return rows


def _empty() -> Figures:
    return {"rate": [], "cpu": [], "p50": [], "p99": []}


def _slice(
    here: Place,
    route: Route,
    kind: str,
    seconds: float,
    parallel: int,
    pids: Mapping[str, int],
    into: Figures,
) -> None:
    pid = pids["haproxy" if route.name.startswith("haproxy") else "netplane"]
    before = cpu_seconds(pid)
    count, took, p50, p99, failures = here.load(kind, route.address, route.port, seconds, parallel)
    if failures:
        raise PeerError(f"cannot compare: {failures:.0f} connections through {route.name} failed")
    used = cpu_seconds(pid) - before
    into["rate"].append(count * 8 / 1e9 / took if kind == "bulk" else count / took)
    into["cpu"].append(used / count * (1e9 if kind == "bulk" else 1e6))
    into["p50"].append(p50)
    into["p99"].append(p99)


def _rows(name: str, found: Mapping[str, Figures], *, latency: bool) -> list[dict[str, Any]]:
    figures = {"rate": UNITS[name], "cpu": "µs each" if latency else "s/GB"}
    if latency:
        figures |= {"p50": "µs", "p99": "µs"}
    return [
        {
            "measure": name,
            "figure": figure,
            "path": path,
            "median": _median(values[figure]),
            "unit": unit,
            **_against(found, path, figure),
        }
        for figure, unit in figures.items()
        for path, values in found.items()
    ]


def _against(found: Mapping[str, Figures], path: str, figure: str) -> dict[str, Any]:
    """Ours over this path's, round by round; for our second run that is the A/A check."""
    if path == OURS:
        return {"ratio": None, "low": None, "high": None}
    ratio, low, high = paired(found[OURS][figure], found[path][figure])
    return {"ratio": ratio, "low": low, "high": high}


def _memory(here: Place, pids: Mapping[str, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path, route in (("netplane", ROUTES[0]), ("haproxy", ROUTES[2])):
        before = memory_bytes(pids[path])
        command = [str(here.load_program), "idle", route.address, str(route.port), "3600", str(IDLE)]
        process = here.start("client", command, stdout=-1)
        assert process.stdout is not None
        process.stdout.readline()  # "ready"
        time.sleep(0.2)  # a process that has just answered a thousand may still be tidying up
        used = (memory_bytes(pids[path]) - before) / IDLE / 1024
        process.kill()
        process.wait()
        rows.append({"measure": "idle", "figure": "memory", "path": path, "median": used, "unit": "KiB each"})
    rows[1] |= {"ratio": rows[0]["median"] / rows[1]["median"]}
    return rows


def _median(values: list[float]) -> float:
    return percentile(sorted(values), 0.5)


def _pid_of(here: Place, name: str) -> int:
    """The daemon itself: nsenter becomes the program it starts."""
    word = {"netplane": "netplane", "haproxy": "haproxy"}[name]
    return next(one.pid for one in here.running if word in one.args)  # type: ignore[operator]
