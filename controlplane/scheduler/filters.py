"""Which nodes can run a pod; for each that cannot, the reason in the words kube-scheduler uses.

Source: Kubernetes ``pkg/scheduler/framework/plugins``: NodeUnschedulable, NodeName, TaintToleration, NodeAffinity,
NodePorts, NodeResourcesFit. Volumes and preemption are not part of netplane.
"""

from collections import Counter
from collections.abc import Iterable

from controlplane.controllers.facts.affinity import fits_affinity
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.facts.taints import (
    UNSCHEDULABLE,
    taints_of,
    tolerates,
    tolerations_of,
    untolerated,
)
from controlplane.scheduler.usage import Demand, NodeUsage, allocatable_of
from netplane.kube.objects import Object, is_deleting, is_true, name_of


def reasons_against(pod: Object, demand: Demand, node: Object, usage: NodeUsage) -> list[str]:
    """Why the node cannot run the pod; empty when it can. The first filter that objects speaks."""
    for objection in (_unschedulable, _node_name, _taints, _not_ready, _affinity):
        if (reason := objection(pod, node)) is not None:
            return [reason]
    if any(wanted.collides(taken) for wanted in demand.ports for taken in usage.ports):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return lacking(demand, node, usage)


def lacking(demand: Demand, node: Object, usage: NodeUsage) -> list[str]:
    """What the node has too little of, beside what it has promised already."""
    allocatable = allocatable_of(node)
    reasons = []
    if usage.pods + 1 > allocatable.get("pods", 0):
        reasons.append("Too many pods")
    for name, amount in sorted(demand.requests.items()):
        if usage.requests[name] + amount > allocatable.get(name, 0):
            reasons.append(f"Insufficient {name}")
    return reasons


def explain(total: int, reasons: Iterable[str]) -> str:
    """The message of the condition and of the Event: ``0/3 nodes are available: 2 Insufficient cpu, ...``."""
    if total == 0:
        return "no nodes available to schedule pods"
    counted = Counter(reasons)
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in counted.items()))
    return f"0/{total} nodes are available: {listed}."


def _unschedulable(pod: Object, node: Object) -> str | None:
    if not spec_of(node).get("unschedulable") and not is_deleting(node):
        return None
    taint = {"key": UNSCHEDULABLE, "effect": "NoSchedule"}
    if not is_deleting(node) and any(tolerates(t, taint) for t in tolerations_of(pod)):
        return None
    return "node(s) were unschedulable"


def _node_name(pod: Object, node: Object) -> str | None:
    wanted = spec_of(pod).get("nodeName")
    return "node(s) didn't match the requested node name" if wanted and wanted != name_of(node) else None


def _taints(pod: Object, node: Object) -> str | None:
    taint = untolerated(tolerations_of(pod), taints_of(node), ("NoSchedule", "NoExecute"))
    if taint is None:
        return None
    return f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"


def _not_ready(_pod: Object, node: Object) -> str | None:
    return None if is_true(node, "Ready") else "node(s) were not ready"


def _affinity(pod: Object, node: Object) -> str | None:
    if fits_affinity(pod, node):
        return None
    return "node(s) didn't match Pod's node affinity/selector"
