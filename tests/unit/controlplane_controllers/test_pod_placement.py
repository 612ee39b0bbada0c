"""The scheduler: filters and messages by table, and books that never over-commit a node."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.facts.taints import seconds_tolerated, tolerates
from controlplane.scheduler.choice import Chosen, Impossible, choose
from controlplane.scheduler.filters import reasons_against
from controlplane.scheduler.usage import Demand, HostPort, Usage, allocatable_of, demand_of
from netplane.kube.objects import Object, ObjectKey, name_of, set_condition


def node(
    name: str = "n1", *, ready: str = "True", labels: dict[str, str] | None = None, **more: Any
) -> Object:
    sizes = {"cpu": "2", "memory": "1Gi", "pods": "10", **more.pop("allocatable", {})}
    conditions = set_condition([], "Ready", ready, "", "", "2026-01-01T00:00:00Z")
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": more,
        "status": {"allocatable": sizes, "conditions": conditions},
    }


def pod(name: str = "p", cpu: str = "", **spec: Any) -> Object:
    resources = {"requests": {"cpu": cpu}} if cpu else {}
    containers = spec.pop("containers", [{"name": "c", "resources": resources}])
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"containers": containers, **spec},
    }


def host_port(port: int, address: str = "", protocol: str = "TCP") -> list[dict[str, Any]]:
    entry = {"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol}
    return [{"name": "c", "ports": [entry]}]


def required(*expressions: dict[str, Any]) -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


DEDICATED = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
AFFINITY = ["node(s) didn't match Pod's node affinity/selector"]
FILTERS: list[tuple[str, Object, Object, list[str]]] = [
    ("fits", pod(cpu="1"), node(), []),
    ("too large", pod(cpu="2100m"), node(), ["Insufficient cpu"]),
    ("no slots", pod(), node(allocatable={"pods": "0"}), ["Too many pods"]),
    (
        "unknown resource",
        pod(containers=[{"resources": {"limits": {"gpu": 1}}}]),
        node(),
        ["Insufficient gpu"],
    ),
    ("cordoned", pod(), node(unschedulable=True), ["node(s) were unschedulable"]),
    ("cordoned, tolerated", pod(tolerations=[{"operator": "Exists"}]), node(unschedulable=True), []),
    ("not ready", pod(), node(ready="False"), ["node(s) were not ready"]),
    ("other node", pod(nodeName="n2"), node(), ["node(s) didn't match the requested node name"]),
    ("tainted", pod(), node(taints=[DEDICATED]), ["node(s) had untolerated taint {dedicated: db}"]),
    ("taint tolerated", pod(tolerations=[{"key": "dedicated", "value": "db"}]), node(taints=[DEDICATED]), []),
    ("soft taint", pod(), node(taints=[{**DEDICATED, "effect": "PreferNoSchedule"}]), []),
    ("selector", pod(nodeSelector={"disk": "ssd"}), node(labels={"disk": "ssd"}), []),
    ("selector differs", pod(nodeSelector={"disk": "ssd"}), node(labels={"disk": "hdd"}), AFFINITY),
    (
        "affinity",
        pod(affinity=required({"key": "disk", "operator": "Exists"})),
        node(labels={"disk": "x"}),
        [],
    ),
    ("affinity differs", pod(affinity=required({"key": "disk", "operator": "Exists"})), node(), AFFINITY),
    (
        "affinity by order",
        pod(affinity=required({"key": "cores", "operator": "Gt", "values": ["4"]})),
        node(labels={"cores": "8"}),
        [],
    ),
    ("empty terms match nothing", pod(affinity=required()), node(), AFFINITY),
]


@pytest.mark.parametrize(
    ("wanting", "machine", "expected"), [row[1:] for row in FILTERS], ids=[row[0] for row in FILTERS]
)
def test_filters(wanting: Object, machine: Object, expected: list[str]) -> None:
    assert reasons_against(wanting, demand_of(wanting), machine, Usage().on("n1")) == expected


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        (host_port(80), host_port(80), False),
        (host_port(80), host_port(81), True),
        (host_port(80), host_port(80, protocol="UDP"), True),
        (host_port(80, "10.0.0.1"), host_port(80, "10.0.0.2"), True),
        (host_port(80, "10.0.0.1"), host_port(80, "0.0.0.0"), False),
    ],
)
def test_host_ports(first: Any, second: Any, free: bool) -> None:
    usage = Usage()
    usage.hold(ObjectKey("default", "first"), "n1", demand_of(pod("first", containers=first)))
    wanting = pod("second", containers=second)
    assert (reasons_against(wanting, demand_of(wanting), node(), usage.on("n1")) == []) is free


def test_the_message_counts_the_reasons() -> None:
    nodes = [node("n1", ready="False"), node("n2"), node("n3")]
    found = choose(pod(cpu="3"), demand_of(pod(cpu="3")), nodes, Usage(), {})
    assert found == Impossible("0/3 nodes are available: 1 node(s) were not ready, 2 Insufficient cpu.")
    assert choose(pod(), Demand({}), [], Usage(), {}) == Impossible("no nodes available to schedule pods")


def test_spread_comes_before_balance_and_the_name_decides_last() -> None:
    nodes = [node("n3"), node("n1"), node("n2")]
    usage = Usage()
    assert choose(pod(), Demand({}), nodes, usage, {}) == Chosen("n1")
    usage.hold(ObjectKey("default", "other"), "n1", Demand({"cpu": 1000}))
    assert choose(pod(), Demand({}), nodes, usage, {}) == Chosen("n2")
    assert choose(pod(), Demand({}), nodes, usage, {"n2": (1, 0), "n3": (2, 0)}) == Chosen("n1")
    in_a_rollout = {"n1": (0, 2), "n2": (1, 1), "n3": (0, 1)}
    assert choose(pod(), Demand({}), nodes, usage, in_a_rollout) == Chosen("n3")


def test_preferences_come_before_spread() -> None:
    preference = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    wishes = [{"weight": 5, "preference": preference}]
    wanting = pod(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}})
    nodes = [node("n1"), node("n2", labels={"disk": "ssd"})]
    assert choose(wanting, Demand({}), nodes, Usage(), {"n2": (3, 3)}) == Chosen("n2")


def test_demand_is_the_larger_of_the_start_and_the_run() -> None:
    made = pod(
        containers=[{"resources": {"requests": {"cpu": "100m"}}}, {"resources": {"limits": {"cpu": "200m"}}}],
        initContainers=[
            {"resources": {"requests": {"cpu": "50m", "memory": "1Ki"}}},
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
            {"resources": {"requests": {"cpu": "500m"}}},
        ],
        overhead={"cpu": "1m"},
    )
    assert demand_of(made).requests == {"cpu": 601, "memory": 1024}


OPS = st.lists(
    st.tuples(
        st.sampled_from(["schedule", "schedule", "schedule", "remove"]),
        st.integers(0, 12),
        st.integers(0, 1500),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(OPS)
def test_no_node_is_ever_over_committed(operations: list[tuple[str, int, int, int]]) -> None:
    nodes = [node(f"n{i}", allocatable={"pods": "4"}) for i in range(3)]
    usage = Usage()
    placed: dict[ObjectKey, tuple[str, Demand]] = {}
    for name, number, cpu, port in operations:
        key = ObjectKey("default", f"p{number}")
        if name == "remove":
            assert usage.release(key) is (placed.pop(key, None) is not None)
            continue
        if key in placed:
            continue
        demand = Demand({"cpu": cpu}, (HostPort("", "TCP", port),) if port else ())
        counted = Counter(where for where, _ in placed.values())
        siblings = {where: (count, count) for where, count in counted.items()}
        match choose(pod(key.name), demand, nodes, usage, siblings):
            case Chosen(where):
                usage.hold(key, where, demand)
                placed[key] = (where, demand)
        for machine in nodes:
            here = [d for where, d in placed.values() if where == name_of(machine)]
            allocatable = allocatable_of(machine)
            assert sum(d.requests["cpu"] for d in here) == usage.on(name_of(machine)).requests["cpu"]
            assert sum(d.requests["cpu"] for d in here) <= allocatable["cpu"]
            assert len(here) <= allocatable["pods"]
            assert max(Counter(p for d in here for p in d.ports).values(), default=0) <= 1


@pytest.mark.parametrize(
    ("toleration", "taint", "expected"),
    [
        ({"operator": "Exists"}, DEDICATED, True),
        ({"key": "dedicated", "operator": "Exists"}, DEDICATED, True),
        ({"key": "dedicated", "value": "db", "effect": "NoExecute"}, DEDICATED, False),
        ({"key": "dedicated", "value": "web"}, DEDICATED, False),
        ({"key": "other", "operator": "Exists"}, DEDICATED, False),
    ],
)
def test_tolerations(toleration: dict[str, Any], taint: dict[str, Any], expected: bool) -> None:
    assert tolerates(toleration, taint) is expected


def test_how_long_a_taint_is_tolerated() -> None:
    taint = {"key": "k", "effect": "NoExecute"}
    forever = {"key": "k", "operator": "Exists"}
    assert seconds_tolerated([], taint, 7) == 7
    assert seconds_tolerated([forever], taint, 7) is None
    assert seconds_tolerated([forever, {**forever, "tolerationSeconds": 3}], taint, 7) == 3
