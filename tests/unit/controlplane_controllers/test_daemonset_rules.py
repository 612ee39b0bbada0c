"""DaemonSets: which nodes, which pods, and that a rolling update never takes too much at once."""

import copy
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.actions import Create, Delete, Patch
from controlplane.controllers.workloads.daemonset_history import data_of, history_actions, stamp_of
from controlplane.controllers.workloads.daemonset_rules import (
    HASH_LABEL,
    Scene,
    manage,
    next_look,
    place_on,
    pod_for,
    roll,
    status,
    target_of,
)
from netplane.kube.objects import labels_of, name_of, rfc3339, set_condition

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def daemonset(unavailable=1, surge=0, strategy="RollingUpdate", image="one", **spec):
    labels = {"app": "agent"}
    update = {"type": strategy}
    if strategy == "RollingUpdate":
        update["rollingUpdate"] = {"maxUnavailable": unavailable, "maxSurge": surge}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "default", "uid": "uid-ds", "generation": 2},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": update,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": image}], **spec},
            },
        },
    }


def node(name="n1", taints=(), labels=None, **spec):
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"taints": list(taints), **spec}}


def pod(name, where="n1", stamp="new", ready=True, age=3600, phase="Running", **metadata):
    born = rfc3339(NOW - timedelta(seconds=age))
    conditions = set_condition([], "Ready", "True", "", "", born) if ready else []
    labels = {"app": "agent", HASH_LABEL: stamp}
    about = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels, **metadata}
    return {
        "metadata": {**about, "creationTimestamp": born},
        "spec": {"nodeName": where},
        "status": {"phase": phase, "conditions": conditions},
    }


def scene(ds, nodes, pods, stamp="new", now=NOW):
    by_node = defaultdict(list)
    for found in pods:
        by_node[target_of(found)].append(found)
    places = {name_of(each): place_on(ds, each) for each in nodes}
    return Scene(ds, places, by_node, stamp, now)


def taint(key, effect="NoSchedule"):
    return {"key": key, "effect": effect}


PLACES = [
    # node, template, (wanted, stays)
    (node(), {}, (True, True)),
    (node(unschedulable=True, taints=[taint("node.kubernetes.io/unschedulable")]), {}, (True, True)),
    (node(taints=[taint("node.kubernetes.io/not-ready", "NoExecute")]), {}, (True, True)),
    (node(taints=[taint("dedicated")]), {}, (False, True)),
    (node(taints=[taint("dedicated", "NoExecute")]), {}, (False, False)),
    (node(taints=[taint("dedicated")]), {"tolerations": [{"operator": "Exists"}]}, (True, True)),
    (node(labels={"disk": "ssd"}), {"nodeSelector": {"disk": "ssd"}}, (True, True)),
    (node(), {"nodeSelector": {"disk": "ssd"}}, (False, False)),
    (node(), {"nodeName": "n2"}, (False, False)),
    (node(taints=[taint("node.kubernetes.io/network-unavailable")]), {}, (False, True)),
    (node(taints=[taint("node.kubernetes.io/network-unavailable")]), {"hostNetwork": True}, (True, True)),
]


@pytest.mark.parametrize(("where", "template", "expected"), PLACES)
def test_where_a_daemon_belongs(where, template, expected):
    found = place_on(daemonset(**template), where)
    assert (found.wanted, found.stays) == expected


def test_a_pod_is_made_for_one_node_and_keeps_the_template_s_own_wishes():
    terms = [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]
    wish = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    ds = daemonset(affinity=wish)
    before = copy.deepcopy(ds)
    made = pod_for(ds, "n2", "abc", "x1")
    assert target_of(made) == "n2"
    assert labels_of(made) == {"app": "agent", HASH_LABEL: "abc"}
    (term,) = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == terms[0]["matchExpressions"]
    assert {t["key"] for t in made["spec"]["tolerations"]} >= {"node.kubernetes.io/not-ready"}
    assert ds == before, "the template belongs to the cache"


def names():
    numbers = count()
    return lambda: f"s{next(numbers)}"


def told(actions):
    return sorted(
        f"+{target_of(a.object)}" if isinstance(a, Create) else f"-{a.key.name}"
        for a in actions
        if isinstance(a, Create | Delete)
    )


GOING = {"deletionTimestamp": "2026-01-01T12:00:00Z"}
MANAGED = [
    ("one is missing", [pod("a")], ["+n2"]),
    ("nothing to do", [pod("a"), pod("b", "n2")], []),
    ("too many: the oldest stays", [pod("a", age=9), pod("b", age=99), pod("c", "n2")], ["-a"]),
    ("its successor waits for it", [pod("a", **GOING), pod("c", "n2")], []),
    (
        "gone but for its object: no reason to wait",
        [pod("a", phase="Failed", **GOING), pod("c", "n2")],
        ["+n1"],
    ),
    ("failed: it goes first", [pod("a", phase="Failed", ready=False), pod("c", "n2")], ["-a"]),
    ("failed a moment ago", [pod("a", phase="Failed", ready=False, age=3), pod("c", "n2")], []),
    ("on a node that wants none", [pod("a"), pod("b", "n2"), pod("c", "n3")], ["-c"]),
]


@pytest.mark.parametrize(("pods", "expected"), [row[1:] for row in MANAGED], ids=[row[0] for row in MANAGED])
def test_one_pod_a_node(pods, expected):
    nodes = [node("n1"), node("n2"), node("n3", taints=[taint("own", "NoExecute")])]
    assert told(manage(scene(daemonset(), nodes, pods), names())) == expected


