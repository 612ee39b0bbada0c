"""PodDisruptionBudgets: how many pods may be evicted now. Evictions take from this number, we refill it.

Source: Kubernetes ``pkg/controller/disruption/disruption.go``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from controlplane.controllers.actions import Action, Record, Replace
from controlplane.controllers.facts.pods import is_ready, is_terminal, spec_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from netplane.kube.cache import Change
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_of,
    parse_time,
    rfc3339,
    set_condition,
    uid_of,
)
from netplane.kube.resources import DEPLOYMENTS, PODDISRUPTIONBUDGETS, PODS, REPLICASETS
from netplane.kube.selectors import Selector

EVICTION_SECONDS = 120  # an eviction that has not become a deletion by then did not happen


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many pods there should be and how many of them must be healthy; ``failure`` says why nobody knows."""

    pods: int
    healthy: int
    failure: str = ""


def share(value: int | str, total: int) -> int:
    """A number, or a percentage of ``total`` rounded up, as the disruption controller rounds both limits."""
    text = str(value)
    return ceil(int(text[:-1]) * total / 100) if text.endswith("%") else int(text)


def expect(spec: Mapping[str, Any], pods: int, scale: int | str) -> Expectation:
    """What the budget asks for. ``scale``: the size of the pods' owners together, or why it is not known."""
    most_gone, least = spec.get("maxUnavailable"), spec.get("minAvailable")
    if most_gone is None and least is None:
        return Expectation(pods, 0)
    if most_gone is None and isinstance(least, int):
        return Expectation(pods, least)
    if isinstance(scale, str):
        return Expectation(0, 0, scale)
    if most_gone is not None:
        return Expectation(scale, max(0, scale - share(most_gone, scale)))
    return Expectation(scale, share(least or 0, scale))


