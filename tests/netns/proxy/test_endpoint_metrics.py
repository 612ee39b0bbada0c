"""The metrics of traffic by endpoint, as Prometheus and people read them, whichever process is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import flows
from tests.netns.proxy.daemon import Supervisor, children, eventually, named, visit, workers

pytestmark = pytest.mark.netns

WEB, DEAD, LIMPS = "10.96.0.10", "10.96.0.90", "10.96.0.91"
SERVICE = {"namespace": "default", "service": "web", "port": "80", "protocol": "TCP"}
POD = {f"{address}:{flows.PORT}": name for name, address in flows.ADDRESSES.items()}
SETTINGS = "workers: 2\nendpointMetrics: true"


@pytest.fixture
def told_apart(world, api, start, tmp_path) -> Iterator[Supervisor]:
    start()  # so that every trace in n1 is removed at the end
    made = Supervisor(world, tmp_path, settings=SETTINGS)
    made.start()
    eventually(lambda: len(named(made, "keeper")) == 2)
    eventually(lambda: made.ask("status")["frontends"] == 6)
    yield made
    made.close()


class Scrape:
    """One look at the page."""

    def __init__(self, world: Any) -> None:
        command = ["curl", "-sf", f"http://{flows.NODES['n1']}:10249/metrics"]

        def fetch() -> str:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        page = world.run("outside", fetch)
        self.samples = [
            sample for family in text_string_to_metric_families(page) for sample in family.samples
        ]

    def by_pod(self, name: str, **labels: str) -> dict[str, float]:
        """The values of a metric of a Service, by the endpoint's pod; "" for no endpoint."""
        wanted = {**SERVICE, **labels}.items()
        return {
            POD.get(sample.labels["endpoint"], sample.labels["endpoint"]): sample.value
            for sample in self.samples
            if sample.name == f"netplane_service_{name}" and wanted <= sample.labels.items()
        }

    def total(self, name: str, **labels: str) -> float:
        """``sum by (namespace, service, port, protocol)``."""
        return sum(self.by_pod(name, **labels).values())


def open_many(world: Any, stack: ExitStack, count: int) -> list[tuple[socket.socket, str]]:
    """Connections, with the pods that they have reached."""
    found = []
    for _ in range(count):
        sock = stack.enter_context(world.connect("client", WEB, 80))
        line = b""
        while not line.endswith(b"\n"):
            line += sock.recv(1)
        found.append((sock, line.split()[0].decode()))
    return found


def exchange(opened: list[tuple[socket.socket, str]], said: bytes) -> None:
    for sock, _ in opened:
        sock.sendall(said)
    for sock, _ in opened:
        assert sock.recv(len(said), socket.MSG_WAITALL) == said


def test_each_endpoint_has_what_its_clients_had_with_it(world, api, told_apart) -> None:
    with ExitStack() as stack:
        opened = open_many(world, stack, 40)
        reached = Counter(pod for _, pod in opened)
        assert set(reached) == {"web1", "web2"}
        exchange(opened, b"x" * 1000)
        for _ in range(10):
            reached[visit(world)] += 1
        found = eventually(lambda: (now := Scrape(world)).total("active_connections") == 40 and now)
        assert found.by_pod("connections_total") == {"": 0, **reached}
        assert found.by_pod("active_connections") == {"": 0, **Counter(pod for _, pod in opened)}
        received = {pod: 1000.0 * sum(one == pod for _, one in opened) for pod in reached}
        assert found.by_pod("bytes_total", direction="in") == {"": 0, **received}
        assert found.total("connect_retries_total") == 0
        assert found.by_pod("connect_duration_seconds_count").keys() == set(reached)


def refusing(service: str) -> dict[str, Any]:
    """A slice more, with an endpoint where nobody listens."""
    made = flows.endpoint_slice(service, "web1", port=1)
    made["metadata"]["name"] += "-refusing"
    return made


def test_an_endpoint_that_fails_has_the_retries_and_nothing_else(world, api, told_apart) -> None:
    """Who reads this page finds out which one it is. A client who finds nobody counts where it was last."""
    closed = f"{flows.ADDRESSES['web1']}:1"
    api.put("endpointslices", refusing("limps"))
    api.put("endpointslices", flows.endpoint_slice("limps", "web2"))
    api.put("services", flows.service("limps", LIMPS))
    api.put("endpointslices", refusing("dead"))
    api.put("services", flows.service("dead", DEAD))
    eventually(lambda: visit(world, LIMPS) == "web2")
    for _ in range(9):
        assert visit(world, LIMPS) == "web2"
    with pytest.raises(ConnectionResetError), world.connect("client", DEAD, 80) as sock:
        sock.recv(1)
    found = Scrape(world)
    retries = found.by_pod("connect_retries_total", service="limps")
    assert retries[closed] >= 1
    assert retries["web2"] == 0
    assert found.total("connections_total", service="limps") == 10
    assert found.by_pod("connections_total", service="limps")[closed] == retries[closed]
    assert found.by_pod("bytes_total", service="limps", direction="out")[closed] == 0
    assert found.by_pod("rejected_total", service="dead", reason="unreachable") == {closed: 1}


