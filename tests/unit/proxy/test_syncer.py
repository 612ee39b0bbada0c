"""The loop between the API and a data path: coalescing, failure, and a start without the API."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from netplane.errors import KernelError, PeerError
from netplane.kube.resources import ENDPOINTSLICES, NODES, SERVICES
from proxy import saved, syncer
from proxy.health import Health
from proxy.metrics import SyncMetrics, TrafficCollector
from proxy.model import NodeFacts, Protocol, ServicePort, Snapshot
from proxy.syncer import Syncer
from proxy.userspace.traffic import Traffic, TrafficKey
from proxy.wanted import TRIGGER_TIME, Wanted
from tests import flows
from tests.fakes_datapath import MemoryDataPath

NODE = {
    "metadata": {"name": "n1", "resourceVersion": "1"},
    "spec": {"podCIDRs": ["10.244.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.11"}]},
}


class Rig:
    """A syncer on a fake data path, fed by hand."""

    def __init__(self, path: Path) -> None:
        self.registry = CollectorRegistry()
        self.metrics = SyncMetrics(self.registry)
        self.wanted = Wanted("n1", (), (), (), started=1000.0)
        self.datapath = MemoryDataPath()
        self.health = Health()
        self.path = path
        self.syncer = Syncer(self.wanted, self.datapath, self.metrics, self.health, path, grace=0.05)

    def hear_all(self) -> None:
        for cache, item, revision in (
            (self.wanted.services, flows.service("web", "10.96.0.10"), "10"),
            (self.wanted.slices, flows.endpoint_slice("web", "web1"), "11"),
            (self.wanted.nodes, NODE, "12"),
        ):
            for change in cache.replace([item], revision):
                self.wanted.note(cache.resource, change, asyncio.get_running_loop().time())
        self.syncer.wake()

    def hear(self, resource: Any, obj: dict[str, Any], revision: int) -> None:
        cache = {
            SERVICES: self.wanted.services,
            ENDPOINTSLICES: self.wanted.slices,
            NODES: self.wanted.nodes,
        }[resource]
        versioned = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
        change = cache.apply({"type": "MODIFIED", "object": versioned})
        assert change is not None
        self.wanted.note(resource, change, asyncio.get_running_loop().time())
        self.syncer.wake()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.datapath.syncs) < count:
                await asyncio.sleep(0.001)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "state/snapshot.json")
    async with running(made):
        yield made


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(rig.syncer.run()), group.create_task(rig.syncer.save_changes())]
        yield
        for task in tasks:
            task.cancel()


async def test_many_changes_of_one_turn_are_one_sync(rig: Rig) -> None:
    rig.hear_all()
    await rig.until(1)
    for number in range(20):
        rig.hear(ENDPOINTSLICES, flows.endpoint_slice("web", "web1", "web2"), 100 + number)
    await rig.until(2)
    await asyncio.sleep(0)
    assert len(rig.datapath.syncs) == 2
    assert rig.datapath.syncs[-1].revision == 119
    assert rig.value("netplane_proxy_event_to_listeners_seconds_count") == 2
    assert rig.value("kubeproxy_sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1
    assert rig.value("kubeproxy_sync_partial_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1


async def test_a_failed_sync_is_tried_again_with_what_is_wanted_by_then(rig: Rig, caplog) -> None:
    rig.hear_all()
    await rig.until(1)
    rig.datapath.failures = [KernelError("cannot load the table"), KernelError("cannot load the table")]
    rig.hear(ENDPOINTSLICES, flows.endpoint_slice("web", "web2"), 100)
    await rig.until(2)
    (target,) = rig.datapath.have.values()
    assert [str(e) for e in target.inside.endpoints] == ["10.244.1.4:8080"]
    assert rig.value("netplane_proxy_sync_failures_total") == 2
    assert rig.value("netplane_proxy_event_to_listeners_seconds_count") == 2, "the change waited all along"
    assert caplog.text.count("cannot load the table") == 1, "said once, not at each try"


async def test_who_asks_for_a_sync_gets_its_report_or_its_failure(rig: Rig) -> None:
    with pytest.raises(PeerError, match="waiting for the API server"):
        await rig.syncer.sync_now()
    rig.hear_all()
    await rig.until(1)
    report = await rig.syncer.sync_now()
    assert (report.revision, rig.datapath.looks) == (11, 1)
    rig.datapath.failures = [KernelError("cannot load the table")]
    with pytest.raises(KernelError, match="cannot load the table"):
        await rig.syncer.sync_now()
    first, second = await asyncio.gather(rig.syncer.sync_now(), rig.syncer.sync_now())
    assert first is second, "one sync answers all who waited for it"


async def test_what_somebody_broke_in_the_kernel_is_said_when_it_is_mended(rig: Rig, caplog) -> None:
    rig.hear_all()
    await rig.until(1)
    rig.datapath.broken = ("nft table inet netplane_proxy",)
    await rig.syncer.sync_now()
    assert "mended: nft table inet netplane_proxy" in caplog.text


async def test_programming_time_is_counted_from_the_trigger_and_not_from_before_our_start(rig: Rig) -> None:
    rig.hear_all()
    await rig.until(1)
    for revision, moment in (
        (100, "1970-01-01T00:00:01Z"),
        (101, "2026-01-01T00:00:00Z"),
        (102, "2026-01-01T00:00:00Z"),
    ):
        changed = flows.endpoint_slice("web", "web1")
        changed["metadata"]["annotations"] = {TRIGGER_TIME: moment}
        rig.hear(ENDPOINTSLICES, changed, revision)
    await rig.until(2)
    assert rig.value("kubeproxy_network_programming_duration_seconds_count", ip_family="IPv4") == 1


async def test_without_the_api_the_last_snapshot_is_used(tmp_path: Path) -> None:
    path = tmp_path / "state/snapshot.json"
    first = Rig(path)
    async with running(first):
        first.hear_all()
        await first.until(1)
        async with asyncio.timeout(5):
            while not path.exists():
                await asyncio.sleep(0.001)
    second = Rig(path)
    async with running(second):
        await second.until(1)
        assert second.datapath.have == first.datapath.have
        second.hear_all()
        await second.until(2)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1, "node": {}}'])
async def test_a_snapshot_that_cannot_be_read_is_passed_over(tmp_path: Path, content: str, caplog) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text(content)
    rig = Rig(path)
    async with running(rig):
        rig.hear_all()
        await rig.until(1)
    assert saved.load(path) is None or rig.datapath.have
    assert saved.load(tmp_path / "absent") is None


async def until_saved(path: Path, revision: int) -> None:
    async with asyncio.timeout(5):
        while (found := saved.load(path)) is None or found.revision != revision:
            await asyncio.sleep(0.001)


async def test_what_came_last_is_on_the_disk_when_this_ends(tmp_path: Path) -> None:
    """At most one write a second, but a Service that came within it must not be refused by the next process."""
    rig = Rig(tmp_path / "state/snapshot.json")
    async with running(rig):
        rig.hear_all()
        await until_saved(rig.path, 11)
        rig.hear(ENDPOINTSLICES, flows.endpoint_slice("web", "web2"), 100)
        await rig.until(2)
    found = saved.load(rig.path)
    assert found is not None
    assert (found.revision, found.remembered) == (100, True)


async def test_a_write_that_failed_is_tried_again(tmp_path: Path, monkeypatch) -> None:
    """As on a full disk, once somebody has made room."""
    monkeypatch.setattr(syncer, "SAVE_EVERY", 0.001)
    (tmp_path / "state").touch()  # where a directory should be
    rig = Rig(tmp_path / "state/snapshot.json")
    async with running(rig):
        rig.hear_all()
        await rig.until(1)
        async with asyncio.timeout(5):
            while rig.syncer._saving is None or not rig.syncer._saving.done():
                await asyncio.sleep(0.001)
        (tmp_path / "state").unlink()
        await until_saved(rig.path, 11)


async def test_a_sync_for_which_the_kernel_has_nothing_left_is_tried_again(rig: Rig) -> None:
    rig.hear_all()
    await rig.until(1)
    rig.datapath.failures = [OSError(errno.EMFILE, "Too many open files")]
    rig.hear(ENDPOINTSLICES, flows.endpoint_slice("web", "web2"), 100)
    await rig.until(2)
    assert rig.value("netplane_proxy_sync_failures_total") == 1


def test_a_snapshot_that_cannot_be_written_costs_only_a_warning(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    snapshot = Snapshot(NodeFacts("n1", (ip_address("192.168.77.11"),), (ip_network("10.244.1.0/24"),)))
    assert not saved.save(tmp_path / "file/snapshot.json", snapshot)
    assert "cannot keep the last snapshot" in caplog.text


async def test_a_node_that_vanishes_or_turns_to_nonsense_stays_as_it_was(rig: Rig) -> None:
    rig.hear_all()
    await rig.until(1)
    before = rig.wanted.snapshot()
    assert before is not None
    for node in ({**NODE, "spec": {"podCIDRs": ["nonsense"]}}, {**NODE, "status": {}}):
        rig.hear(NODES, node, 200 + len(str(node)))
        assert rig.wanted.snapshot() == before
    rig.wanted.nodes.apply({"type": "DELETED", "object": NODE})
    assert rig.wanted.snapshot() == before


def test_a_port_without_a_client_costs_a_scrape_little() -> None:
    """Zeros that rate() needs, and no histogram: there are 10,000 such ports on each node of a large cluster."""
    registry = CollectorRegistry()
    registry.register(
        TrafficCollector(lambda: {TrafficKey(ServicePort("default", "web", "80"), Protocol.TCP): Traffic()})
    )
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    assert len(samples) < 10
    assert {"netplane_service_connections_total", "netplane_service_bytes_total"} <= {
        one.name for one in samples
    }


def test_traffic_samples_have_their_labels() -> None:
    traffic = Traffic()
    traffic.connections, traffic.received, traffic.sent, traffic.retries = 3, 10, 20, 1
    traffic.reject("unreachable")
    traffic.connected(0.0002)
    registry = CollectorRegistry()
    key = TrafficKey(ServicePort("default", "web", "http"), Protocol.TCP)
    registry.register(TrafficCollector(lambda: {key: traffic}))
    labels = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP"}

    def value(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"netplane_service_{name}", {**labels, **more})

    assert value("connections_total") == 3
    assert value("bytes_total", direction="in") == 10
    assert value("bytes_total", direction="out") == 20
    assert value("connect_retries_total") == 1
    assert value("rejected_total", reason="unreachable") == 1
    assert value("connect_duration_seconds_count") == 1
    assert value("connect_duration_seconds_bucket", le="0.0001") == 0
    assert value("connect_duration_seconds_bucket", le="0.00025") == 1


def test_traffic_samples_tell_endpoints_apart_where_that_is_asked_for() -> None:
    service = ServicePort("default", "web", "http")
    counted = {}
    for number, endpoint in enumerate(("", "10.244.1.2:8080", "[fd00::2]:8080"), 1):
        traffic = counted[TrafficKey(service, Protocol.TCP, endpoint)] = Traffic()
        traffic.connections = traffic.received = number
        traffic.reject("source_range")
    registry = CollectorRegistry()
    registry.register(TrafficCollector(lambda: counted, by_endpoint=True))
    labels = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP"}
    for number, key in enumerate(counted, 1):
        own = {**labels, "endpoint": key.endpoint}
        assert registry.get_sample_value("netplane_service_connections_total", own) == number
        assert registry.get_sample_value("netplane_service_bytes_total", {**own, "direction": "in"}) == number
        refused = {**own, "reason": "source_range"}
        assert registry.get_sample_value("netplane_service_rejected_total", refused) == 1
    for metric in registry.collect():
        assert {sample.labels["endpoint"] for sample in metric.samples} == {key.endpoint for key in counted}


def test_what_the_kernel_counts_is_by_service_whatever_is_asked_for() -> None:
    counted = {(ServicePort("default", "web", "http"), Protocol.TCP): 5}
    registry = CollectorRegistry()
    registry.register(TrafficCollector(dict, lambda: counted, by_endpoint=True))
    (metric,) = registry.collect()
    (sample,) = (sample for sample in metric.samples if sample.name.endswith("_total"))
    assert sample.value == 5
    assert set(sample.labels) == {"namespace", "service", "port", "protocol"}
