"""How many connections does a proxy hold, and what does an idle one cost? All its processes are counted.

Why apart from ``bench.proxy``: ten thousands of connections take more descriptors than one process may have, so
here the proxy needs several workers, and the load several clients and servers.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netplane.bench.place import CLUSTER_IP, PORT, SERVED, SERVER, Place, family, memory_bytes, place
from netplane.errors import PeerError

A_CLIENT = 5000  # connections of one client process
SETTLE = 2.0  # seconds in which what only a start or the opening took is given back


def measure(connections: int, workers: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a figure. Raises ConfigError, PeerError."""
    # A Service for each client: the kernel looks long for a free port where most of those to one address are taken.
    services = {
        (CLUSTER_IP, PORT + number): [(SERVER, SERVED + number)]
        for number in range(-(-connections // A_CLIENT))
    }
    with (
        tempfile.TemporaryDirectory(prefix="np-bench-") as directory,
        place(Path(directory), say, haproxy=False, services=services, workers=workers) as here,
    ):
        pid = next(one.pid for one in here.running if "netplane" in one.args)  # type: ignore[operator]
        time.sleep(SETTLE)
        before, processes = memory_bytes(pid), len(family(pid))
        began = time.monotonic()
        for number, start in enumerate(range(0, connections, A_CLIENT)):
            count = min(A_CLIENT, connections - start)
            say(f"{start + count} connections")
            _open(here, PORT + number, count)
        took = time.monotonic() - began
        time.sleep(SETTLE)
        after, processes_after = memory_bytes(pid), len(family(pid))
        return [
            {"figure": "connections", "value": connections, "unit": ""},
            {"figure": "opened in", "value": took, "unit": "s"},
            {"figure": "processes before", "value": processes, "unit": ""},
            {"figure": "processes with them", "value": processes_after, "unit": ""},
            {"figure": "memory before", "value": before / 2**20, "unit": "MiB"},
            {"figure": "memory with them", "value": after / 2**20, "unit": "MiB"},
            {
                "figure": "memory of a connection",
                "value": (after - before) / connections / 1024,
                "unit": "KiB",
            },
        ]


def _open(here: Place, port: int, count: int) -> None:
    command = [str(here.directory / "load"), "idle", CLUSTER_IP, str(port), "3600", str(count)]
    process = here.start("client", command, stdout=-1)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise PeerError(f"cannot open {count} connections: the client ended")
