"""What passes leaves nothing behind: many short connections, and very long streams, through a worker process."""

from pathlib import Path
from typing import Any

import pytest

from tests import flows
from tests.netns.proxy.daemon import Supervisor, ended, eventually, load, visit, workers

pytestmark = pytest.mark.netns
PORT = 9300
ADDRESS = "10.96.0.92"
WARM_UP = 5_000  # connections after which a process has all that it ever needs


def memory(pid: int) -> int:
    """KiB that are this process's own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def visit_often(world: Any, count: int) -> None:
    with load(world, "client", "short", ADDRESS, "80", str(count)) as client:
        assert ended(client, 1200) == {"done": count}


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_short_connections_leave_nothing_behind(world, api, supervisor: Supervisor, count: int) -> None:
    with load(world, "web1", "serve-short", str(PORT)):
        api.put("endpointslices", flows.endpoint_slice("short", "web1", port=PORT))
        api.put("services", flows.service("short", ADDRESS))
        eventually(lambda: world.connect("client", ADDRESS, 80).close() is None)
        visit_often(world, WARM_UP)
        (worker,) = workers(supervisor)
        before = memory(worker), descriptors(worker)
        visit_often(world, count)
        assert descriptors(worker) <= before[1]
        assert memory(worker) - before[0] < 1024
        assert workers(supervisor) == [worker]


@pytest.mark.parametrize("mib", [32, pytest.param(1024, marks=pytest.mark.long)])
def test_a_long_stream_arrives_whole_both_ways(world, api, supervisor: Supervisor, mib: int) -> None:
    with load(world, "web1", "serve-amount", str(PORT), str(mib)) as server:
        api.put("endpointslices", flows.endpoint_slice("long", "web1", port=PORT))
        api.put("services", flows.service("long", ADDRESS))
        eventually(lambda: listening(supervisor) and visit(world))
        (worker,) = workers(supervisor)
        before = memory(worker), descriptors(worker)
        with load(world, "client", "amount", ADDRESS, "80", str(mib)) as client:
            ours, theirs = ended(client, 600), ended(server, 600)
        assert (ours["sent"], theirs["sent"]) == (theirs["received"], ours["received"])
        assert ours["bytes"] == theirs["bytes"] == mib * 1024 * 1024
        eventually(lambda: supervisor.ask("status")["flows"] == 0)
        assert descriptors(worker) <= before[1] + 4
        assert memory(worker) - before[0] < 1024
        assert workers(supervisor) == [worker]


def listening(supervisor: Supervisor) -> bool:
    """Whether the Service is served: a look that is no connection."""
    return any(target["frontend"]["address"] == ADDRESS for target in supervisor.ask("targets"))