def test_no_counter_falls_when_a_worker_is_killed_and_its_flows_count_on_at_their_endpoints(
    world, api, told_apart
) -> None:
    with ExitStack() as stack:
        opened = open_many(world, stack, 40)
        exchange(opened, b"x" * 100)
        before = eventually(lambda: (now := Scrape(world)).total("connections_total") == 40 and now)
        for keeper in named(told_apart, "keeper"):
            (worker,) = children(keeper)
            os.kill(worker, signal.SIGKILL)
            eventually(lambda keeper=keeper, worker=worker: children(keeper) not in ([], [worker]))
        exchange(opened, b"y" * 100)
        counts_on(world, before, opened)


def counts_on(world: Any, before: Scrape, opened: list[tuple[socket.socket, str]]) -> None:
    """All is there that was, and each endpoint has the open flows and 100 bytes more of each."""
    holding = {"": 0.0, **Counter(pod for _, pod in opened)}

    def there() -> Scrape | None:
        now = Scrape(world)
        return now if now.by_pod("active_connections") == holding else None

    now = eventually(there)
    assert now.by_pod("connections_total") == before.by_pod("connections_total")
    # What came before a flow was known to its endpoint again counts nowhere, with the flag or without it.
    exchange(opened, b"z" * 100)
    later = Scrape(world)
    for pod, was in before.by_pod("bytes_total", direction="in").items():
        assert now.by_pod("bytes_total", direction="in")[pod] >= was
        grown = (
            later.by_pod("bytes_total", direction="in")[pod] - now.by_pod("bytes_total", direction="in")[pod]
        )
        assert grown == 100 * holding[pod]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_flows_that_a_restart_hands_over_count_at_their_endpoints(world, api, told_apart, how) -> None:
    with ExitStack() as stack:
        opened = open_many(world, stack, 40)
        told_apart.end(how)
        told_apart.start()
        eventually(lambda: told_apart.ask("status")["flows"] == 40)
        before = eventually(lambda: (now := Scrape(world)).total("active_connections") == 40 and now)
        assert before.total("connections_total") == 0, "the counters of a new process begin with nothing"
        exchange(opened, b"y" * 100)
        counts_on(world, before, opened)


def test_an_endpoint_that_has_left_counts_on_as_long_as_it_has_a_flow(world, api, told_apart) -> None:
    with ExitStack() as stack:
        opened = open_many(world, stack, 10)
        api.put("endpointslices", flows.endpoint_slice("web", "web2"))
        eventually(lambda: {visit(world) for _ in range(4)} == {"web2"})
        before = Scrape(world)
        exchange(opened, b"x" * 100)
        counts_on(world, before, opened)


def top(supervisor: Supervisor, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netplane", "top", "--root", str(supervisor.root), "--seconds", "0.1"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=30)


def test_top_sums_endpoints_up_and_tells_them_apart_where_it_is_asked_to(world, api, told_apart) -> None:
    with ExitStack() as stack:
        holding = Counter(pod for _, pod in open_many(world, stack, 10))
        found = world.run("n1", top, told_apart, "-o", "json")
        assert found.returncode == 0, found.stderr
        assert [(row["service"], row["active"]) for row in json.loads(found.stdout)] == [
            ("default/web:80/tcp", 10)
        ]
        found = world.run("n1", top, told_apart, "--endpoints", "-o", "json")
        assert {POD[row["endpoint"]]: row["active"] for row in json.loads(found.stdout)} == holding


def test_without_the_setting_nothing_is_by_endpoint(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    assert all("endpoint" not in sample.labels for sample in eventually(lambda: Scrape(world)).samples)
    found = world.run("n1", top, supervisor, "--endpoints")
    assert (found.returncode, found.stdout) == (2, "")
    assert "cannot tell endpoints apart" in found.stderr
    assert "endpointMetrics: true" in found.stderr


def test_where_the_kernel_forwards_the_setting_is_said_to_have_no_effect(world, api, told_apart) -> None:
    assert told_apart.ask("status")["problems"] == []
    told_apart.ask("mode nftables")
    told_apart.ask("sync")
    assert told_apart.ask("status")["problems"] == [
        "in mode nftables nothing is counted by endpoint (endpointMetrics in proxy.yaml)"
    ]
    assert not any(sample.name.startswith("netplane_service_") for sample in Scrape(world).samples)
    assert workers(told_apart)
    told_apart.ask("mode userspace")
    told_apart.ask("sync")
    assert told_apart.ask("status")["problems"] == []
