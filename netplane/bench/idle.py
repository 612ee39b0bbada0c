"""How many connections does a proxy hold, and what does an idle one cost? All its processes are counted.

Why apart from ``bench.proxy``: ten thousands of connections take more descriptors than one process may have, so
here the proxy needs several workers, and the load several clients and servers. Memory is the proportional set size:
what the processes share counts once, and pages of programs less where others on the machine run the same.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netplane.bench.place import CLUSTER_IP, PORT, SERVED, SERVER, Place, family, memory_bytes, place
from netplane.bench.statistics import summarize
from netplane.errors import PeerError

A_CLIENT = 5000  # connections of one client process
SETTLE = 2.0  # seconds in which what only a start or the opening took is given back


def measure(connections: int, workers: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a figure: its median and its bootstrap 95 % interval. Raises ConfigError, PeerError."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: {connections} connections")
        for figure, value in _round(connections, workers, say).items():
            found.setdefault(figure, []).append(value)
    rows = []
    for figure, values in found.items():
        summary = summarize(values)
        rows.append({"figure": figure, "value": summary.median, "low": summary.low, "high": summary.high})
    return rows


def _round(connections: int, workers: int, say: Callable[[str], None]) -> dict[str, float]:
    # A Service for each client: the kernel looks long for a free port where most of those to one address are taken.
    clients = -(-connections // A_CLIENT)
    services = {(CLUSTER_IP, PORT + number): [(SERVER, SERVED + number)] for number in range(clients)}
    with (
        tempfile.TemporaryDirectory(prefix="np-bench-") as directory,
        place(Path(directory), say, haproxy=False, services=services, workers=workers) as here,
    ):
        pid = next(one.pid for one in here.running if "netplane" in one.args)  # type: ignore[operator]
        time.sleep(SETTLE)
        before, processes = memory_bytes(pid), len(family(pid))
        began = time.monotonic()
        for number in range(clients):
            _open(here, PORT + number, min(A_CLIENT, connections - number * A_CLIENT))
        took = time.monotonic() - began
        time.sleep(SETTLE)
        after, processes_after = memory_bytes(pid), len(family(pid))
    return {
        "opened in, s": took,
        "processes before": processes,
        "processes with them": processes_after,
        "memory before, MiB": before / 2**20,
        "memory with them, MiB": after / 2**20,
        "memory of a connection, KiB": (after - before) / connections / 1024,
    }


def _open(here: Place, port: int, count: int) -> None:
    command = [str(here.directory / "load"), "idle", CLUSTER_IP, str(port), "3600", str(count)]
    process = here.start("client", command, stdout=-1)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise PeerError(f"cannot open {count} connections: the client ended")
