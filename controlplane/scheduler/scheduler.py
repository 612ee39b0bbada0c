"""Pods without a node → a node, or a reason why not.

A decision is made against caches plus what was decided before and is not yet visible (assumed pods). Pods that fit
nowhere are tried again when a node or a pod changes in a way that could matter, and else only slowly.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.controllers.actions import Action, Bind, Record, status_patch
from controlplane.controllers.facts.owners import owned_by
from controlplane.controllers.facts.pods import is_terminal, matches_labels, node_of, spec_of, status_of
from controlplane.controllers.facts.taints import taints_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper
from controlplane.scheduler.choice import Chosen, Siblings, choose
from controlplane.scheduler.usage import Usage, allocatable_of, demand_of
from netplane.errors import PeerError
from netplane.kube.cache import Change
from netplane.kube.errors import StatusError, is_conflict
from netplane.kube.objects import (
    Object,
    ObjectKey,
    condition,
    is_deleting,
    is_true,
    key_of,
    labels_of,
    namespace_of,
    owner_of,
    rfc3339,
    set_condition,
    uid_of,
)
from netplane.kube.resources import NODES, PODS, SERVICES

SCHEDULER_NAME = "default-scheduler"
SLOWLY = 60.0  # seconds after which a pod that fits nowhere is tried again without any event
ASSUMED_FOR = 30.0  # seconds until a binding that never showed up is given up


@dataclass(frozen=True, slots=True)
class Assumed:
    """A binding that was decided; the cache will show it, or not. ``asked``: whether the API has answered."""

    node: str
    uid: str
    since: float
    asked: bool = True


class Scheduler(Controller):
    """Decisions are made one after another, in one event loop; only the bindings overlap."""

    name = "scheduler"
    component = SCHEDULER_NAME
    resources = (PODS, NODES, SERVICES)
    workers = 4

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._usage = Usage()
        self._assumed: dict[ObjectKey, Assumed] = {}
        self._waiting: set[ObjectKey] = set()
        self._pods_of = kit.caches.index(PODS, "owner", owned_by)
        self._pods_in = kit.caches.index(PODS, "namespace", lambda pod: (namespace_of(pod),))
        self._services_in = kit.caches.index(SERVICES, "namespace", lambda s: (namespace_of(s),))

    def watches(self) -> Mapping[Any, Mapper]:
        """Pods without a node; and for those that fit nowhere, whatever could make room."""
        return {PODS: self._of_pod, NODES: self._of_node}

    def decide(self, key: ObjectKey) -> Decision:
        """A binding, or the reason why there is none."""
        pod = self.caches[PODS].get(*key)
        if pod is None or not schedulable(pod):
            self._waiting.discard(key)
            return Decision()
        if (assumed := self._assumed.get(key)) is not None and assumed.uid == uid_of(pod):
            if not assumed.asked:
                self._assumed[key] = replace(assumed, asked=True)
                return Decision([Bind(key, uid_of(pod), assumed.node)], ASSUMED_FOR)
            if self.kit.monotonic() - assumed.since < ASSUMED_FOR:
                return Decision(again_after=ASSUMED_FOR)
            self._forget(key)
        demand = demand_of(pod)
        nodes = self.caches[NODES].values()
        found = choose(pod, demand, nodes, self._usage, self._siblings(pod))
        if not isinstance(found, Chosen):
            self._waiting.add(key)
            return Decision(self._unschedulable(pod, found.message), SLOWLY)
        self._waiting.discard(key)
        self._usage.hold(key, found.node, demand)
        self._assumed[key] = Assumed(found.node, uid_of(pod), self.kit.monotonic())
        text = f"Successfully assigned {key} to {found.node}"
        return Decision(
            [Bind(key, uid_of(pod), found.node), Record(pod, "Normal", "Scheduled", text)], ASSUMED_FOR
        )

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller; what is assumed is forgotten only when the API has refused it.

        After a conflict the pod has a node already, or is another: the cache will tell. After no answer at all
        the binding may have happened: the same node is asked for again.
        """
        try:
            return await super().reconcile(key)
        except StatusError as error:
            if is_conflict(error) and key in self._assumed:
                return ASSUMED_FOR
            self._forget(key)
            raise
        except PeerError:
            if (assumed := self._assumed.get(key)) is not None:
                self._assumed[key] = replace(assumed, asked=False)
            raise

    def _unschedulable(self, pod: Object, message: str) -> list[Action]:
        current = condition(pod, "PodScheduled") or {}
        told = Record(pod, "Warning", "FailedScheduling", message)
        wanted = {"status": "False", "reason": "Unschedulable", "message": message}
        if all(current.get(field) == value for field, value in wanted.items()):
            return [told]
        now = rfc3339(self.kit.now())
        conditions = list(status_of(pod).get("conditions") or [])
        conditions = set_condition(conditions, "PodScheduled", "False", "Unschedulable", message, now)
        return [status_patch(PODS, pod, {"conditions": conditions}), told]

    def _siblings(self, pod: Object) -> Siblings:
        holder = owner_of(pod)
        owned = self._pods_of.get(str(holder.get("uid"))) if holder is not None else []
        by_owner, by_service = self._by_node(owned), self._by_node(self._of_common_service(pod))
        return {node: (by_owner[node], by_service[node]) for node in by_owner.keys() | by_service.keys()}

    def _of_common_service(self, pod: Object) -> list[Object]:
        selectors = [spec_of(s).get("selector") or {} for s in self._services_in.get(namespace_of(pod))]
        common = [selector for selector in selectors if selector and matches_labels(pod, selector)]
        if not common:
            return []
        peers = self._pods_in.get(namespace_of(pod))
        return [peer for peer in peers if any(matches_labels(peer, selector) for selector in common)]

    def _by_node(self, pods: Iterable[Object]) -> Counter[str]:
        """Where pods are or will be; those that are going do not count."""
        return Counter(
            node for pod in pods if not is_deleting(pod) and (node := self._usage.node_of(key_of(pod)))
        )

    def _forget(self, key: ObjectKey) -> None:
        self._assumed.pop(key, None)
        self._usage.release(key)

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        """Keep the books, then say who could be placed now."""
        key, pod = change.key, change.new
        if pod is None or is_terminal(pod):
            self._assumed.pop(key, None)
            self._waiting.discard(key)
            return list(self._waiting) if self._usage.release(key) else []
        assumed = self._assumed.get(key)
        if assumed is not None and assumed.uid != uid_of(pod):
            self._forget(key)
        if node := node_of(pod):
            self._assumed.pop(key, None)
            self._waiting.discard(key)
            if change.old is None or node_of(change.old) != node or is_terminal(change.old):
                self._usage.hold(key, node, demand_of(pod))
            return []
        return [key] if schedulable(pod) and not _only_status(change) else []

    def _of_node(self, change: Change) -> list[ObjectKey]:
        if change.old is not None and change.new is not None and _offers(change.old) == _offers(change.new):
            return []
        return list(self._waiting)


def schedulable(pod: Object) -> bool:
    """Whether the pod is ours to place, and still without a place."""
    spec = spec_of(pod)
    return (
        not node_of(pod)
        and not is_deleting(pod)
        and not is_terminal(pod)
        and not spec.get("schedulingGates")
        and (spec.get("schedulerName") or SCHEDULER_NAME) == SCHEDULER_NAME
    )


def _only_status(change: Change) -> bool:
    """Our own condition coming back is no reason to try again."""
    if change.old is None or change.new is None:
        return False
    return change.old.get("spec") == change.new.get("spec") and labels_of(change.old) == labels_of(change.new)


def _offers(node: Object) -> tuple[object, ...]:
    """All of a Node that a filter looks at; heartbeats change none of it."""
    return (
        labels_of(node),
        taints_of(node),
        bool(spec_of(node).get("unschedulable")),
        is_true(node, "Ready"),
        is_deleting(node),
        allocatable_of(node),
    )
