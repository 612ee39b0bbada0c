"""Evictions: deletes that ask first. A pod under a PodDisruptionBudget goes only while the budget has room.

Source: Kubernetes ``pkg/registry/core/pod/storage/eviction.go``; clients know its texts, `kubectl drain` waits on
its 429.
"""

from dataclasses import replace
from typing import Any

from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import Record, key_for
from controlplane.api.writing import lifecycle
from controlplane.api.writing.deletes import delete
from controlplane.api.writing.transactions import Act, Decision, transact
from controlplane.api.writing.writes import Machinery, Order
from netplane.kube.errors import bad_request, internal, not_found, refused, too_many_requests
from netplane.kube.objects import (
    Object,
    condition,
    is_deleting,
    is_true,
    labels_of,
    meta,
    name_of,
    namespace_of,
    rfc3339,
)
from netplane.kube.resources import PODDISRUPTIONBUDGETS, PODS
from netplane.kube.selectors import Selector

CAUSE = "DisruptionBudget"
STALE_SECONDS = 10
REMEMBERED_MOST = 2000
"""Pods a budget may remember as being evicted: more means that nobody keeps its status."""


async def evict(machinery: Machinery, order: Order, eviction: Object) -> Object:
    """POST an Eviction. Raises StatusError, 429 where a budget has no room."""
    route, given = order.route, eviction.get("deleteOptions")
    named = (
        (eviction.get("metadata") or {}).get("name") if isinstance(eviction.get("metadata"), dict) else None
    )
    if named and named != route.name:
        raise bad_request("name in URL does not match name in Eviction object")
    options = lifecycle.delete_options(given, {})
    if isinstance(given, dict) and given.get("dryRun"):
        order = replace(order, dry_run=True)
    record = machinery.hub.get(PODS, key_for(PODS, route.namespace, route.name))
    if record is None:
        raise not_found(PODS, route.name)
    lifecycle.check_preconditions(PODS, record.obj, options)
    if counts_for_a_budget(record.obj):
        await _take(machinery, order, record.obj)
    await delete(machinery, order, options)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def counts_for_a_budget(pod: Object) -> bool:
    """Whether the pod may be one of those a budget counts as healthy: it has started and is not leaving."""
    phase = (pod.get("status") or {}).get("phase")
    return phase not in ("Pending", "Succeeded", "Failed") and not is_deleting(pod)


def budgets_of(hub: Hub, pod: Object) -> list[Object]:
    """The budgets whose selector matches the pod; an empty selector matches all, an absent one none."""
    return [
        record.obj
        for record in hub.all(PODDISRUPTIONBUDGETS).values()
        if namespace_of(record.obj) == namespace_of(pod) and _selects(record.obj, pod)
    ]


def _selects(budget: Object, pod: Object) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and Selector.from_label_selector(selector).matches(labels_of(pod))


async def _take(machinery: Machinery, order: Order, pod: Object) -> None:
    """Take one disruption from the pod's budget, if it has one. Raises StatusError."""
    hub, found = machinery.hub, budgets_of(machinery.hub, pod)
    if len(found) > 1:
        text = (
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
        raise internal(text)
    if not found:
        return
    namespace, name = namespace_of(found[0]), name_of(found[0])
    kind = hub.kind_of(key_for(PODDISRUPTIONBUDGETS, namespace, name))
    assert kind is not None, "a budget was found, so budgets are served"

    def decide(record: Record | None) -> Decision:
        if record is None:  # deleted meanwhile: nothing speaks against the eviction
            return Decision(Act.KEEP, {})
        budget = record.copy()
        if goes_free(budget, pod):
            return Decision(Act.KEEP, budget)
        return Decision(Act.PUT, charged(budget, name_of(pod), rfc3339(machinery.clock())))

    await transact(hub, kind, namespace, name, decide, dry_run=order.dry_run)


def goes_free(budget: Object, pod: Object) -> bool:
    """Whether the pod is unhealthy, so that evicting it disrupts nothing that the budget protects."""
    if is_true(pod, "Ready"):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    desired = status.get("desiredHealthy") or 0
    return desired > 0 and (status.get("currentHealthy") or 0) >= desired


def charged(budget: Object, pod: str, now: str) -> Object:
    """The budget with one disruption less, and the pod remembered. Raises StatusError 429 or 403."""
    name, status = name_of(budget), dict(budget.get("status") or {})
    if (status.get("observedGeneration") or 0) < (meta(budget).get("generation") or 0):
        text = f"The disruption budget {name} is still being processed by the server."
        raise too_many_requests(_refusal(), STALE_SECONDS, [_cause(text)])
    disrupted = status.get("disruptedPods") or {}
    if len(disrupted) > REMEMBERED_MOST:
        text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise refused(PODDISRUPTIONBUDGETS, name, text)
    allowed = status.get("disruptionsAllowed") or 0
    if allowed <= 0:
        raise too_many_requests(_refusal(), 0, [_cause(_why(budget, status))])
    status |= {"disruptionsAllowed": allowed - 1, "disruptedPods": {**disrupted, pod: now}}
    return {**budget, "status": status}


def _refusal() -> str:
    return "Cannot evict pod as it would violate the pod's disruption budget."


def _why(budget: Object, status: dict[str, Any]) -> str:
    name, found = name_of(budget), condition(budget, "DisruptionAllowed")
    if found is not None and found.get("status") == "False" and found.get("reason") == "SyncFailed":
        why = found.get("message") or ""
        return f"The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
    needs, has = status.get("desiredHealthy") or 0, status.get("currentHealthy") or 0
    return f"The disruption budget {name} needs {needs} healthy pods and has {has} currently"


def _cause(text: str) -> dict[str, str]:
    return {"reason": CAUSE, "message": text}