def remembered(budget: Object, pods: Mapping[str, Object], now: datetime) -> dict[str, str]:
    """The evictions that are still on their way: accepted, but the pod is not being deleted yet."""
    disrupted: dict[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
    return {
        name: when
        for name, when in disrupted.items()
        if name in pods
        and not is_deleting(pods[name])
        and now < parse_time(when) + timedelta(seconds=EVICTION_SECONDS)
    }


def wanted_status(
    budget: Object, pods: Sequence[Object], expected: Expectation, now: datetime
) -> dict[str, Any]:
    """The whole ``status``, given the pods that the budget selects."""
    on_their_way = remembered(budget, {name_of(pod): pod for pod in pods}, now)
    healthy = sum(is_ready(p) and not is_deleting(p) and name_of(p) not in on_their_way for p in pods)
    allowed = 0 if expected.pods <= 0 else max(0, healthy - expected.healthy)
    old, stamp = (budget.get("status") or {}).get("conditions") or [], rfc3339(now)
    if expected.failure:
        allowed = 0
        conditions = set_condition(old, "DisruptionAllowed", "False", "SyncFailed", expected.failure, stamp)
    elif allowed:
        conditions = set_condition(old, "DisruptionAllowed", "True", "SufficientPods", "", stamp)
    else:
        conditions = set_condition(old, "DisruptionAllowed", "False", "InsufficientPods", "", stamp)
    generation = meta(budget).get("generation", 0)
    conditions = [
        {**c, "observedGeneration": generation, "message": "" if not expected.failure else expected.failure}
        if c.get("type") == "DisruptionAllowed"
        else c
        for c in conditions
    ]
    status: dict[str, Any] = {
        "currentHealthy": healthy,
        "desiredHealthy": expected.healthy,
        "disruptionsAllowed": allowed,
        "expectedPods": expected.pods,
        "observedGeneration": generation,
        "conditions": conditions,
    }
    return {**status, "disruptedPods": on_their_way} if on_their_way else status


class DisruptionController(Controller):
    """One key per PodDisruptionBudget."""

    name = "disruption"
    component = "controllermanager"
    resources = (PODDISRUPTIONBUDGETS, PODS, REPLICASETS, DEPLOYMENTS)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._budgets_in = kit.caches.index(PODDISRUPTIONBUDGETS, "namespace", lambda b: (namespace_of(b),))
        self._pods_in = kit.caches.index(PODS, "namespace", lambda pod: (namespace_of(pod),))

    def watches(self) -> Mapping[Any, Mapper]:
        """A budget itself, the pods it selects, and the sizes of their owners."""
        return {
            PODDISRUPTIONBUDGETS: itself,
            PODS: self._of_pod,
            REPLICASETS: self._of_owner,
            DEPLOYMENTS: self._of_owner,
        }

    def decide(self, key: ObjectKey) -> Decision:
        """Write the status where it is not so already."""
        budget = self.caches[PODDISRUPTIONBUDGETS].get(*key)
        if budget is None or is_deleting(budget):
            return Decision()
        selector = _selector(budget)
        pods = [
            pod
            for pod in self._pods_in.get(key.namespace)
            if selector is not None and selector.matches(labels_of(pod)) and not is_terminal(pod)
        ]
        expected = expect(spec_of(budget), len(pods), self._scale(pods))
        status = wanted_status(budget, pods, expected, self.kit.now())
        actions: list[Action] = []
        if status != (budget.get("status") or {}):
            actions.append(Replace(PODDISRUPTIONBUDGETS, {**budget, "status": status}, subresource="status"))
            if expected.failure:
                actions.append(Record(budget, "Warning", "CalculateExpectedPodCountFailed", expected.failure))
        again = EVICTION_SECONDS if status.get("disruptedPods") else None
        return Decision(actions, again)

    def _scale(self, pods: Sequence[Object]) -> int | str:
        """The sizes of the owners of these pods together; pods without an owner count for nothing."""
        sizes: dict[str, int] = {}
        for pod in pods:
            holder = owner_of(pod)
            if holder is None:
                continue
            found = self._owner_size(namespace_of(pod), holder)
            if isinstance(found, str):
                return found
            sizes[found[0]] = found[1]
        return sum(sizes.values())

    def _owner_size(self, namespace: str, holder: Mapping[str, Any]) -> tuple[str, int] | str:
        """(uid, replicas) of who says how many pods there are: a Deployment, or a ReplicaSet without one."""
        kind, name = str(holder.get("kind")), str(holder.get("name"))
        if kind != REPLICASETS.kind:
            group = str(holder.get("apiVersion")).rpartition("/")[0]
            return f"{kind.lower()}s.{group} does not implement the scale subresource"
        rs = self.caches[REPLICASETS].get(namespace, name)
        if rs is None or uid_of(rs) != holder.get("uid"):
            return f'found no controller ref for pod of {kind} "{name}"'
        above = owner_of(rs)
        if above is not None and above.get("kind") == DEPLOYMENTS.kind:
            deployment = self.caches[DEPLOYMENTS].get(namespace, str(above.get("name")))
            if deployment is not None and uid_of(deployment) == above.get("uid"):
                return uid_of(deployment), int(spec_of(deployment).get("replicas", 1))
        return uid_of(rs), int(spec_of(rs).get("replicas", 1))

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        """Budgets that select the pod as it is or as it was."""
        labels = [labels_of(pod) for pod in (change.old, change.new) if pod is not None]
        return [
            key_of(budget)
            for budget in self._budgets_in.get(namespace_of(change.object))
            if (selector := _selector(budget)) is not None and any(map(selector.matches, labels))
        ]

    def _of_owner(self, change: Change) -> list[ObjectKey]:
        old, new = change.old, change.new
        if old is not None and new is not None and _size(old) == _size(new):
            return []
        return [key_of(budget) for budget in self._budgets_in.get(namespace_of(change.object))]


def _size(owner: Object) -> object:
    return spec_of(owner).get("replicas")


def _selector(budget: Object) -> Selector | None:
    """policy/v1: an empty selector selects every pod of the namespace, an absent one none."""
    given = spec_of(budget).get("selector")
    if given is None:
        return None
    try:
        return Selector.from_label_selector(given)
    except ValueError:
        return None
