"""Owner references: what is deleted, what is let go, what waits."""

from typing import Any

from controlplane.controllers.actions import Delete, Patch
from controlplane.controllers.upkeep.garbage import Dependent, collect, finish_deletion
from controlplane.controllers.upkeep.namespaces import emptying, finalized
from netplane.kube.objects import Object
from netplane.kube.resources import PODS, REPLICASETS, SERVICES

GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def obj(name: str, *owners: str, **metadata: Any) -> Object:
    references = [{"uid": owner, "name": owner, "kind": "ReplicaSet"} for owner in owners]
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "ownerReferences": references,
            **metadata,
        }
    }


def dependent(name: str, *, blocks: bool = True, nested: bool = False, **metadata: Any) -> Dependent:
    return Dependent(PODS, obj(name, "owner", **metadata), blocks, nested)


def owner(finalizer: str) -> Object:
    return obj("owner", finalizers=["keep", finalizer], **GONE)


def test_foreground_deletes_dependents_and_those_with_dependents_in_the_foreground_too() -> None:
    actions = finish_deletion(
        REPLICASETS, owner("foregroundDeletion"), [dependent("a"), dependent("b", nested=True)]
    )
    assert [(a.key.name, a.propagation) for a in actions if isinstance(a, Delete)] == [
        ("a", "Background"),
        ("b", "Foreground"),
    ]


def test_foreground_waits_for_blocking_dependents_only() -> None:
    going = dependent("a", **GONE)
    assert finish_deletion(REPLICASETS, owner("foregroundDeletion"), [going]) == []
    free = dependent("a", blocks=False, **GONE)
    [patch] = finish_deletion(REPLICASETS, owner("foregroundDeletion"), [free])
    assert isinstance(patch, Patch)
    assert patch.body["metadata"]["finalizers"] == ["keep"]


def test_orphans_are_let_go_before_the_owner() -> None:
    [patch] = finish_deletion(REPLICASETS, owner("orphan"), [dependent("a")])
    assert isinstance(patch, Patch)
    assert patch.key.name == "a"
    assert patch.body["metadata"]["ownerReferences"] == []
    [patch] = finish_deletion(REPLICASETS, owner("orphan"), [])
    assert isinstance(patch, Patch)
    assert patch.key.name == "owner"


def test_other_finalizers_are_not_ours() -> None:
    assert finish_deletion(REPLICASETS, obj("owner", finalizers=["keep"], **GONE), [dependent("a")]) == []


def test_an_object_goes_with_its_last_owner() -> None:
    [delete] = collect(PODS, obj("a", "x", "y"), {"x", "y"})
    assert isinstance(delete, Delete)
    assert delete.uid == "a"
    [patch] = collect(PODS, obj("a", "x", "y"), {"x"})
    assert isinstance(patch, Patch)
    assert [r["uid"] for r in patch.body["metadata"]["ownerReferences"]] == ["y"]
    assert collect(PODS, obj("a", "x"), set()) == []
    assert collect(PODS, obj("a", "x", **GONE), {"x"}) == []


def test_a_namespace_is_emptied_of_what_is_not_going_yet() -> None:
    actions = emptying({PODS: [obj("a"), obj("b", **GONE)], SERVICES: [obj("c")]})
    assert [a.key.name for a in actions if isinstance(a, Delete)] == ["a", "c"]
    freed = finalized({"metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes", "other"]}})
    assert freed.object["spec"]["finalizers"] == ["other"]
    assert freed.subresource == "finalize"
