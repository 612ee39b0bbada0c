"""Nodes: pod networks, silence, taints, evictions."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.actions import Delete, Patch, Record
from controlplane.controllers.nodes.liveness import Verdict, evictions, node_actions, unready_pods
from controlplane.controllers.nodes.podcidr import Range, allocate, ranges_of
from controlplane.controllers.options import Options
from netplane.errors import ConfigError
from netplane.kube.objects import Object, condition, set_condition

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
ALIVE, DEAD = Verdict(alive=True), Verdict(alive=False)


def node(name: str = "n1", ready: str | None = "True", **spec: Any) -> Object:
    conditions = set_condition([], "Ready", ready, "", "", "2026-01-01T00:00:00Z") if ready else []
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "5"}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}


def taint(key: str, effect: str = "NoExecute", age: float = 0) -> dict[str, str]:
    added = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"key": f"node.kubernetes.io/{key}", "effect": effect, "timeAdded": added}


def pod(name: str = "p", ready: str = "True", tolerations: Any = (), **metadata: Any) -> Object:
    conditions = set_condition([], "Ready", ready, "", "", "2026-01-01T00:00:00Z")
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata},
        "spec": {"nodeName": "n1", "tolerations": list(tolerations)},
        "status": {"phase": "Running", "conditions": conditions},
    }


RANGE = (Range(ip_network("10.244.0.0/22"), 24),)


def given_networks(nodes: list[Object]) -> dict[str, list[str]]:
    return {
        a.key.name: a.body["spec"]["podCIDRs"]
        for a in allocate(nodes, RANGE, "now")
        if isinstance(a, Patch) and "spec" in a.body
    }


def test_the_lowest_free_network_is_given_and_never_taken_back() -> None:
    nodes = [node("a", podCIDRs=["10.244.1.0/24"]), node("b"), node("c")]
    assert given_networks(nodes) == {"b": ["10.244.0.0/24"], "c": ["10.244.2.0/24"]}
    assert given_networks([node("a", podCIDR="172.16.0.0/24")]) == {}


def test_networks_of_another_size_are_stepped_around() -> None:
    nodes = [node("a", podCIDRs=["10.244.0.0/23"]), node("b", podCIDRs=["10.244.2.128/25"]), node("c")]
    assert given_networks(nodes) == {"c": ["10.244.3.0/24"]}


def test_an_exhausted_range_is_told_once_on_the_node() -> None:
    full = [node(f"n{i}", podCIDRs=[f"10.244.{i}.0/24"]) for i in range(4)]
    late = node("late")
    status, event = allocate([*full, late], RANGE, "now")
    assert isinstance(status, Patch)
    assert isinstance(event, Record)
    found = condition(status.body, "NetworkUnavailable")
    assert found["status"] == "True"
    assert "cannot allocate a pod CIDR for node late: all 4 /24 networks of 10.244.0.0/22" in event.message
    late["status"] = status.body["status"]
    assert allocate([*full, late], RANGE, "now") == []
    late["spec"]["podCIDRs"] = ["10.244.9.0/24"]
    [recovered] = allocate([*full, late], RANGE, "now")
    assert isinstance(recovered, Patch)
    assert condition(recovered.body, "NetworkUnavailable")["status"] == "False"


def test_dual_stack_gives_one_of_each_or_none() -> None:
    both = (Range(ip_network("10.244.0.0/24"), 24), Range(ip_network("fd00:10:244::/56"), 64))
    patch = allocate([node("a")], both, "now")[0]
    assert isinstance(patch, Patch)
    assert patch.body["spec"] == {
        "podCIDR": "10.244.0.0/24",
        "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
    }
    refused = allocate([node("a", podCIDRs=["10.244.0.0/24"]), node("b")], both, "now")
    assert all("spec" not in a.body for a in refused if isinstance(a, Patch))


def test_a_part_larger_than_the_whole_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="nodeCidrMaskSizeIpv4 is 24"):
        ranges_of(Options(cluster_cidrs=(ip_network("10.244.0.0/25"),)))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["join", "leave"]), max_size=40))
def test_no_network_is_ever_given_twice(steps: list[str]) -> None:
    nodes: list[Object] = []
    for number, step in enumerate(steps):
        if step == "leave" and nodes:
            nodes.pop(number % len(nodes))
        else:
            nodes.append(node(f"n{number}"))
        for name, networks in given_networks(nodes).items():
            next(n for n in nodes if n["metadata"]["name"] == name)["spec"]["podCIDRs"] = networks
        held = [network for n in nodes for network in n["spec"].get("podCIDRs") or []]
        assert len(held) == len(set(held)) == min(len(nodes), 4)


def taints_after(machine: Object, verdict: Verdict) -> list[tuple[str, str]] | None:
    patches = [a for a in node_actions(machine, verdict, NOW) if isinstance(a, Patch) and "spec" in a.body]
    if not patches:
        return None
    return [(t["key"].rpartition("/")[2], t["effect"]) for t in patches[0].body["spec"]["taints"]]


def without_network(status: str, **spec: Any) -> Object:
    found = node(**spec)
    found["status"]["conditions"].append({"type": "NetworkUnavailable", "status": status})
    return found


TAINTS: list[tuple[str, Object, Verdict, list[tuple[str, str]] | None]] = [
    ("well", node(), ALIVE, None),
    ("well again", node(taints=[taint("unreachable")]), ALIVE, []),
    ("not ready", node(ready="False"), ALIVE, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]),
    (
        "never said anything",
        node(ready=None),
        ALIVE,
        [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")],
    ),
    ("takes no further pod", without_network("True"), ALIVE, [("network-unavailable", "NoSchedule")]),
    (
        "takes pods again",
        without_network("False", taints=[taint("network-unavailable", "NoSchedule")]),
        ALIVE,
        [],
    ),
    (
        "silent, and known to be",
        node(ready="Unknown"),
        DEAD,
        [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")],
    ),
    (
        "others' taints stay",
        node(taints=[taint("custom", "NoSchedule"), taint("not-ready")]),
        ALIVE,
        [("custom", "NoSchedule")],
    ),
]


@pytest.mark.parametrize(
    ("machine", "verdict", "expected"), [row[1:] for row in TAINTS], ids=[row[0] for row in TAINTS]
)
def test_taints(machine: Object, verdict: Verdict, expected: Any) -> None:
    assert taints_after(machine, verdict) == expected


def test_silence_makes_conditions_unknown_before_anything_else() -> None:
    status, event = node_actions(node(), DEAD, NOW)
    assert isinstance(status, Patch)
    assert condition(status.body, "Ready")["status"] == "Unknown"
    assert isinstance(event, Record)
    assert event.reason == "NodeNotReady"
    assert status.body["metadata"]["resourceVersion"] == "5"


def test_ready_pods_of_a_silent_node_become_unready_once() -> None:
    actions = unready_pods([pod("a"), pod("b", ready="False")], NOW)
    [patch] = [a for a in actions if isinstance(a, Patch)]
    assert patch.key.name == "a"
    assert condition(patch.body, "Ready")["status"] == "False"


OPTIONS = Options(pod_eviction_timeout=300, not_ready_eviction_timeout=400)
TOLERANT = ({"operator": "Exists"},)
BRIEF = ({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 10},)
DELETING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
EVICTIONS: list[tuple[str, Object, Any, Verdict, int | str | None, float | None]] = [
    ("in time", pod(), taint("unreachable", age=100), DEAD, "stays", 200),
    ("timed out on a dead node: no grace", pod(), taint("unreachable", age=300), DEAD, 0, None),
    ("timed out on a living node: its grace", pod(), taint("not-ready", age=400), ALIVE, None, None),
    ("not ready has its own time", pod(), taint("not-ready", age=300), ALIVE, "stays", 100),
    ("shorter toleration", pod(tolerations=BRIEF), taint("unreachable", age=11), DEAD, 0, None),
    ("tolerates all", pod(tolerations=TOLERANT), taint("unreachable", age=900), DEAD, "stays", None),
    ("a person's taint evicts at once", pod(), taint("custom"), ALIVE, None, None),
    ("terminating on a dead node", pod(**DELETING), taint("unreachable", age=300), DEAD, 0, None),
    ("terminating on a living node", pod(**DELETING), taint("not-ready", age=400), ALIVE, "stays", None),
    ("back, but not yet ready", pod(), taint("unreachable", age=900), ALIVE, "stays", None),
    ("we are cut off", pod(), taint("unreachable", age=900), Verdict(False, isolated=True), "stays", None),
]


@pytest.mark.parametrize(
    ("victim", "by", "verdict", "grace", "again"),
    [row[1:] for row in EVICTIONS],
    ids=[row[0] for row in EVICTIONS],
)
def test_evictions(victim: Object, by: Any, verdict: Verdict, grace: Any, again: float | None) -> None:
    found = evictions(node(taints=[by]), [victim], verdict, OPTIONS, NOW)
    deletes = [a for a in found.actions if isinstance(a, Delete)]
    assert [a.grace_seconds for a in deletes] == ([] if grace == "stays" else [grace])
    assert found.next_in == again
