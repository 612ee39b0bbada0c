"""Pods whose Node is no longer there: nobody will ever run or remove them, so they are removed here.

A Node may be deleted and registered again by its agent a moment later, while its pods run on: they get the same
grace as a silent node before they count as lost.
"""

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.actions import Delete, Record
from controlplane.controllers.facts.pods import node_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper
from netplane.kube import errors
from netplane.kube.cache import Change
from netplane.kube.objects import ObjectKey, key_of, uid_of
from netplane.kube.resources import NODES, PODS


class PodGarbageController(Controller):
    """One key per node name that pods refer to."""

    name = "podgc"
    component = "pod-garbage-collector"
    resources = (PODS, NODES)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._missing_since: dict[str, float] = {}
        self._pods_on = kit.caches.index(PODS, "node", lambda pod: (node_of(pod),))

    def watches(self) -> Mapping[Any, Mapper]:
        """Nodes that come and go, and pods on nodes we do not know."""
        return {
            NODES: lambda change: [change.key] if change.old is None or change.new is None else [],
            PODS: self._of_pod,
        }

    def decide(self, key: ObjectKey) -> Decision:
        """Wait out the grace, then remove every pod of the missing node."""
        pods = self._pods_on.get(key.name)
        if self.caches[NODES].get("", key.name) is not None or not pods:
            self._missing_since.pop(key.name, None)
            return Decision()
        since = self._missing_since.setdefault(key.name, self.kit.monotonic())
        left = since + self.options.node_monitor_grace_period - self.kit.monotonic()
        if left > 0:
            return Decision(again_after=left)
        text = f"Removing the pod: its node {key.name} no longer exists"
        deletes = [Delete(PODS, key_of(pod), uid_of(pod), grace_seconds=0) for pod in pods]
        return Decision([*deletes, *(Record(pod, "Warning", "NodeGone", text) for pod in pods)])

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller, but the API itself must say that the Node is gone."""
        decision = self.decide(key)
        if not decision.actions:
            return decision.again_after
        try:
            await self.kit.client.get(NODES, key.name)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            await self.doer.perform(key, decision.actions)
        return None

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        name = node_of(change.object)
        if not name or change.new is None or self.caches[NODES].get("", name) is not None:
            return []
        return [ObjectKey("", name)]
