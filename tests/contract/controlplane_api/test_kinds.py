"""Kinds over HTTPS: what other objects decide about a write, what a node may read, what is merely listed."""

import asyncio
import json

import pytest

from controlplane.api.kinds.listed import LISTED

NODE = ("system:node:n1", "system:nodes")
DEFAULT = "/api/v1/namespaces/default"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


def pod(name="a", **spec):
    spec = {"containers": [{"name": "c", "image": "netplane/echo"}], **spec}
    return {"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec}


async def running(server, name="a", *, ready=True, **spec):
    await server.ok("POST", f"{DEFAULT}/pods", pod(name, nodeName="n1", **spec))
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"status": {"phase": "Running", "conditions": conditions}}
    kind = "application/merge-patch+json"
    await server.ok("PATCH", f"{DEFAULT}/pods/{name}/status", status, kind=kind)


async def budgeted(server, allowed, healthy=1, desired=1):
    """A budget of this room, as its controller would have counted it."""
    spec = {"minAvailable": desired, "selector": {"matchLabels": {"app": "web"}}}
    await server.ok("POST", BUDGETS, {"metadata": {"name": "b"}, "spec": spec})
    status = {"disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired}
    body = {"status": {**status, "observedGeneration": 1}}
    await server.ok("PATCH", f"{BUDGETS}/b/status", body, kind="application/merge-patch+json")


def eviction(name="a", **options):
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 0, **options},
    }


async def evict(server, name="a", **options):
    return await server.call("POST", f"{DEFAULT}/pods/{name}/eviction", eviction(name, **options))


async def test_an_eviction_without_a_budget_is_a_delete(server):
    await running(server)
    assert (await evict(server)).code == 201
    assert (await server.refused("GET", f"{DEFAULT}/pods/a")).code == 404


async def test_a_budget_without_room_keeps_the_pod(server):
    await running(server)
    await budgeted(server, 0)
    answer = await evict(server)
    assert (answer.code, answer.body["reason"]) == (429, "TooManyRequests")
    (cause,) = answer.body["details"]["causes"]
    assert cause["reason"] == "DisruptionBudget"
    await server.ok("GET", f"{DEFAULT}/pods/a")


async def test_each_eviction_takes_one_from_the_budget(server):
    for name in ("a", "b", "c"):
        await running(server, name)
    await budgeted(server, 1, healthy=3, desired=2)
    answers = await asyncio.gather(*(evict(server, name) for name in ("a", "b", "c")))
    assert sorted(answer.code for answer in answers) == [201, 429, 429]
    left = await server.ok("GET", f"{DEFAULT}/pods")
    assert len(left["items"]) == 2
    status = (await server.ok("GET", f"{BUDGETS}/b"))["status"]
    assert status["disruptionsAllowed"] == 0
    assert len(status["disruptedPods"]) == 1


async def test_a_rehearsed_eviction_asks_the_budget_and_changes_nothing(server):
    await running(server)
    await budgeted(server, 1)
    assert (await evict(server, dryRun=["All"])).code == 201
    await server.ok("GET", f"{DEFAULT}/pods/a")
    assert (await server.ok("GET", f"{BUDGETS}/b"))["status"]["disruptionsAllowed"] == 1


async def test_two_budgets_for_one_pod_are_an_error(server):
    await running(server)
    await budgeted(server, 1)
    await server.ok("POST", BUDGETS, {"metadata": {"name": "all"}, "spec": {"selector": {}}})
    answer = await evict(server)
    assert answer.code == 500
    assert "more than one PodDisruptionBudget" in answer.body["message"]


async def test_an_eviction_must_name_its_pod_and_be_of_a_pod(server):
    answer = await server.call("POST", f"{DEFAULT}/pods/a/eviction", eviction("b"))
    assert answer.code == 400
    assert (await evict(server)).code == 404


async def test_a_node_reads_what_its_pods_use_by_name(server):
    for name in ("mine", "other"):
        await server.ok("POST", f"{DEFAULT}/configmaps", {"metadata": {"name": name}, "data": {"a": "1"}})
    await running(server, volumes=[{"name": "v", "configMap": {"name": "mine"}}])
    chosen = {"fieldSelector": "metadata.name=mine"}
    assert (await server.ok("GET", f"{DEFAULT}/configmaps/mine", who=NODE))["data"] == {"a": "1"}
    listed = await server.ok("GET", f"{DEFAULT}/configmaps", who=NODE, **chosen)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["mine"]
    for path, query in (
        (f"{DEFAULT}/configmaps/other", {}),
        (f"{DEFAULT}/configmaps", {}),
        (f"{DEFAULT}/configmaps", {"fieldSelector": "metadata.name!=mine"}),
        ("/api/v1/configmaps", chosen),
        (f"{DEFAULT}/secrets/mine", {}),
        (f"{DEFAULT}/secrets", {"watch": "1"}),
    ):
        assert (await server.refused("GET", path, who=NODE, **query)).code == 403, path
    refusal = await server.refused("GET", f"{DEFAULT}/configmaps/other", who=NODE)
    assert "no relationship found between node 'n1' and this object" in refusal.message
    assert (await server.refused("DELETE", f"{DEFAULT}/configmaps/mine", who=NODE)).code == 403


