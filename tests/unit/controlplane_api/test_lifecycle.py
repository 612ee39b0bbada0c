"""Birth, change and death of any object: the rules of metadata and of deletion."""

from datetime import UTC, datetime

import pytest

from controlplane.api.writing import lifecycle
from controlplane.api.writing.lifecycle import DeleteOptions
from netplane.kube.errors import StatusError
from netplane.kube.resources import DEPLOYMENTS, NAMESPACES, PODS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(**metadata):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "namespace": "a", "uid": "u1", "resourceVersion": "5", **metadata},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 20},
        "status": {"phase": "Running"},
    }


IDENTITY = [
    ({"kind": "Node"}, "kind in the data (Node)"),
    ({"apiVersion": "v2"}, "apiVersion in the data (v2)"),
    ({"metadata": []}, "metadata: Invalid value"),
    ({"metadata": {"name": 7}}, "metadata.name: Invalid value"),
    ({"metadata": {"namespace": "b"}}, "metadata.namespace"),
    ({"metadata": {"name": "y"}}, "the name of the object (y) does not match the name on the URL (x)"),
]


@pytest.mark.parametrize(("obj", "cause"), IDENTITY)
def test_an_object_that_is_not_what_the_url_says_is_a_400(obj, cause) -> None:
    with pytest.raises(StatusError) as raised:
        lifecycle.check_identity(PODS, obj, "a", "x")
    assert raised.value.code == 400
    assert cause in str(raised.value)


def test_what_an_object_leaves_out_comes_from_the_url() -> None:
    obj = {}
    lifecycle.check_identity(PODS, obj, "a", "x")
    assert obj == {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "x"}}


def test_birth_is_the_servers_to_say() -> None:
    obj = {
        "metadata": {"name": "x", "uid": "mine", "deletionTimestamp": "2020-01-01T00:00:00Z", "selfLink": "/"}
    }
    lifecycle.stamp_new(obj, NOW, "u2", "abcde")
    assert obj["metadata"] == {"name": "x", "uid": "u2", "creationTimestamp": "2026-01-01T00:00:00Z"}


def test_a_generated_name_fits_whatever_its_beginning() -> None:
    obj = {"metadata": {"generateName": "a" * 80}}
    lifecycle.stamp_new(obj, NOW, "u", "bcdfg")
    assert obj["metadata"]["name"] == "a" * 58 + "bcdfg"


@pytest.mark.parametrize("metadata", [{}, {"name": "x", "resourceVersion": "3"}])
def test_a_creation_without_a_name_or_with_a_past_is_a_400(metadata) -> None:
    with pytest.raises(StatusError) as raised:
        lifecycle.stamp_new({"metadata": metadata}, NOW, "u", "bcdfg")
    assert raised.value.code == 400


def test_an_update_keeps_what_is_not_the_writers() -> None:
    old = pod(generation=3, creationTimestamp="then")
    new = pod(
        generation=9, creationTimestamp="now", deletionTimestamp="now", selfLink="/x", labels={"a": "b"}
    )
    lifecycle.carry_over(PODS, new, old)
    assert new["metadata"] == {**old["metadata"], "labels": {"a": "b"}}


@pytest.mark.parametrize(("field", "value"), [("uid", "u2"), ("resourceVersion", "4")])
def test_an_update_of_another_object_or_version_is_a_conflict(field, value) -> None:
    with pytest.raises(StatusError) as raised:
        lifecycle.carry_over(PODS, pod(**{field: value}), pod())
    assert (raised.value.code, raised.value.reason) == (409, "Conflict")


