"""Deployments: from one template to the next, with the bookkeeping that kubectl reads."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete, Patch, Record
from controlplane.controllers.workloads.deployment import decide_deployment, view
from controlplane.controllers.workloads.revisions import new_set, template_hash
from netplane.kube.objects import Object, condition, name_of
from netplane.kube.resources import DEPLOYMENTS, REPLICASETS

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
REVISION = "deployment.kubernetes.io/revision"


def deployment(image: str = "v1", replicas: int = 3, **spec: Any) -> Object:
    labels = {"app": "web"}
    return {
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "uid-web",
            "generation": 1,
            "annotations": {"note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
            **spec,
        },
    }


def existing(
    of: Object, revision: int, replicas: int, available: int | None = None, **metadata: Any
) -> Object:
    made = new_set(of, replicas, {})
    made["metadata"] |= {
        "uid": f"uid-{name_of(made)}",
        "generation": 1,
        "creationTimestamp": f"2026-01-0{revision}",
    }
    made["metadata"]["annotations"] = {
        REVISION: str(revision),
        "note": "kept",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }
    made["metadata"] |= metadata
    count = replicas if available is None else available
    made["status"] = {
        "replicas": replicas,
        "availableReplicas": count,
        "readyReplicas": count,
        "observedGeneration": 1,
    }
    return made


def decide(of: Object, *sets: Object, now: datetime = NOW) -> list[Action]:
    return list(decide_deployment(view(of, sets, []), now).actions)


def patches(actions: list[Action], resource: Any, subresource: str = "") -> list[Patch]:
    return [
        a for a in actions if isinstance(a, Patch) and (a.resource, a.subresource) == (resource, subresource)
    ]


def test_the_first_set_carries_hash_revision_and_annotations() -> None:
    actions = decide(deployment())
    [made] = [a.object for a in actions if isinstance(a, Create)]
    stamp = template_hash(deployment()["spec"]["template"], 0)
    assert name_of(made) == f"web-{stamp}"
    assert made["spec"]["selector"] == {"matchLabels": {"app": "web", "pod-template-hash": stamp}}
    assert made["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] == stamp
    assert made["spec"]["replicas"] == 3
    assert made["metadata"]["annotations"] == {
        "note": "kept",
        REVISION: "1",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }
    [patch] = patches(actions, DEPLOYMENTS)
    assert patch.body["metadata"]["annotations"] == {REVISION: "1"}
    assert "Scaled up replica set" in next(a.message for a in actions if isinstance(a, Record))


def test_the_hash_depends_on_the_template_alone() -> None:
    one, two = deployment()["spec"]["template"], copy.deepcopy(deployment()["spec"]["template"])
    two["metadata"]["labels"]["pod-template-hash"] = "whatever"
    two["metadata"]["creationTimestamp"] = None
    assert template_hash(one, 0) == template_hash(two, 0)
    assert template_hash(one, 0) != template_hash(one, 1)
    assert template_hash(one, 0) != template_hash(deployment("v2")["spec"]["template"], 0)


def test_a_new_template_starts_beside_the_old() -> None:
    actions = decide(deployment("v2"), existing(deployment("v1"), 1, 3))
    [made] = [a.object for a in actions if isinstance(a, Create)]
    assert made["spec"]["replicas"] == 1
    assert made["metadata"]["annotations"][REVISION] == "2"
    assert patches(actions, REPLICASETS) == []


def test_an_old_template_comes_back_with_a_new_revision() -> None:
    first, second = existing(deployment("v1"), 1, 0), existing(deployment("v2"), 2, 3)
    actions = decide(deployment("v1"), first, second)
    [patch] = patches(actions, REPLICASETS)
    assert patch.key.name == name_of(first)
    assert patch.body["spec"] == {"replicas": 1}
    assert patch.body["metadata"]["annotations"] == {
        REVISION: "3",
        "deployment.kubernetes.io/revision-history": "1",
    }


def test_a_new_size_is_shared_and_rolls_nothing() -> None:
    sets = existing(deployment("v1"), 1, 2), existing(deployment("v2"), 2, 2)
    actions = decide(deployment("v2", replicas=7), *sets)
    sizes = {p.key.name: p.body["spec"]["replicas"] for p in patches(actions, REPLICASETS)}
    assert sum(sizes.values()) == 8
    notes = [p.body["metadata"]["annotations"] for p in patches(actions, REPLICASETS)]
    assert all(n["deployment.kubernetes.io/desired-replicas"] == "7" for n in notes)


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    old = existing(deployment("v1"), 1, 3)
    actions = decide(deployment("v2", paused=True), old)
    assert not any(isinstance(a, Create) for a in actions)
    [told] = patches(actions, DEPLOYMENTS, "status")
    assert condition(told.body, "Progressing")["reason"] == "DeploymentPaused"


def test_history_is_limited_once_the_rollout_is_complete() -> None:
    old = [existing(deployment(f"v{i}"), i, 0) for i in range(1, 4)]
    present = existing(deployment("v4"), 4, 3)
    now = deployment("v4", revisionHistoryLimit=1)
    gone = [a.key.name for a in decide(now, *old, present) if isinstance(a, Delete)]
    assert gone == [name_of(old[0]), name_of(old[1])]
    busy = existing(deployment("v4"), 4, 3, available=2)
    assert not any(isinstance(a, Delete) for a in decide(now, *old, busy))


def status_of(actions: list[Action]) -> Object:
    [patch] = patches(actions, DEPLOYMENTS, "status")
    return patch.body["status"]


def settled(of: Object) -> Object:
    of["metadata"]["annotations"][REVISION] = "1"
    return of


def test_complete_says_so_and_then_is_quiet() -> None:
    of = settled(deployment())
    present = existing(of, 1, 3)
    found = status_of(decide(of, present))
    assert found["availableReplicas"] == found["updatedReplicas"] == 3
    assert condition({"status": found}, "Available")["status"] == "True"
    progress = condition({"status": found}, "Progressing")
    assert progress["reason"] == "NewReplicaSetAvailable"
    assert progress["message"] == f'ReplicaSet "{name_of(present)}" has successfully progressed.'
    assert decide({**of, "status": found}, present, now=NOW + timedelta(hours=1)) == []


def test_a_rollout_that_gets_nowhere_fails_at_its_deadline() -> None:
    of = settled(deployment(progressDeadlineSeconds=60))
    present = existing(of, 1, 3, available=0)
    first = decide_deployment(view(of, [present], []), NOW)
    of["status"] = status_of(list(first.actions))
    assert condition(of, "Progressing")["reason"] == "ReplicaSetUpdated"
    waiting = decide_deployment(view(of, [present], []), NOW + timedelta(seconds=30))
    assert waiting.actions == []
    assert waiting.again_after == 31
    late = status_of(decide(of, present, now=NOW + timedelta(seconds=62)))
    assert condition({"status": late}, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    present["status"]["availableReplicas"] = 1
    moved = status_of(decide({**of, "status": late}, present, now=NOW + timedelta(seconds=63)))
    assert condition({"status": moved}, "Progressing")["status"] == "True"


def test_pods_that_fail_after_a_complete_rollout_are_no_failed_rollout() -> None:
    of = settled(deployment())
    of["status"] = status_of(decide(of, existing(of, 1, 3)))
    found = status_of(decide(of, existing(of, 1, 3, available=1), now=NOW + timedelta(days=1)))
    assert condition({"status": found}, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert condition({"status": found}, "Available")["status"] == "False"


def test_a_deployment_that_is_being_deleted_only_tells() -> None:
    of = deployment("v2")
    of["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    actions = decide(of, existing(deployment("v1"), 1, 3))
    assert [type(a) for a in actions] == [Patch]
    assert len(patches(actions, DEPLOYMENTS, "status")) == 1
