"""What controllers rely on in an API server, checked on the fake and on the real one alike."""

import asyncio
from typing import Any

import pytest

from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.objects import Object, is_deleting, meta, resource_version_of, uid_of
from netplane.kube.resources import DEPLOYMENTS, NAMESPACES, PODS, REPLICASETS, SERVICES


def pod(name: str = "p", **metadata: Any) -> Object:
    container = {"name": "c", "image": "netplane/echo"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"containers": [container]},
    }


def replicaset(name: str = "rs") -> Object:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def binding(obj: Object, node: str) -> Object:
    metadata = {"name": obj["metadata"]["name"], "namespace": "default", "uid": uid_of(obj)}
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": metadata,
        "target": {"kind": "Node", "name": node},
    }


async def test_create_answers_with_identity_and_a_number_as_revision(api: Client) -> None:
    made = await api.create(PODS, pod())
    assert uid_of(made)
    assert resource_version_of(made).isdecimal()
    assert not (made["spec"].get("nodeName"))
    with pytest.raises(errors.StatusError) as refused:
        await api.create(PODS, pod())
    assert errors.is_already_exists(refused.value)


async def test_revisions_grow_across_resources_and_a_write_is_in_the_watch_at_its_revision(
    api: Client,
) -> None:
    first = await api.create(PODS, pod())
    second = await api.create(REPLICASETS, replicaset())
    assert int(resource_version_of(first)) < int(resource_version_of(second))
    listed = await api.list(PODS, "default")
    patched = await api.patch(PODS, "p", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
    async with asyncio.timeout(5):
        async for event in api.watch(PODS, resource_version=listed.resource_version):
            if event["type"] == "MODIFIED":
                assert resource_version_of(event["object"]) == resource_version_of(patched)
                break


async def test_a_stale_revision_conflicts_and_a_no_op_changes_none(api: Client) -> None:
    made = await api.create(PODS, pod())
    version = resource_version_of(made)
    body = {"metadata": {"labels": {"a": "b"}, "resourceVersion": version}}
    patched = await api.patch(PODS, "p", body, namespace="default")
    assert resource_version_of(patched) != version
    with pytest.raises(errors.StatusError) as refused:
        await api.patch(PODS, "p", body, namespace="default")
    assert errors.is_conflict(refused.value)
    again = await api.patch(PODS, "p", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
    assert resource_version_of(again) == resource_version_of(patched)


async def test_status_and_spec_are_written_apart(api: Client) -> None:
    made = await api.create(REPLICASETS, replicaset())
    both = {"spec": {"replicas": 3}, "status": {"replicas": 7, "observedGeneration": 1}}
    patched = await api.patch(REPLICASETS, "rs", both, namespace="default", subresource="status")
    assert patched["spec"]["replicas"] == 1
    assert patched["status"]["replicas"] == 7
    assert meta(patched)["generation"] == meta(made)["generation"] == 1
    both["status"]["replicas"] = 8
    patched = await api.patch(REPLICASETS, "rs", both, namespace="default")
    assert patched["spec"]["replicas"] == 3
    assert patched["status"]["replicas"] == 7
    assert meta(patched)["generation"] == 2


async def test_a_binding_happens_once_and_to_this_very_pod(api: Client) -> None:
    made = await api.create(PODS, pod())
    await api.create(PODS, binding(made, "n1"), subresource="binding")
    assert (await api.get(PODS, "p", "default"))["spec"]["nodeName"] == "n1"
    with pytest.raises(errors.StatusError) as refused:
        await api.create(PODS, binding(made, "n2"), subresource="binding")
    assert errors.is_conflict(refused.value)
    other = await api.create(PODS, pod("q"))
    stranger = {**other, "metadata": {**meta(other), "uid": "no-such-uid"}}
    with pytest.raises(errors.StatusError) as refused:
        await api.create(PODS, binding(stranger, "n1"), subresource="binding")
    assert errors.is_conflict(refused.value)


async def test_a_pod_on_a_node_goes_in_two_steps_another_in_one(api: Client) -> None:
    made = await api.create(PODS, pod())
    await api.create(PODS, binding(made, "n1"), subresource="binding")
    await api.delete(PODS, "p", "default")
    assert is_deleting(await api.get(PODS, "p", "default"))
    await api.delete(PODS, "p", "default", grace_seconds=0, uid=uid_of(made))
    await api.create(PODS, pod("q"))
    await api.delete(PODS, "q", "default")
    assert (await api.list(PODS, "default")).items == []


async def test_deletion_of_a_namesake_is_a_conflict(api: Client) -> None:
    await api.create(PODS, pod())
    with pytest.raises(errors.StatusError) as refused:
        await api.delete(PODS, "p", "default", uid="no-such-uid")
    assert errors.is_conflict(refused.value)
    with pytest.raises(errors.StatusError) as refused:
        await api.delete(PODS, "nobody", "default")
    assert errors.is_not_found(refused.value)


@pytest.mark.parametrize(
    ("propagation", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")]
)
async def test_propagation_leaves_a_finalizer_and_the_last_one_frees(
    api: Client, propagation: str, finalizer: str
) -> None:
    await api.create(REPLICASETS, replicaset())
    await api.delete(REPLICASETS, "rs", "default", propagation=propagation)
    held = await api.get(REPLICASETS, "rs", "default")
    assert is_deleting(held)
    assert meta(held)["finalizers"] == [finalizer]
    await api.patch(REPLICASETS, "rs", {"metadata": {"finalizers": []}}, namespace="default")
    with pytest.raises(errors.StatusError) as refused:
        await api.get(REPLICASETS, "rs", "default")
    assert errors.is_not_found(refused.value)


async def test_a_namespace_waits_for_its_finalizer_and_takes_nothing_new(api: Client) -> None:
    await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    await api.delete(NAMESPACES, "shop")
    held = await api.get(NAMESPACES, "shop")
    assert is_deleting(held)
    with pytest.raises(errors.StatusError) as refused:
        await api.create(PODS, pod(namespace="shop"))
    assert refused.value.code == 403
    await api.replace(NAMESPACES, {**held, "spec": {"finalizers": []}}, subresource="finalize")
    with pytest.raises(errors.StatusError) as refused:
        await api.get(NAMESPACES, "shop")
    assert errors.is_not_found(refused.value)


async def test_what_is_not_there_is_not_found(api: Client) -> None:
    for resource in (PODS, SERVICES, DEPLOYMENTS):
        with pytest.raises(errors.StatusError) as refused:
            await api.get(resource, "nobody", "default")
        assert errors.is_not_found(refused.value)
