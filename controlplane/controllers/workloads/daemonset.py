"""DaemonSets: one pod on every node that wants one, replaced node by node when the template changes."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from controlplane.controllers.actions import Action, status_patch
from controlplane.controllers.facts.owners import (
    claim,
    concerned,
    orphaned_in,
    owned_by,
    owner_key,
    selector_of,
)
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.facts.templates import refusal, told
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.workloads.daemonset_history import history_actions, stamp_of
from controlplane.controllers.workloads.daemonset_rules import (
    HASH_LABEL,
    Scene,
    manage,
    next_look,
    place_on,
    roll,
    status,
    target_of,
)
from netplane.kube.cache import Change
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from netplane.kube.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS


class DaemonSetController(Controller):
    """One key per DaemonSet."""

    name = "daemonset"
    component = "daemonset-controller"
    resources = (DAEMONSETS, PODS, NODES, CONTROLLERREVISIONS)
    workers = 2

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._pods_of = kit.caches.index(PODS, "owner", owned_by)
        self._orphans_in = kit.caches.index(PODS, "orphans", orphaned_in)
        self._revisions_of = kit.caches.index(CONTROLLERREVISIONS, "owner", owned_by)
        self._lost_revisions_in = kit.caches.index(CONTROLLERREVISIONS, "orphans", orphaned_in)
        self._sets_in = kit.caches.index(DAEMONSETS, "namespace", lambda ds: (namespace_of(ds),))

    def watches(self) -> Mapping[Any, Mapper]:
        """A DaemonSet itself, its pods and revisions; a node that became another place: all of them."""
        return {
            DAEMONSETS: itself,
            PODS: self._of_pod,
            NODES: self._of_node,
            CONTROLLERREVISIONS: lambda change: owner_key(change, DAEMONSETS),
        }

    def decide(self, key: ObjectKey) -> Decision:
        """Claims first, then the history, then pods, and a rolling update only where nothing else is to do."""
        daemonset = self.caches[DAEMONSETS].get(*key)
        selector = selector_of(daemonset) if daemonset is not None else None
        if daemonset is None or selector is None:
            return Decision()
        candidates = [*self._pods_of.get(uid_of(daemonset)), *self._orphans_in.get(key.namespace)]
        claimed = claim(DAEMONSETS, daemonset, PODS, selector, candidates)
        if claimed.actions or is_deleting(daemonset):
            return Decision(claimed.actions)
        kept = [*self._revisions_of.get(uid_of(daemonset)), *self._lost_revisions_in.get(key.namespace)]
        history = claim(DAEMONSETS, daemonset, CONTROLLERREVISIONS, selector, kept)
        in_use = {labels_of(pod).get(HASH_LABEL, "") for pod in claimed.held}
        kept_up = history.actions or history_actions(daemonset, history.held, in_use)
        if kept_up:
            return Decision(kept_up)
        scene = self._scene(daemonset)
        return Decision(manage(scene, self.kit.suffix) or roll(scene, self.kit.suffix), next_look(scene))

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Pods, then the status; what the API refuses becomes an Event."""
        daemonset = self.caches[DAEMONSETS].get(*key)
        if daemonset is None:
            return None
        decision = self.decide(key)
        failure = await self.attempt(key, decision.actions)
        pods = [a for a in decision.actions if getattr(a, "resource", None) == PODS]
        reports = told(daemonset, pods) if failure is None else [refusal(daemonset, pods, failure)]
        # While our own pods are not in the cache the counts would be of the past: the status waits with us.
        if not self.pending.unseen(key, self.caches.by_resource) and not is_deleting(daemonset):
            reports += _status_actions(daemonset, status(self._scene(daemonset)))
        await self.doer.perform(key, reports)
        if failure is not None:
            raise failure
        return decision.again_after

    def _scene(self, daemonset: Object) -> Scene:
        by_node: dict[str, list[Object]] = defaultdict(list)
        for pod in self._pods_of.get(uid_of(daemonset)):
            by_node[target_of(pod)].append(pod)
        places = {
            name_of(node): place_on(daemonset, node)
            for node in sorted(self.caches[NODES].values(), key=name_of)
            if not is_deleting(node)
        }
        return Scene(daemonset, places, by_node, stamp_of(daemonset), self.kit.now())

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        return concerned(change, DAEMONSETS, self._sets_in.get)

    def _of_node(self, change: Change) -> list[ObjectKey]:
        """Heartbeats change a node's status only, and so no place."""
        if (
            change.old is not None
            and change.new is not None
            and _standing(change.old) == _standing(change.new)
        ):
            return []
        return [key_of(daemonset) for daemonset in self.caches[DAEMONSETS].values()]


def _standing(node: Object) -> object:
    return labels_of(node), spec_of(node), is_deleting(node)


def _status_actions(daemonset: Object, wanted: dict[str, Any]) -> list[Action]:
    old = daemonset.get("status") or {}
    same = all((old.get(field) or 0) == value for field, value in wanted.items())
    return [] if same and old else [status_patch(DAEMONSETS, daemonset, wanted)]
