"""When a silent node counts as dead: by the test's clock, against the fake API."""

from typing import Any

import pytest

from controlplane.controllers.actions import Patch
from controlplane.controllers.loop.caches import Caches
from controlplane.controllers.loop.frame import Decision, Kit
from controlplane.controllers.nodes.nodelifecycle import FIRST_GRACE, NodeLifecycleController
from controlplane.controllers.options import Options
from netplane.kube.cache import Cache, Change
from netplane.kube.client import Client
from netplane.kube.objects import Object, ObjectKey, condition, set_condition
from netplane.kube.resources import LEASES, NODES, PODS, Resource
from tests.fakes_api import FakeApi

GRACE = 40.0


class Cluster:
    """Controller, caches and clock; events are handed over as the watch would."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.now = 1000.0
        client: Any = self.api
        self.caches = Caches([NODES, LEASES, PODS])
        options = Options(node_monitor_grace_period=GRACE)
        kit = Kit(client, self.caches, options, monotonic=lambda: self.now)
        self.controller = NodeLifecycleController(kit)
        self.version = 0

    def see(self, resource: Resource, obj: Object) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        cache: Cache = self.caches[resource]
        kind = (
            "MODIFIED"
            if cache.get(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            else "ADDED"
        )
        change = cache.apply({"type": kind, "object": obj})
        assert isinstance(change, Change)
        self.caches.changed(resource, change)

    def add(self, name: str) -> None:
        ready = set_condition([], "Ready", "True", "", "", "2026-01-01T00:00:00Z")
        self.see(NODES, {"metadata": {"name": name}, "status": {"conditions": ready}})
        pod = {"metadata": {"name": f"on-{name}", "namespace": "default"}, "spec": {"nodeName": name}}
        self.see(PODS, {**pod, "status": {"phase": "Running", "conditions": ready}})
        self.beat(name)

    def beat(self, *names: str) -> None:
        for name in names:
            metadata = {"name": name, "namespace": "kube-node-lease"}
            self.see(LEASES, {"metadata": metadata, "spec": {"renewTime": str(self.now)}})

    def look(self, name: str) -> Decision:
        return self.controller.decide(ObjectKey("", name))

    def declared(self, name: str) -> list[str]:
        """What is written in one look: of the Node, of its pods."""
        return [
            a.key.name for a in self.look(name).actions if isinstance(a, Patch) and condition(a.body, "Ready")
        ]


@pytest.fixture
async def cluster() -> Cluster:
    made = Cluster()
    for name in ("n1", "n2", "n3"):
        made.add(name)
    return made


async def test_silence_longer_than_the_grace_is_death_and_pods_leave_at_once(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.now += GRACE / 4
        cluster.beat("n1", "n2")
    assert cluster.declared("n3") == []
    assert cluster.look("n3").again_after == GRACE / 4
    cluster.now += GRACE / 4
    cluster.beat("n1", "n2")
    assert cluster.declared("n3") == ["n3", "on-n3"]
    assert cluster.declared("n1") == []


async def test_what_a_node_says_of_itself_is_a_heartbeat(cluster: Cluster) -> None:
    cluster.now += GRACE - 1
    cluster.beat("n1", "n2")
    said = set_condition([], "Ready", "True", "again", "", "2026-01-01T00:01:00Z")
    cluster.see(NODES, {"metadata": {"name": "n3"}, "status": {"conditions": said}})
    cluster.now += 2
    assert cluster.declared("n3") == []


async def test_where_nobody_is_heard_no_pod_is_touched(cluster: Cluster) -> None:
    cluster.now += GRACE + 1
    assert cluster.declared("n3") == ["n3"]


async def test_after_a_time_in_which_nobody_was_heard_all_get_time_to_come_back(cluster: Cluster) -> None:
    cluster.now += GRACE * 2
    cluster.beat("n1")
    assert cluster.declared("n3") == []
    assert GRACE > FIRST_GRACE
    for _ in range(4):
        assert cluster.declared("n3") == []
        cluster.now += GRACE / 4
        cluster.beat("n1")
    assert cluster.declared("n3") == ["n3", "on-n3"]


async def test_a_lease_newer_than_the_cache_saves_its_node(cluster: Cluster) -> None:
    api: FakeApi | Client = cluster.api
    for _ in range(4):
        cluster.now += GRACE / 4
        cluster.beat("n1", "n2")
    for name in ("n2", "n3"):
        metadata = {"name": name, "namespace": "kube-node-lease"}
        renewed = "newer" if name == "n3" else "x"
        await api.create(LEASES, {"metadata": metadata, "spec": {"renewTime": renewed}})
    await cluster.controller.reconcile(ObjectKey("", "n3"))
    assert cluster.api.requests["get leases"] == 1
    assert cluster.api.requests["patch nodes"] == 0
    assert cluster.declared("n3") == []
