"""Is a node alive, and what becomes of its pods if not. Pure decisions.

A Lease that is not renewed in time means: nobody can say how the node's pods are. So its Ready condition becomes
Unknown, new pods are kept away by taints, its pods leave the endpoints at once, and after their toleration time
they are removed so that they are replaced elsewhere.
Source: Kubernetes ``pkg/controller/nodelifecycle`` and ``pkg/controller/tainteviction``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.controllers.actions import Action, Delete, Record, metadata_patch, status_patch
from controlplane.controllers.facts.pods import is_ready, is_terminal, status_of
from controlplane.controllers.facts.taints import (
    NETWORK_UNAVAILABLE,
    NOT_READY,
    UNREACHABLE,
    seconds_tolerated,
    taints_of,
    tolerations_of,
)
from controlplane.controllers.options import Options
from netplane.kube.objects import (
    Object,
    condition,
    is_deleting,
    key_of,
    name_of,
    parse_time,
    rfc3339,
    set_condition,
    uid_of,
)
from netplane.kube.resources import NODES, PODS

HEARTBEAT_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
UNKNOWN_REASON = "NodeStatusUnknown"
UNKNOWN_TEXT = "The node agent stopped renewing its Lease."
OURS = (UNREACHABLE, NOT_READY, NETWORK_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a node stands. ``isolated``: no node at all is heard of, so it may well be us who are cut off."""

    alive: bool
    isolated: bool = False


def node_actions(node: Object, verdict: Verdict, now: datetime) -> list[Action]:
    """What to write on the Node itself: conditions first, then taints."""
    actions: list[Action] = []
    if not verdict.alive:
        actions += _unknown_conditions(node, now)
    taints = _wanted_taints(node, verdict, now)
    # Both writes carry the resourceVersion we saw, so one of them at a time; the echo brings the other.
    if not actions and taints != taints_of(node):
        actions.append(metadata_patch(NODES, node, {}, spec={"taints": taints}))
    return actions


def _unknown_conditions(node: Object, now: datetime) -> list[Action]:
    conditions = list(status_of(node).get("conditions") or [])
    ready = condition(node, "Ready")
    if ready is not None and ready.get("status") == "Unknown":
        return []
    present = {c.get("type") for c in conditions} | {"Ready"}
    for kind in HEARTBEAT_CONDITIONS:
        if kind in present:
            conditions = set_condition(
                conditions, kind, "Unknown", UNKNOWN_REASON, UNKNOWN_TEXT, rfc3339(now)
            )
    text = f"Node {name_of(node)} status is now: NodeNotReady"
    return [
        status_patch(NODES, node, {"conditions": conditions}),
        Record(node, "Warning", "NodeNotReady", text),
    ]


def _wanted_taints(node: Object, verdict: Verdict, now: datetime) -> list[dict[str, Any]]:
    wanted = [*_readiness_taints(node, verdict), *_network_taints(node)]
    present = taints_of(node)
    kept = [t for t in present if t.get("key") not in OURS or (t.get("key"), t.get("effect")) in wanted]
    there = {(t.get("key"), t.get("effect")) for t in kept}
    added = [pair for pair in wanted if pair not in there]
    return [*kept, *({"key": key, "effect": effect, "timeAdded": rfc3339(now)} for key, effect in added)]


def _readiness_taints(node: Object, verdict: Verdict) -> list[tuple[str, str]]:
    # A node that has never said anything is not ready; Unknown is what we said of one that fell silent.
    ready = (condition(node, "Ready") or {}).get("status", "False")
    unreachable = not verdict.alive or ready == "Unknown"
    ours = UNREACHABLE if unreachable else {"True": ""}.get(ready, NOT_READY)
    return [(ours, "NoSchedule"), (ours, "NoExecute")] if ours else []


def _network_taints(node: Object) -> list[tuple[str, str]]:
    """No further pod where the network cannot take one; those that are there stay."""
    unavailable = (condition(node, "NetworkUnavailable") or {}).get("status") == "True"
    return [(NETWORK_UNAVAILABLE, "NoSchedule")] if unavailable else []


def unready_pods(pods: Iterable[Object], now: datetime) -> list[Action]:
    """Nobody can say that these still answer: they leave the endpoints at once."""
    actions: list[Action] = []
    for pod in pods:
        if is_ready(pod) and not is_terminal(pod):
            conditions = list(status_of(pod).get("conditions") or [])
            wanted = set_condition(conditions, "Ready", "False", "NodeNotReady", UNKNOWN_TEXT, rfc3339(now))
            actions.append(status_patch(PODS, pod, {"conditions": wanted}))
            actions.append(Record(pod, "Warning", "NodeNotReady", "Node is not ready"))
    return actions


@dataclass(frozen=True, slots=True)
class Evictions:
    """The pods to remove now, and in how many seconds the next one is due."""

    actions: tuple[Action, ...]
    next_in: float | None


def evictions(
    node: Object, pods: Sequence[Object], verdict: Verdict, options: Options, now: datetime
) -> Evictions:
    """Remove the pods that do not tolerate the node's NoExecute taints any longer.

    On a dead node nobody will stop the containers and say so: the pods are removed without waiting for it.
    """
    taints = [t for t in taints_of(node) if t.get("effect") == "NoExecute"]
    if verdict.alive:  # it has just come back: its taint will go as soon as it says how it is
        taints = [t for t in taints if t.get("key") != UNREACHABLE]
    if not taints or verdict.isolated:
        return Evictions((), None)
    actions: list[Action] = []
    waits: list[float] = []
    for pod in sorted(pods, key=name_of):
        if is_terminal(pod) or (is_deleting(pod) and verdict.alive):
            continue
        left = _seconds_left(pod, taints, options, now)
        if left is None:
            continue
        if left > 0:
            waits.append(left)
            continue
        grace = None if verdict.alive else 0
        actions.append(Delete(PODS, key_of(pod), uid_of(pod), grace_seconds=grace))
        if not is_deleting(pod):
            text = f"Evicting the pod: node {name_of(node)} has taint {taints[0].get('key')}:NoExecute"
            actions.append(Record(pod, "Warning", "TaintManagerEviction", text))
    return Evictions(tuple(actions), min(waits, default=None))


def _seconds_left(
    pod: Object, taints: Sequence[Mapping[str, Any]], options: Options, now: datetime
) -> float | None:
    """Until the earliest eviction; None for a pod that tolerates all taints for ever."""
    # Who taints a node by hand means it now; our own taints give time to recover.
    defaults = {UNREACHABLE: options.pod_eviction_timeout, NOT_READY: options.not_ready_eviction_timeout}
    limits = []
    for taint in taints:
        default = defaults.get(str(taint.get("key")), 0.0)
        tolerated = seconds_tolerated(tolerations_of(pod), taint, default)
        if tolerated is not None:
            limits.append(tolerated - (now - _added(taint, now)).total_seconds())
    return min(limits, default=None)


def _added(taint: Mapping[str, Any], now: datetime) -> datetime:
    try:
        return parse_time(str(taint.get("timeAdded")))
    except ValueError:
        return now
