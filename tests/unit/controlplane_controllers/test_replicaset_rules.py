"""ReplicaSets: who goes first, what is created, what the status counts, who is adopted."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.controllers.actions import Adopt, Create, Delete, Patch
from controlplane.controllers.facts.owners import claim, selector_of
from controlplane.controllers.workloads.ranking import first_to_go
from controlplane.controllers.workloads.replicaset import counts, pod_for, scale, status, status_actions
from netplane.kube.objects import Object, condition, name_of, set_condition
from netplane.kube.resources import PODS, REPLICASETS

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def rs(replicas: int = 2, **spec: Any) -> Object:
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web-abc", "namespace": "default", "uid": "uid-rs", "generation": 4},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": {**labels, "v": "1"}},
                "spec": {"containers": [{"name": "c"}]},
            },
            **spec,
        },
    }


def pod(
    name: str,
    *,
    node: str = "n1",
    phase: str = "Running",
    ready: str = "11:00:00",
    restarts: int = 0,
    cost: str = "0",
    created: str = "10:00:00",
    owner: str | None = "uid-rs",
    **metadata: Any,
) -> Object:
    conditions = set_condition([], "Ready", "True", "", "", f"2026-01-01T{ready}Z") if ready else []
    owners = [{"uid": owner, "controller": True, "kind": "ReplicaSet", "name": "web-abc"}] if owner else []
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "labels": {"app": "web", "v": "1"},
            "creationTimestamp": f"2026-01-01T{created}Z",
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost},
            "ownerReferences": owners,
            **metadata,
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"restartCount": restarts}],
        },
    }


RANKS = [
    ("without a node", pod("z", node="", phase="Pending", ready=""), pod("a", phase="Pending", ready="")),
    ("pending", pod("z", phase="Pending", ready=""), pod("a", ready="")),
    ("not ready", pod("z", ready=""), pod("a")),
    ("cheap", pod("z", cost="-5"), pod("a", ready="11:30:00")),
    ("on the fuller node", pod("z", node="n2", created="09:00:00"), pod("a", node="n1")),
    ("ready for a shorter time", pod("z", ready="11:30:00"), pod("a")),
    ("restarting", pod("z", restarts=3), pod("a", created="11:00:00")),
    ("younger", pod("z", created="10:30:00"), pod("a")),
    ("by name", pod("a"), pod("z")),
]


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in RANKS], ids=[row[0] for row in RANKS])
def test_who_goes_first(first: Object, second: Object) -> None:
    related = [first, second, pod("other", node="n2")]
    for pods in ([first, second], [second, first]):
        assert [name_of(p) for p in first_to_go(pods, related)] == [name_of(first), name_of(second)]


def test_missing_pods_are_created_and_surplus_ones_deleted() -> None:
    names = iter("abcdefgh")
    actions = scale(rs(3), [pod("p1")], [], lambda: next(names))
    assert [name_of(a.object) for a in actions if isinstance(a, Create)] == ["web-abc-a", "web-abc-b"]
    actions = scale(rs(1), [pod("p1"), pod("p2", ready="")], [], lambda: next(names))
    assert actions == [Delete(PODS, ("default", "p2"), "uid-p2")]
    assert scale(rs(1), [pod("p1")], [], lambda: next(names)) == []


def test_a_pod_is_the_template_with_an_owner() -> None:
    made = pod_for(rs(), "x1")
    assert made["metadata"]["labels"] == {"app": "web", "v": "1"}
    [owner] = made["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-abc",
        "uid": "uid-rs",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def test_long_names_keep_room_for_the_suffix() -> None:
    long = rs()
    long["metadata"]["name"] = "x" * 200
    assert len(name_of(pod_for(long, "abcde"))) <= 64


def test_the_status_counts_and_says_when_the_next_becomes_available() -> None:
    pods = [
        pod("old"),
        pod("new", ready="11:59:50"),
        pod("not", ready=""),
        pod("bare", labels={"app": "web"}),
    ]
    found = counts(rs(4, minReadySeconds=30), pods, NOW)
    assert (found.replicas, found.labelled, found.ready, found.available) == (4, 3, 3, 2)
    assert found.available_in == 20


def test_a_refusal_becomes_a_condition_and_goes_with_success() -> None:
    found = counts(rs(), [], NOW)
    failed = status(rs(), found, "quota", NOW)
    assert condition({"status": failed}, "ReplicaFailure")["reason"] == "FailedCreate"
    assert failed["observedGeneration"] == 4
    mended = status({**rs(), "status": failed}, found, "", NOW)
    assert mended["conditions"] == []
    assert status_actions({**rs(), "status": mended}, mended) == []


def test_claims_adopt_release_and_leave_alone() -> None:
    owner = rs()
    owner["metadata"]["resourceVersion"] = "7"
    mine, free = pod("mine"), pod("free", owner=None)
    strange = pod("strange", labels={"app": "other"})
    taken, stray = pod("taken", owner="uid-else"), pod("stray", owner=None, labels={"app": "other"})
    going = pod("going", owner=None, deletionTimestamp="2026-01-01T00:00:00Z")
    selector = selector_of(owner)
    assert selector is not None
    found = claim(REPLICASETS, owner, PODS, selector, [mine, free, strange, taken, stray, going])
    assert found.held == (mine,)
    adopt, release = found.actions
    assert isinstance(adopt, Adopt)
    assert adopt.patch.key.name == "free"
    assert isinstance(release, Patch)
    assert release.key.name == "strange"
    assert release.body["metadata"]["ownerReferences"] == []
    owner["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    dying = claim(REPLICASETS, owner, PODS, selector, [mine, free, strange])
    assert dying.actions == ()


@pytest.mark.parametrize("selector", [{}, {"matchExpressions": [{"key": "a", "operator": "Near"}]}])
def test_a_selector_that_says_nothing_selects_nothing(selector: Object) -> None:
    assert selector_of(rs(selector=selector)) is None