async def test_a_job_s_pods_are_orphaned_unless_asked_otherwise(server):
    template = {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}
    for name in ("kept", "gone"):
        await server.ok("POST", JOBS, {"metadata": {"name": name}, "spec": {"template": template}})
    answer = await server.call("DELETE", f"{JOBS}/kept")
    assert answer.body["metadata"]["finalizers"] == ["orphan"]
    assert "child pods are preserved by default" in answer.headers["Warning"]
    answer = await server.call("DELETE", f"{JOBS}/gone", {"propagationPolicy": "Background"})
    assert answer.body["status"] == "Success"
    assert "Warning" not in answer.headers


async def test_a_network_policy_is_stored_and_warned_of(server):
    policy = {"metadata": {"name": "n"}, "spec": {"podSelector": {}}}
    answer = await server.call("POST", POLICIES, policy)
    assert answer.code == 201
    assert "nothing enforces them" in answer.headers["Warning"]


async def test_the_system_s_priority_classes_are_published_and_resolved(server):
    classes = await server.ok("GET", CLASSES)
    assert [item["metadata"]["name"] for item in classes["items"]] == [
        "system-cluster-critical",
        "system-node-critical",
    ]
    made = await server.ok("POST", f"{DEFAULT}/pods", pod(priorityClassName="system-node-critical"))
    assert (made["spec"]["priority"], made["spec"]["serviceAccountName"]) == (2_000_001_000, "default")
    refusal = await server.refused("POST", f"{DEFAULT}/pods", pod("b", priorityClassName="none"))
    assert (refusal.code, refusal.message) == (
        403,
        'pods "b" is forbidden: no PriorityClass with name none was found',
    )


async def test_a_secret_never_shows_its_plain_strings(server):
    body = {"metadata": {"name": "s"}, "stringData": {"a": "b"}, "immutable": True}
    made = await server.ok("POST", f"{DEFAULT}/secrets", body)
    assert (made["data"], "stringData" in made) == ({"a": "Yg=="}, False)
    change = {"stringData": {"a": "c"}}
    kind = "application/merge-patch+json"
    refusal = await server.refused("PATCH", f"{DEFAULT}/secrets/s", change, kind=kind)
    assert (refusal.code, refusal.details["causes"][0]["field"]) == (422, "data")


@pytest.mark.parametrize("resource", LISTED, ids=lambda resource: f"{resource.qualified}-{resource.version}")
async def test_what_is_merely_listed_is_empty_and_takes_nothing(server, resource):
    path = resource.path("default") if resource.namespaced else resource.path()
    found = await server.ok("GET", path)
    assert (found["kind"], found["items"]) == (f"{resource.kind}List", [])
    assert (await server.refused("GET", f"{path}/x")).reason == "NotFound"
    assert (await server.refused("DELETE", f"{path}/x")).reason == "NotFound"
    body = {"metadata": {"name": "x"}}
    for method, where, kind in (
        ("POST", path, "application/json"),
        ("PATCH", f"{path}/x", "application/apply-patch+yaml"),
    ):
        refusal = await server.refused(method, where, json.dumps(body).encode(), kind=kind)
        assert (refusal.code, refusal.reason) == (405, "MethodNotAllowed")
        assert f"netplane does not serve {resource.qualified}" in refusal.message


async def test_nobody_owns_what_the_server_makes_up_for_a_job(server):
    """Else whoever applies the Job again would take the generated labels away, and be refused."""
    template = {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}
    made = await server.ok("POST", JOBS, {"metadata": {"name": "j"}, "spec": {"template": template}})
    assert made["spec"]["template"]["metadata"]["labels"]["job-name"] == "j"
    (entry,) = made["metadata"]["managedFields"]
    owned = entry["fieldsV1"]["f:spec"]
    assert "f:selector" not in owned
    assert set(owned["f:template"]) == {"f:spec"}