def test_time_alone_brings_us_back():
    ds = daemonset()
    ds["spec"]["minReadySeconds"] = 30
    pods = [pod("a", age=10), pod("b", "n2", phase="Failed", ready=False, age=3)]
    assert next_look(scene(ds, [node("n1"), node("n2")], pods)) == 12.0


OLD = [pod("a", stamp="old"), pod("b", "n2", stamp="old"), pod("c", "n3", stamp="old")]
ROLLED = [
    ("one at a time", {}, OLD, ["-a"]),
    ("two at a time", {"unavailable": 2}, OLD, ["-a", "-b"]),
    ("a share, rounded up", {"unavailable": "34%"}, OLD, ["-a", "-b"]),
    ("not while the new one is not ready", {}, [pod("a", ready=False), *OLD[1:]], []),
    ("not while one is missing", {}, OLD[1:], []),
    ("what is broken goes at once", {}, [OLD[0], pod("b", "n2", stamp="old", ready=False), OLD[2]], ["-b"]),
    ("by hand", {"strategy": "OnDelete"}, OLD, []),
    ("a surge starts the new one first", {"unavailable": 0, "surge": 1}, OLD, ["+n1"]),
    (
        "a surge waits for the new one",
        {"unavailable": 0, "surge": 1},
        [*OLD, pod("d", "n1", ready=False)],
        [],
    ),
]


@pytest.mark.parametrize(
    ("limits", "pods", "expected"), [row[1:] for row in ROLLED], ids=[row[0] for row in ROLLED]
)
def test_the_next_step_of_an_update(limits, pods, expected):
    nodes = [node(name) for name in ("n1", "n2", "n3")]
    assert told(roll(scene(daemonset(**limits), nodes, pods), names())) == expected


def test_after_a_surge_the_old_pod_goes():
    ds = daemonset(unavailable=0, surge=1)
    assert told(manage(scene(ds, [node()], [OLD[0], pod("d")]), names())) == ["-a"]
    assert told(manage(scene(ds, [node()], [OLD[0], pod("d", ready=False)]), names())) == []


def test_the_status_counts_nodes():
    nodes = [node("n1"), node("n2"), node("n3"), node("n4", taints=[taint("own")])]
    pods = [pod("a"), pod("b", "n2", stamp="old"), pod("d", "n4")]
    assert status(scene(daemonset(), nodes, pods)) == {
        "currentNumberScheduled": 2,
        "numberMisscheduled": 1,
        "desiredNumberScheduled": 3,
        "numberReady": 2,
        "updatedNumberScheduled": 1,
        "numberAvailable": 2,
        "numberUnavailable": 1,
        "observedGeneration": 2,
    }


def test_the_history_keeps_templates_and_forgets_the_oldest():
    ds = daemonset()
    (first,) = history_actions(ds, [], set())
    kept = first.object | {"metadata": {**first.object["metadata"], "uid": "r1"}}
    assert (kept["revision"], kept["data"]) == (1, data_of(ds))
    assert history_actions(ds, [kept], set()) == []

    changed = daemonset(image="two")
    (second,) = history_actions(changed, [kept], set())
    assert second.object["revision"] == 2
    assert labels_of(second.object)[HASH_LABEL] == stamp_of(changed) != stamp_of(ds)

    (undone,) = history_actions(ds, [kept, second.object], set())
    assert isinstance(undone, Patch)
    assert undone.body["revision"] == 3

    changed["spec"]["revisionHistoryLimit"] = 0
    assert history_actions(changed, [kept, second.object], {stamp_of(ds)}) == []
    (forgotten,) = history_actions(changed, [kept, second.object], set())
    assert isinstance(forgotten, Delete)


@given(
    nodes=st.integers(1, 6),
    unavailable=st.integers(0, 3),
    surge=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from(["ready", "break", "gone", "act"]), st.integers(0, 20))),
)
@settings(deadline=None)
def test_an_update_ends_and_never_takes_too_much(nodes, unavailable, surge, steps):
    """Whatever pods do meanwhile: our deletes leave all but maxUnavailable nodes with an available pod."""
    if (unavailable == 0) == (surge == 0):
        unavailable, surge = 1, 0
    ds = daemonset(unavailable, surge)
    where = [node(f"n{number}") for number in range(nodes)]
    world = {f"old{n}": pod(f"old{n}", f"n{n}", stamp="old") for n in range(nodes)}
    suffix = names()

    def served():
        return {target_of(p) for p in world.values() if scene(ds, where, [p]).available(p)}

    def act():
        now = scene(ds, where, world.values())
        before = served()
        actions = manage(now, suffix) or roll(now, suffix)
        for action in actions:
            if isinstance(action, Create):
                target, name = target_of(action.object), name_of(action.object)
                assert sum(target_of(p) == target for p in world.values()) <= (1 if surge else 0)
                world[name] = pod(name, target, ready=False)
            else:
                world.pop(action.key.name)
        lost = before - served()
        assert not lost or len(served()) >= nodes - unavailable
        return actions

    for kind, number in steps:
        chosen = sorted(world)[number % len(world)] if world else None
        if kind == "act":
            act()
        elif chosen and kind == "gone":
            del world[chosen]
        elif chosen:
            old = world[chosen]
            stamp = labels_of(old)[HASH_LABEL]
            world[chosen] = pod(chosen, target_of(old), stamp=stamp, ready=kind == "ready")
    for _ in range(6 * nodes + 6):
        act()
        for name, found in world.items():
            world[name] = pod(name, target_of(found), stamp=labels_of(found)[HASH_LABEL])
    assert sorted(target_of(p) for p in world.values()) == sorted(name_of(n) for n in where)
    assert {labels_of(p)[HASH_LABEL] for p in world.values()} == {"new"}