def test_a_running_pod_gets_its_grace_and_a_second_delete_may_only_shorten_it() -> None:
    first = lifecycle.delete(PODS, pod(), DeleteOptions(), NOW)
    assert not first.removed
    metadata = first.obj["metadata"]
    assert metadata["deletionTimestamp"] == "2026-01-01T00:00:20Z"
    assert metadata["deletionGracePeriodSeconds"] == 20
    longer = lifecycle.delete(PODS, first.obj, DeleteOptions(grace=60), NOW)
    assert longer.obj["metadata"]["deletionGracePeriodSeconds"] == 20
    shorter = lifecycle.delete(PODS, longer.obj, DeleteOptions(grace=5), NOW)
    assert shorter.obj["metadata"]["deletionGracePeriodSeconds"] == 5
    assert lifecycle.delete(PODS, shorter.obj, DeleteOptions(grace=0), NOW).removed


def test_pods_that_nobody_runs_go_at_once() -> None:
    unscheduled, finished = pod(), pod()
    del unscheduled["spec"]["nodeName"]
    finished["status"]["phase"] = "Succeeded"
    assert lifecycle.delete(PODS, unscheduled, DeleteOptions(), NOW).removed
    assert lifecycle.delete(PODS, finished, DeleteOptions(), NOW).removed


def test_finalizers_keep_an_object_until_the_last_is_gone() -> None:
    kept = lifecycle.delete(PODS, pod(finalizers=["a/b"]), DeleteOptions(grace=0), NOW)
    assert not kept.removed
    assert not lifecycle.finished(PODS, kept.obj)
    kept.obj["metadata"]["finalizers"] = []
    assert lifecycle.finished(PODS, kept.obj)


PROPAGATION = [
    ("Foreground", ["foregroundDeletion"]),
    ("Orphan", ["orphan"]),
    ("Background", None),
    ("", ["orphan"]),
]


@pytest.mark.parametrize(("policy", "finalizers"), PROPAGATION)
def test_propagation_is_recorded_for_the_garbage_collector(policy, finalizers) -> None:
    obj = {"metadata": {"name": "d", "uid": "u", "finalizers": ["orphan"]}}
    outcome = lifecycle.delete(DEPLOYMENTS, obj, DeleteOptions(propagation=policy), NOW)
    assert outcome.removed is (finalizers is None)
    assert outcome.obj["metadata"].get("finalizers") == finalizers


def test_a_namespace_waits_for_its_own_finalizer() -> None:
    obj = {"metadata": {"name": "n", "uid": "u"}, "spec": {"finalizers": ["kubernetes"]}, "status": {}}
    outcome = lifecycle.delete(NAMESPACES, obj, DeleteOptions(), NOW)
    assert not outcome.removed
    assert outcome.obj["status"]["phase"] == "Terminating"
    assert lifecycle.terminating(outcome.obj)
    outcome.obj["spec"]["finalizers"] = []
    assert lifecycle.finished(NAMESPACES, outcome.obj)


def test_preconditions_protect_a_namesake() -> None:
    with pytest.raises(StatusError) as raised:
        lifecycle.delete(PODS, pod(), DeleteOptions(uid="other"), NOW)
    assert raised.value.code == 409


def test_delete_options_come_in_the_body_or_in_the_query() -> None:
    body = {"gracePeriodSeconds": 3, "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}}
    assert lifecycle.delete_options(body, {}) == DeleteOptions(3, "Orphan", "u")
    assert lifecycle.delete_options(None, {"gracePeriodSeconds": "0"}) == DeleteOptions(0)
    assert lifecycle.delete_options(None, {"orphanDependents": "true"}) == DeleteOptions(None, "Orphan")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "DeleteOptions"),
        ({"gracePeriodSeconds": -1}, "gracePeriodSeconds"),
        ({"gracePeriodSeconds": True}, "gracePeriodSeconds"),
        ({"propagationPolicy": "Sideways"}, "propagationPolicy"),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, "propagationPolicy"),
        ({"preconditions": 3}, "preconditions"),
    ],
)
def test_delete_options_that_make_no_sense_are_named(body, named) -> None:
    with pytest.raises(StatusError, match=named):
        lifecycle.delete_options(body, {})


def test_empty_metadata_is_no_change() -> None:
    assert lifecycle.same(pod(labels={}, resourceVersion="6"), pod())
    assert not lifecycle.same(pod(labels={"a": "b"}), pod())
