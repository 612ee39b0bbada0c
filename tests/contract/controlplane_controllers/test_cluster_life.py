"""Controllers and scheduler against an API: the fake, and the real server over HTTPS. No node runs anything."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controlplane import controllers
from controlplane.controllers.options import Options
from controlplane.scheduler import Scheduler
from netplane.kube.client import Client
from netplane.kube.objects import (
    Object,
    annotations_of,
    condition,
    is_deleting,
    is_true,
    labels_of,
    name_of,
    uid_of,
)
from netplane.kube.resources import (
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    Resource,
)
from tests.fakes_api import Kubelet

DEADLINE = 15.0
DEFAULTS = Options()


@asynccontextmanager
async def running(api: Client, options: Options = DEFAULTS, nodes: int = 3) -> AsyncIterator[Kubelet]:
    """Nodes n1.., controllers and scheduler, until the block ends."""
    kubelet = Kubelet(api)
    for number in range(1, nodes + 1):
        await kubelet.add_node(f"n{number}")
    async with asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(controllers.run(api, options, Scheduler)),
            tasks.create_task(kubelet.run()),
        ]
        try:
            yield kubelet
        finally:
            for task in started:
                task.cancel()


async def until(look: Callable[[], Any], wanted: Callable[[Any], Any] = bool) -> Any:
    """Poll ``look`` until what it returns is wanted; fail showing the last answer."""
    deadline = time.monotonic() + DEADLINE
    while True:
        found = await look()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


def deployment(name: str = "web", replicas: int = 3, **spec: Any) -> Object:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": "echo",
                            "image": "netplane/echo",
                            "ports": [{"name": "http", "containerPort": 8080}],
                        }
                    ]
                },
            },
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            **spec,
        },
    }


def service(name: str = "web", **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]
    metadata = {"name": name, "namespace": "default", "labels": {"team": "a"}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": name}, "ports": ports, "ipFamilies": ["IPv4"], **spec},
    }


async def listed(api: Client, resource: Resource, namespace: str | None = "default") -> list[Object]:
    return (await api.list(resource, namespace)).items


async def live_pods(api: Client) -> list[Object]:
    return [pod for pod in await listed(api, PODS) if not is_deleting(pod)]


def ready(count: int) -> Callable[[list[Object]], bool]:
    return lambda pods: len(pods) == count and all(is_true(pod, "Ready") for pod in pods)


async def endpoint_addresses(api: Client) -> set[str]:
    return {
        address
        for s in await listed(api, ENDPOINTSLICES)
        for endpoint in s.get("endpoints") or []
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
    }


async def test_a_deployment_becomes_pods_on_all_nodes_and_endpoints(api: Client) -> None:
    async with running(api):
        await api.create(SERVICES, service())
        await api.create(DEPLOYMENTS, deployment())
        pods = await until(lambda: live_pods(api), ready(3))
        assert Counter(pod["spec"]["nodeName"] for pod in pods) == {"n1": 1, "n2": 1, "n3": 1}
        [rs] = await listed(api, REPLICASETS)
        stamp = labels_of(rs)["pod-template-hash"]
        assert name_of(rs) == f"web-{stamp}"
        assert all(labels_of(pod)["pod-template-hash"] == stamp for pod in pods)
        addresses = {pod["status"]["podIP"] for pod in pods}
        await until(lambda: endpoint_addresses(api), lambda found: found == addresses)
        [found] = await listed(api, ENDPOINTSLICES)
        assert labels_of(found)["kubernetes.io/service-name"] == "web"
        assert labels_of(found)["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
        assert labels_of(found)["team"] == "a"
        assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        assert "endpoints.kubernetes.io/last-change-trigger-time" in annotations_of(found)
        mirror = await until(
            lambda: api.get(ENDPOINTS, "web", "default"),
            lambda e: len(e["subsets"]) == 1 and len(e["subsets"][0].get("addresses", ())) == 3,
        )
        assert {a["ip"] for a in mirror["subsets"][0]["addresses"]} == addresses
        done = await until(
            lambda: api.get(DEPLOYMENTS, "web", "default"),
            lambda d: (d.get("status") or {}).get("availableReplicas") == 3,
        )
        assert condition(done, "Available")["status"] == "True"
        done = await until(
            lambda: api.get(DEPLOYMENTS, "web", "default"),
            lambda d: condition(d, "Progressing")["reason"] == "NewReplicaSetAvailable",
        )
        assert annotations_of(done)["deployment.kubernetes.io/revision"] == "1"
        reasons = {event["reason"] for event in await listed(api, EVENTS)}
        assert {"ScalingReplicaSet", "SuccessfulCreate", "Scheduled"} <= reasons


async def test_scaling_up_and_down(api: Client) -> None:
    async with running(api):
        await api.create(DEPLOYMENTS, deployment(replicas=2))
        await until(lambda: live_pods(api), ready(2))
        await api.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 6}}, namespace="default")
        pods = await until(lambda: live_pods(api), ready(6))
        assert set(Counter(pod["spec"]["nodeName"] for pod in pods).values()) == {2}
        await api.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 1}}, namespace="default")
        await until(lambda: live_pods(api), ready(1))


async def test_a_rolling_update_replaces_all_pods_within_its_bounds(api: Client) -> None:
    async with running(api):
        await api.create(DEPLOYMENTS, deployment())
        before = {uid_of(pod) for pod in await until(lambda: live_pods(api), ready(3))}
        template = deployment()["spec"]["template"]
        template["metadata"]["annotations"] = {"restarted": "1"}
        await api.patch(DEPLOYMENTS, "web", {"spec": {"template": template}}, namespace="default")

        async def look() -> list[Object]:
            pods = await live_pods(api)
            assert 3 <= len(pods) <= 4
            assert sum(is_true(pod, "Ready") for pod in pods) >= 3
            return pods

        pods = await until(look, lambda pods: ready(3)(pods) and not before & {uid_of(pod) for pod in pods})
        assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2", "n3"}
        sets = await listed(api, REPLICASETS)
        revisions = {annotations_of(rs)["deployment.kubernetes.io/revision"] for rs in sets}
        assert revisions == {"1", "2"}


async def test_recreate_never_runs_both_versions(api: Client) -> None:
    async with running(api):
        made = deployment(strategy={"type": "Recreate"})
        await api.create(DEPLOYMENTS, made)
        before = {uid_of(pod) for pod in await until(lambda: live_pods(api), ready(3))}
        template = made["spec"]["template"]
        template["metadata"]["annotations"] = {"restarted": "1"}
        await api.patch(DEPLOYMENTS, "web", {"spec": {"template": template}}, namespace="default")

        async def look() -> list[Object]:
            pods = await listed(api, PODS)
            old = [pod for pod in pods if uid_of(pod) in before]
            assert not old or len(old) == len(pods)
            return pods

        await until(look, lambda pods: ready(3)(pods) and not before & {uid_of(pod) for pod in pods})


async def test_deleting_a_deployment_takes_its_sets_and_pods_along(api: Client) -> None:
    async with running(api):
        await api.create(DEPLOYMENTS, deployment())
        await until(lambda: live_pods(api), ready(3))
        await api.delete(DEPLOYMENTS, "web", "default", propagation="Background")
        await until(lambda: listed(api, PODS), lambda pods: not pods)
        await until(lambda: listed(api, REPLICASETS), lambda sets: not sets)


async def test_foreground_deletion_keeps_the_owner_until_its_pods_are_gone(api: Client) -> None:
    async with running(api):
        await api.create(DEPLOYMENTS, deployment())
        await until(lambda: live_pods(api), ready(3))
        await api.delete(DEPLOYMENTS, "web", "default", propagation="Foreground")

        await until(lambda: listed(api, DEPLOYMENTS), lambda found: not found)
        assert await listed(api, PODS) == []
        assert await listed(api, REPLICASETS) == []


async def test_orphaned_sets_live_on_and_are_adopted_again(api: Client) -> None:
    async with running(api):
        await api.create(DEPLOYMENTS, deployment())
        before = {uid_of(pod) for pod in await until(lambda: live_pods(api), ready(3))}
        await api.delete(DEPLOYMENTS, "web", "default", propagation="Orphan")
        await until(
            lambda: listed(api, REPLICASETS), lambda sets: not sets[0]["metadata"].get("ownerReferences")
        )
        await until(lambda: listed(api, DEPLOYMENTS), lambda found: not found)
        await api.create(DEPLOYMENTS, deployment())
        await until(lambda: listed(api, REPLICASETS), lambda sets: sets[0]["metadata"].get("ownerReferences"))
        assert {uid_of(pod) for pod in await live_pods(api)} == before


async def test_the_pods_of_a_dead_node_leave_endpoints_and_are_replaced_elsewhere(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.controllers.nodes.nodelifecycle.FIRST_GRACE", 0.4)
    options = Options(node_monitor_grace_period=0.4, pod_eviction_timeout=0.6)
    async with running(api, options) as kubelet:
        await api.create(SERVICES, service())
        await api.create(DEPLOYMENTS, deployment())

        async def alive(*names: str) -> list[Object]:
            await kubelet.beat(*names)
            return await live_pods(api)

        pods = await until(lambda: alive("n1", "n2", "n3"), ready(3))
        [lost] = [pod for pod in pods if pod["spec"]["nodeName"] == "n3"]
        everybody = {pod["status"]["podIP"] for pod in pods}

        async def endpoints(*names: str) -> set[str]:
            await kubelet.beat(*names)
            return await endpoint_addresses(api)

        await until(lambda: endpoints("n1", "n2", "n3"), lambda found: found == everybody)
        kubelet.dead.add("n3")
        await until(lambda: endpoints("n1", "n2"), lambda found: lost["status"]["podIP"] not in found)
        assert condition(await api.get(NODES, "n3"), "Ready")["status"] == "Unknown"
        pods = await until(
            lambda: alive("n1", "n2"),
            lambda found: ready(3)(found) and {p["spec"]["nodeName"] for p in found} == {"n1", "n2"},
        )
        keys = {t["key"] for t in (await api.get(NODES, "n3"))["spec"]["taints"]}
        assert keys == {"node.kubernetes.io/unreachable"}
        assert uid_of(lost) not in {uid_of(pod) for pod in await listed(api, PODS)}
        kubelet.dead.clear()
        await kubelet.say_ready("n3")

        async def n3() -> Object:
            await kubelet.beat("n1", "n2", "n3")
            return await api.get(NODES, "n3")

        await until(n3, lambda node: not node["spec"].get("taints"))


async def test_a_deleted_node_takes_its_pods_along(api: Client) -> None:
    async with running(api, Options(node_monitor_grace_period=0.3)) as kubelet:
        await api.create(DEPLOYMENTS, deployment())

        async def alive() -> list[Object]:
            await kubelet.beat("n1", "n2")
            return await live_pods(api)

        await until(alive, ready(3))
        kubelet.dead.add("n3")
        await api.delete(NODES, "n3")
        await until(
            alive, lambda found: ready(3)(found) and {p["spec"]["nodeName"] for p in found} == {"n1", "n2"}
        )


async def test_nodes_get_pod_networks_and_the_last_one_is_told_why_not(api: Client) -> None:
    from ipaddress import ip_network

    options = Options(cluster_cidrs=(ip_network("10.244.0.0/23"),))
    async with running(api, options) as kubelet:

        async def networks() -> list[str]:
            return sorted(str(n["spec"].get("podCIDR")) for n in await listed(api, NODES, None))

        await until(networks, lambda found: found == ["10.244.0.0/24", "10.244.1.0/24", "None"])
        without = next(n for n in await listed(api, NODES, None) if not n["spec"].get("podCIDR"))
        told = await until(
            lambda: api.get(NODES, name_of(without)), lambda n: condition(n, "NetworkUnavailable")
        )
        assert (
            "all 2 /24 networks of 10.244.0.0/23 are in use"
            in condition(told, "NetworkUnavailable")["message"]
        )
        gone = next(n for n in await listed(api, NODES, None) if n["spec"].get("podCIDR") == "10.244.0.0/24")
        kubelet.dead.add(name_of(gone))
        await api.delete(NODES, name_of(gone))
        await until(networks, lambda found: found == ["10.244.0.0/24", "10.244.1.0/24"])
        await until(
            lambda: api.get(NODES, name_of(without)),
            lambda n: condition(n, "NetworkUnavailable")["status"] == "False",
        )


async def test_a_pod_that_fits_nowhere_says_so_and_is_placed_when_there_is_room(api: Client) -> None:
    async with running(api, nodes=1) as kubelet:
        made = deployment(replicas=1)
        made["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "6"}}
        await api.create(DEPLOYMENTS, made)
        [pod] = await until(
            lambda: live_pods(api), lambda pods: len(pods) == 1 and condition(pods[0], "PodScheduled")
        )
        assert condition(pod, "PodScheduled")["reason"] == "Unschedulable"
        assert condition(pod, "PodScheduled")["message"] == "0/1 nodes are available: 1 Insufficient cpu."
        await until(lambda: listed(api, EVENTS), lambda es: "FailedScheduling" in {e["reason"] for e in es})
        await kubelet.add_node("big", cpu="8")
        [pod] = await until(lambda: live_pods(api), ready(1))
        assert pod["spec"]["nodeName"] == "big"


async def test_a_namespace_goes_with_all_it_holds(api: Client) -> None:
    async with running(api):
        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        made, fronting = deployment(), service()
        for obj in (made, fronting):
            obj["metadata"]["namespace"] = "shop"
        await api.create(SERVICES, fronting)
        await api.create(DEPLOYMENTS, made)
        await until(lambda: listed(api, PODS, "shop"), ready(3))
        await api.delete(NAMESPACES, "shop")
        await until(
            lambda: listed(api, NAMESPACES, None), lambda found: "shop" not in {name_of(n) for n in found}
        )
        for resource in (PODS, SERVICES, ENDPOINTSLICES, DEPLOYMENTS, REPLICASETS, EVENTS):
            assert await listed(api, resource, "shop") == []
