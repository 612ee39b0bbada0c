"""Nothing happens twice: lagging caches, lost answers, refusals, conflicts. The API is the fake."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.loop.caches import Caches, Index
from controlplane.controllers.loop.frame import Controller, Kit, run_controllers
from controlplane.controllers.loop.writes import Lost, PendingWrites, Removed, Written
from controlplane.controllers.nodes.podcidr import PodCIDRController
from controlplane.controllers.options import Options
from controlplane.controllers.services.endpointslice import EndpointSliceController
from controlplane.controllers.upkeep.garbage import COLLECTED
from controlplane.controllers.workloads.deployment import DeploymentController
from controlplane.controllers.workloads.replicaset import ReplicaSetController
from controlplane.scheduler import Scheduler
from netplane.kube import errors
from netplane.kube.cache import ADDED, DELETED, MODIFIED, Cache, Change
from netplane.kube.objects import Object, ObjectKey, condition, name_of, namespace_of, set_condition, uid_of
from netplane.kube.resources import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    EVENTS,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    Resource,
)
from tests.fakes_api import FakeApi, lose_answer, refuse

LABELS = {"app": "web"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c"}]}}


@asynccontextmanager
async def running(api: FakeApi, *kinds: Callable[[Kit], Controller]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_controllers(api, Options(), kinds, COLLECTED))  # type: ignore[arg-type]
        try:
            yield
        finally:
            task.cancel()


async def until(wanted: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not wanted():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def quiet(api: FakeApi) -> None:
    """Until nothing has been written for many turns of the loop."""
    while True:
        before = api.revision
        for _ in range(200):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        if api.revision == before:
            return


def replicaset(replicas: int) -> Object:
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": TEMPLATE}
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


def node(name: str) -> Object:
    return {"metadata": {"name": name}}


async def ready_node(api: FakeApi, name: str) -> None:
    await api.create(NODES, node(name))
    status = {
        "conditions": set_condition([], "Ready", "True", "", "", "2026-01-01T00:00:00Z"),
        "allocatable": {"cpu": "4", "memory": "1Gi", "pods": "2"},
    }
    await api.patch(NODES, name, {"status": status}, subresource="status")


def held(api: FakeApi, resource: Resource) -> list[Object]:
    return list(api.objects.get(resource, {}).values())


async def test_no_pod_is_created_twice_while_the_cache_lags() -> None:
    api = FakeApi()
    async with running(api, ReplicaSetController):
        await quiet(api)
        await api.create(REPLICASETS, replicaset(5))
        await until(lambda: len(held(api, PODS)) >= 1)
        with api.watches_held():
            await until(lambda: len(held(api, PODS)) == 5)
            await quiet(api)
            assert len(held(api, PODS)) == 5
        await quiet(api)
        assert len(held(api, PODS)) == 5
        assert api.requests["create pods"] == 5


async def test_no_second_pod_is_deleted_while_the_cache_lags() -> None:
    api = FakeApi()
    async with running(api, ReplicaSetController):
        await api.create(REPLICASETS, replicaset(5))
        await until(lambda: len(held(api, PODS)) == 5)
        await quiet(api)
        await api.patch(REPLICASETS, "web", {"spec": {"replicas": 2}}, namespace="default")
        with api.watches_held():
            await quiet(api)
        await quiet(api)
        assert len(held(api, PODS)) == 2
        assert api.requests["delete pods"] == 3


async def test_a_create_whose_answer_was_lost_is_not_repeated() -> None:
    api = FakeApi()
    async with running(api, ReplicaSetController):
        await quiet(api)
        await api.create(REPLICASETS, replicaset(3))
        api.after.append(lose_answer("create", PODS, times=2))
        await until(lambda: held(api, PODS))
        with api.watches_held():
            await until(lambda: api.requests["get pods"] >= 1)
            await quiet(api)
        await until(lambda: len(held(api, PODS)) == 3)
        await quiet(api)
        assert len(held(api, PODS)) == 3
        assert api.requests["create pods"] == 3


async def test_a_refused_create_is_told_and_tried_again() -> None:
    api = FakeApi()
    api.before.append(refuse("create", PODS, errors.refused(PODS, "p", "exceeded quota"), times=3))
    async with running(api, ReplicaSetController):
        made = await api.create(REPLICASETS, replicaset(3))

        def failure() -> Any:
            return condition(api.objects[REPLICASETS][ObjectKey("default", "web")], "ReplicaFailure")

        await until(lambda: (failure() or {}).get("reason") == "FailedCreate")
        await until(lambda: len(held(api, PODS)) == 3)
        await until(lambda: failure() is None)
        await until(lambda: "FailedCreate" in {event["reason"] for event in held(api, EVENTS)})
        refusals = [e for e in held(api, EVENTS) if e["reason"] == "FailedCreate"]
        assert [e["involvedObject"]["uid"] for e in refusals] == [uid_of(made)]
        # The first of a batch is refused alone: slow start.
        assert api.requests["create pods"] == 3 + 3


async def test_a_conflict_is_decided_again() -> None:
    api = FakeApi()
    api.before.append(refuse("patch", REPLICASETS, errors.conflict(REPLICASETS, "web", "modified"), times=3))
    async with running(api, ReplicaSetController):
        await api.create(REPLICASETS, replicaset(2))
        await until(lambda: (held(api, REPLICASETS)[0].get("status") or {}).get("replicas") == 2)


async def test_two_nodes_never_get_one_network_even_when_an_answer_is_lost() -> None:
    api = FakeApi()
    api.after.append(lose_answer("patch", NODES, times=2))
    async with running(api, PodCIDRController):
        await api.create(NODES, node("z"))
        await quiet(api)
        with api.watches_held():
            await api.create(NODES, node("y"))
        for name in "abc":
            await api.create(NODES, node(name))
        await until(lambda: all(n["spec"].get("podCIDR") for n in held(api, NODES)))
        networks = [n["spec"]["podCIDR"] for n in held(api, NODES)]
        assert len(set(networks)) == 5


async def test_a_binding_whose_answer_was_lost_is_asked_for_again_on_the_same_node() -> None:
    api = FakeApi()
    for name in ("n1", "n2"):
        await ready_node(api, name)
    api.after.append(lose_answer("bind", PODS))
    async with running(api, Scheduler):
        await api.create(PODS, {"metadata": {"name": "p", "namespace": "default"}, "spec": {}})
        await until(lambda: held(api, PODS)[0]["spec"].get("nodeName"))
        await quiet(api)
        assert held(api, PODS)[0]["spec"]["nodeName"] == "n1"


async def test_assumed_pods_count_before_the_cache_shows_them() -> None:
    api = FakeApi()
    for name in ("n1", "n2"):
        await ready_node(api, name)  # two pods each
    for number in range(6):
        await api.create(PODS, {"metadata": {"name": f"p{number}", "namespace": "default"}, "spec": {}})
    async with running(api, Scheduler):
        await until(lambda: api.requests["bind pods"] == 4)
        await quiet(api)
        nodes = sorted(pod["spec"].get("nodeName", "") for pod in held(api, PODS))
        assert nodes == ["", "", "n1", "n1", "n2", "n2"]
        waiting = [pod for pod in held(api, PODS) if not pod["spec"].get("nodeName")]
        messages = {condition(pod, "PodScheduled")["message"] for pod in waiting}
        assert messages == {"0/2 nodes are available: 2 Too many pods."}
        gone = next(pod for pod in held(api, PODS) if pod["spec"].get("nodeName") == "n2")
        await api.delete(PODS, name_of(gone), "default", grace_seconds=0)
        await until(lambda: sum(bool(pod["spec"].get("nodeName")) for pod in held(api, PODS)) == 4)


async def test_a_taken_set_name_is_a_collision_and_gets_another_hash() -> None:
    api = FakeApi()
    spec = {**replicaset(1)["spec"]}
    made = {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}
    async with running(api, DeploymentController, ReplicaSetController):
        await api.create(DEPLOYMENTS, made)
        await until(lambda: held(api, REPLICASETS))
        name = name_of(held(api, REPLICASETS)[0])
        await quiet(api)
    api = FakeApi()
    stranger = replicaset(0)
    stranger["metadata"]["name"] = name
    stranger["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    await api.create(REPLICASETS, stranger)
    async with running(api, DeploymentController, ReplicaSetController):
        await api.create(DEPLOYMENTS, made)
        await until(lambda: len(held(api, REPLICASETS)) == 2)
        assert held(api, DEPLOYMENTS)[0]["status"]["collisionCount"] == 1


async def test_a_pod_becoming_ready_is_in_the_slice_within_milliseconds() -> None:
    api = FakeApi()
    async with running(api, EndpointSliceController):
        ports = [{"port": 80, "targetPort": 8080}]
        spec = {"selector": LABELS, "ports": ports, "clusterIP": "10.96.0.9"}
        await api.create(SERVICES, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
        await api.create(
            PODS, {"metadata": {"name": "p", "namespace": "default", "labels": LABELS}, "spec": {}}
        )
        await until(lambda: held(api, ENDPOINTSLICES))
        await quiet(api)
        lags = []
        for turn in range(20):
            truth = str(turn % 2 == 0)
            conditions = set_condition([], "Ready", truth, "", "", "2026-01-01T00:00:00Z")
            status = {"phase": "Running", "podIP": "10.244.1.2", "conditions": conditions}
            began = time.perf_counter()
            await api.patch(PODS, "p", {"status": status}, namespace="default", subresource="status")

            def shown(truth: str = truth) -> bool:
                endpoints = held(api, ENDPOINTSLICES)[0]["endpoints"]
                return bool(endpoints) and str(endpoints[0]["conditions"]["ready"]) == truth

            while not shown():
                assert time.perf_counter() - began < 5
                await asyncio.sleep(0)
            lags.append(time.perf_counter() - began)
        assert sorted(lags)[len(lags) // 2] < 0.02


async def test_an_object_that_cannot_be_read_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = FakeApi()
    broken = replicaset(1)
    broken["metadata"]["name"] = "broken"
    broken["spec"]["replicas"] = "many"
    async with running(api, ReplicaSetController):
        await api.create(REPLICASETS, broken)
        await api.create(REPLICASETS, replicaset(1))
        await until(lambda: len(held(api, PODS)) == 1)
    assert "this is a bug in netplane" in caplog.text


def versioned(name: str, version: int, **metadata: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": "", "resourceVersion": str(version), "uid": "u", **metadata}
    }


def test_a_write_is_seen_when_the_cache_is_as_new() -> None:
    cache = Cache(NODES)
    cause, key = ObjectKey("", "cause"), ObjectKey("", "a")
    pending = PendingWrites()
    pending.note(cause, Written(NODES, key, 7))
    assert pending.unseen(cause, {NODES: cache})
    cache.replace([versioned("a", 5)], "6")
    assert pending.unseen(cause, {NODES: cache})
    cache.apply({"type": "MODIFIED", "object": versioned("a", 7)})
    assert not pending.unseen(cause, {NODES: cache})
    # Created and deleted between two lists: the list's own revision tells.
    pending.note(cause, Written(NODES, ObjectKey("", "b"), 8))
    assert pending.unseen(cause, {NODES: cache})
    cache.replace([], "9")
    assert not pending.unseen(cause, {NODES: cache})


def test_a_deletion_is_seen_when_the_object_is_going_gone_or_another() -> None:
    cache = Cache(NODES)
    cause = ObjectKey("", "cause")
    pending = PendingWrites()
    for after in ([], [versioned("a", 9, deletionTimestamp="now")], [versioned("a", 9, uid="other")]):
        cache.replace([versioned("a", 5)], "5")
        pending.note(cause, Removed(NODES, ObjectKey("", "a"), "u"))
        assert pending.unseen(cause, {NODES: cache})
        cache.replace(after, "9")
        assert not pending.unseen(cause, {NODES: cache})


def test_only_the_api_settles_a_lost_write() -> None:
    cache = Cache(NODES)
    cache.replace([versioned("a", 5)], "5")
    cause, lost = ObjectKey("", "cause"), Lost(NODES, ObjectKey("", "a"))
    pending = PendingWrites()
    pending.note(cause, lost)
    assert pending.unseen(cause, {NODES: cache})
    assert pending.lost(cause) == [lost]
    pending.settle(cause, lost)
    assert not pending.unseen(cause, {NODES: cache})


CHANGES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "x", "y", "xy"])), max_size=40)


@settings(deadline=None)
@given(CHANGES)
def test_an_index_equals_a_walk_over_everything(changes: Sequence[tuple[str, str | None]]) -> None:
    index = Index(lambda obj: list(obj["terms"]))
    objects: dict[str, Object] = {}
    for name, terms in changes:
        old = objects.pop(name, None)
        new = {"metadata": {"name": name}, "terms": terms} if terms is not None else None
        if new is not None:
            objects[name] = new
        if old is not None or new is not None:
            kind = DELETED if new is None else ADDED if old is None else MODIFIED
            index.update(Change(kind, old, new))
        for term in "xy":
            walked = {n for n, obj in objects.items() if term in obj["terms"]}
            assert {name_of(obj) for obj in index.get(term)} == walked
            assert index.count(term) == len(walked)


def test_equal_index_names_share_one() -> None:
    caches = Caches([PODS])
    first = caches.index(PODS, "namespace", lambda o: (namespace_of(o),))
    assert caches.index(PODS, "namespace", lambda o: (namespace_of(o),)) is first
