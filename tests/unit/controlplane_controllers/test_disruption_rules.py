"""PodDisruptionBudgets: how many pods may go now, and what an eviction takes from that."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.api.writing.evictions import charged, counts_for_a_budget, goes_free
from controlplane.controllers.workloads.disruption import Expectation, expect, wanted_status
from netplane.kube.errors import StatusError
from netplane.kube.objects import condition, rfc3339, set_condition

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)

EXPECTED = [
    # spec, pods, size of the owners, (pods, healthy)
    ({}, 3, 3, (3, 0)),
    ({"minAvailable": 2}, 3, "unknown", (3, 2)),
    ({"minAvailable": "50%"}, 3, 5, (5, 3)),
    ({"maxUnavailable": 1}, 3, 5, (5, 4)),
    ({"maxUnavailable": "25%"}, 3, 5, (5, 3)),
    ({"maxUnavailable": 9}, 3, 5, (5, 0)),
    ({"maxUnavailable": 0}, 3, 5, (5, 5)),
]


@pytest.mark.parametrize(("spec", "pods", "size", "expected"), EXPECTED)
def test_what_a_budget_expects(spec, pods, size, expected):
    found = expect(spec, pods, size)
    assert (found.pods, found.healthy, found.failure) == (*expected, "")


def test_a_share_of_nobody_knows_how_many_is_a_failure():
    assert expect({"maxUnavailable": 1}, 3, "no scale").failure == "no scale"


def budget(generation=1, **status):
    spec = {"selector": {}, "minAvailable": 2}
    return {"metadata": {"name": "b", "namespace": "default", "generation": generation}, "spec": spec} | (
        {"status": status} if status else {}
    )


def pod(name, ready=True, phase="Running", **metadata):
    conditions = set_condition([], "Ready", "True" if ready else "False", "", "", rfc3339(NOW))
    about = {"name": name, "namespace": "default", **metadata}
    return {"metadata": about, "status": {"phase": phase, "conditions": conditions}}


GOING = {"deletionTimestamp": rfc3339(NOW)}
THREE = [pod("a"), pod("b"), pod("c")]


def ago(seconds):
    return rfc3339(NOW - timedelta(seconds=seconds))


ALLOWED = [
    ("one to spare", THREE, {}, 1),
    ("one is not ready", [*THREE[:2], pod("c", ready=False)], {}, 0),
    ("one is leaving", [*THREE[:2], pod("c", **GOING)], {}, 0),
    ("one is being evicted", THREE, {"disruptedPods": {"a": ago(5)}}, 0),
    ("an eviction that never came", THREE, {"disruptedPods": {"a": ago(121)}}, 1),
    ("an eviction that is done", THREE, {"disruptedPods": {"z": ago(5)}}, 1),
]


@pytest.mark.parametrize(
    ("pods", "status", "allowed"), [row[1:] for row in ALLOWED], ids=[row[0] for row in ALLOWED]
)
def test_how_many_may_go(pods, status, allowed):
    found = wanted_status(budget(**status), pods, Expectation(3, 2), NOW)
    assert found["disruptionsAllowed"] == allowed
    said = condition({"status": found}, "DisruptionAllowed")
    assert (said["status"], said["reason"]) == (
        ("True", "SufficientPods") if allowed else ("False", "InsufficientPods")
    )
    again = wanted_status(budget(**found), pods, Expectation(3, 2), NOW + timedelta(seconds=1))
    assert again == found


def test_without_pods_nothing_may_go():
    assert wanted_status(budget(), [], Expectation(0, 0), NOW)["disruptionsAllowed"] == 0


def test_an_eviction_takes_one():
    found = charged(budget(disruptionsAllowed=2, observedGeneration=1), "a", rfc3339(NOW))["status"]
    assert (found["disruptionsAllowed"], found["disruptedPods"]) == (1, {"a": rfc3339(NOW)})


def test_an_eviction_that_has_no_room_is_told_so_in_kubernetes_words():
    full = budget(disruptionsAllowed=0, observedGeneration=1, desiredHealthy=2, currentHealthy=2)
    with pytest.raises(StatusError) as caught:
        charged(full, "a", rfc3339(NOW))
    error = caught.value
    assert (error.code, error.reason) == (429, "TooManyRequests")
    assert error.message == "Cannot evict pod as it would violate the pod's disruption budget."
    (cause,) = error.details["causes"]
    assert cause == {
        "reason": "DisruptionBudget",
        "message": "The disruption budget b needs 2 healthy pods and has 2 currently",
    }
    with pytest.raises(StatusError, match="Cannot evict") as caught:
        charged(budget(generation=3, disruptionsAllowed=2, observedGeneration=2), "a", rfc3339(NOW))
    assert "still being processed" in caught.value.details["causes"][0]["message"]
    assert caught.value.details["retryAfterSeconds"] == 10


FREE = [
    (pod("a"), {"currentHealthy": 3, "desiredHealthy": 2}, False),
    (pod("a", ready=False), {"currentHealthy": 2, "desiredHealthy": 2}, True),
    (pod("a", ready=False), {"currentHealthy": 1, "desiredHealthy": 2}, False),
]


@pytest.mark.parametrize(("about", "status", "free"), FREE)
def test_an_unhealthy_pod_may_go_while_the_others_are_enough(about, status, free):
    assert goes_free(budget(**status), about) is free


def test_unhealthy_pods_may_always_go_if_the_budget_says_so():
    lenient = budget(currentHealthy=0, desiredHealthy=2)
    lenient["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    assert goes_free(lenient, pod("a", ready=False))
    assert not goes_free(lenient, pod("a"))


def test_what_has_not_started_or_is_leaving_needs_no_budget():
    assert counts_for_a_budget(pod("a"))
    for phase in ("Pending", "Succeeded", "Failed"):
        assert not counts_for_a_budget(pod("a", phase=phase))
    assert not counts_for_a_budget(pod("a", **GOING))
