"""Deployments: one ReplicaSet per pod template, and the careful walk from one to the next.

The arithmetic is in ``rollout``, the bookkeeping in ``revisions``, the status in ``deployment_status``; here they
become one decision. Source for behaviour: Kubernetes ``pkg/controller/deployment``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.controllers.actions import (
    Action,
    Create,
    Delete,
    Patch,
    Record,
    metadata_patch,
    status_patch,
)
from controlplane.controllers.facts.owners import claim, orphaned_in, owned_by, owner_key, selector_of
from controlplane.controllers.facts.pods import is_terminal, spec_of, status_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.workloads.deployment_status import deployment_status, is_complete
from controlplane.controllers.workloads.revisions import (
    DESIRED,
    MAXIMUM,
    REVISION,
    bare_template,
    by_age,
    new_set,
    present_annotations,
    present_set,
    revision_of,
    size_annotations,
)
from controlplane.controllers.workloads.rollout import Bounds, Size, bounds, recreate, resize, rolling
from netplane.kube.cache import Change
from netplane.kube.errors import StatusError, is_already_exists
from netplane.kube.objects import (
    Object,
    ObjectKey,
    annotations_of,
    is_deleting,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_of,
    uid_of,
)
from netplane.kube.resources import DEPLOYMENTS, PODS, REPLICASETS

DEFAULT_HISTORY = 10


@dataclass(frozen=True, slots=True)
class View:
    """A Deployment and what it owns: ``sets`` oldest first, ``present`` one of them or None."""

    deployment: Object
    limits: Bounds
    sets: tuple[Object, ...]
    present: Object | None
    old_pods: int

    @property
    def old(self) -> list[Object]:
        """All ReplicaSets but the present one."""
        return [rs for rs in self.sets if rs is not self.present]

    @property
    def recreates(self) -> bool:
        """Whether the strategy is Recreate."""
        return (spec_of(self.deployment).get("strategy") or {}).get("type") == "Recreate"


def view(deployment: Object, sets: Sequence[Object], pods: Sequence[Object]) -> View:
    """Sort out the ReplicaSets; ``pods`` are all pods that any of them owns."""
    ordered = by_age(sets)
    present = present_set(deployment, ordered)
    old_uids = {uid_of(rs) for rs in ordered if rs is not present}
    old_pods = sum((owner_of(pod) or {}).get("uid") in old_uids and not is_terminal(pod) for pod in pods)
    return View(deployment, limits_of(deployment), tuple(ordered), present, old_pods)


def limits_of(deployment: Object) -> Bounds:
    """The bounds of its rollouts; without a rolling strategy, no surge and no limit on what is unavailable."""
    spec = spec_of(deployment)
    replicas = int(spec.get("replicas", 1))
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return Bounds(replicas, 0, 0)
    rolling_update = strategy.get("rollingUpdate") or {}
    return bounds(
        replicas, rolling_update.get("maxSurge", "25%"), rolling_update.get("maxUnavailable", "25%")
    )


def size_of(rs: Object) -> Size:
    """A ReplicaSet as the arithmetic sees it."""
    status = status_of(rs)
    return Size(
        name_of(rs),
        int(spec_of(rs).get("replicas", 1)),
        int(status.get("replicas") or 0),
        int(status.get("availableReplicas") or 0),
        settled=int(status.get("observedGeneration") or 0) >= int(meta(rs).get("generation") or 0),
        annotated_max=_number(annotations_of(rs).get(MAXIMUM)),
    )


def decide_deployment(seen: View, now: datetime) -> Decision:
    """One step: create or resize ReplicaSets, tidy up, and tell the status."""
    plan = deployment_status(seen.deployment, seen.limits, seen.present, seen.sets, now)
    actions: list[Action] = []
    if not is_deleting(seen.deployment):
        actions += _rollout(seen)
        if is_complete(seen.deployment, plan.status):
            actions += _tidy(seen)
    # A changed revision changes the resourceVersion: the status comes with the next look.
    if not any(isinstance(a, Patch) and a.resource == DEPLOYMENTS for a in actions):
        old = status_of(seen.deployment)
        if any((old.get(field) or None) != (value or None) for field, value in plan.status.items()):
            actions.append(status_patch(DEPLOYMENTS, seen.deployment, plan.status))
    return Decision(actions, plan.again_after)


def _rollout(seen: View) -> list[Action]:
    present = size_of(seen.present) if seen.present is not None else None
    old = [size_of(rs) for rs in seen.old]
    if spec_of(seen.deployment).get("paused") or _resized(seen):
        return _resizes(seen, resize(seen.limits, present, old, is_rolling=not seen.recreates))
    annotations = present_annotations(seen.deployment, seen.present, seen.old)
    if seen.recreates:
        sizes = recreate(seen.limits, present, old, seen.old_pods)
        waits = bool(sizes or seen.old_pods)
        if present is None and not waits:
            return [*_start(seen, seen.limits.replicas, annotations), *_revision(seen, annotations)]
        if present is None:
            return _resizes(seen, sizes)
    else:
        start = Size("", 0, 0, 0)
        sizes = rolling(seen.limits, present or start, old)
        if present is None:
            first = _start(seen, sizes.get("", 0), annotations)
            shrunk = {name: size for name, size in sizes.items() if name}
            return [*first, *_resizes(seen, shrunk), *_revision(seen, annotations)]
    return [*_resizes(seen, sizes, annotations), *_revision(seen, annotations)]


def _resized(seen: View) -> bool:
    """Whether the Deployment's replicas differ from what running ReplicaSets were scaled for."""
    wanted = str(seen.limits.replicas)
    return any(
        int(spec_of(rs).get("replicas", 1)) > 0 and annotations_of(rs).get(DESIRED, wanted) != wanted
        for rs in seen.sets
    )


def _start(seen: View, replicas: int, annotations: dict[str, str]) -> list[Action]:
    rs = new_set(seen.deployment, replicas, {**annotations, **size_annotations(seen.limits)})
    text = f"Scaled up replica set {name_of(rs)} from 0 to {replicas}"
    record = Record(seen.deployment, "Normal", "ScalingReplicaSet", text)
    return [Create(REPLICASETS, rs), *([record] if replicas else [])]


def _resizes(
    seen: View, sizes: Mapping[str, int], present_notes: Mapping[str, str] | None = None
) -> list[Action]:
    """One patch for each ReplicaSet whose size or annotations should change."""
    patches: list[Action] = []
    records: list[Action] = []
    for rs in seen.sets:
        is_present = rs is seen.present
        before = int(spec_of(rs).get("replicas", 1))
        after = sizes.get(name_of(rs), before)
        notes = dict(present_notes or {}) if is_present else {}
        if is_present or before or after:
            notes |= size_annotations(seen.limits)
        spec = {"replicas": after} if after != before else {}
        patience = int(spec_of(seen.deployment).get("minReadySeconds") or 0)
        if is_present and int(spec_of(rs).get("minReadySeconds") or 0) != patience:
            spec["minReadySeconds"] = patience
        changed = {key: value for key, value in notes.items() if annotations_of(rs).get(key) != value}
        if spec or changed:
            patches.append(metadata_patch(REPLICASETS, rs, {"annotations": changed}, spec=spec))
        if after != before:
            direction = "up" if after > before else "down"
            text = f"Scaled {direction} replica set {name_of(rs)} from {before} to {after}"
            records.append(Record(seen.deployment, "Normal", "ScalingReplicaSet", text))
    return [*patches, *records]


def _revision(seen: View, annotations: Mapping[str, str]) -> list[Action]:
    revision = annotations[REVISION]
    if annotations_of(seen.deployment).get(REVISION) == revision:
        return []
    return [metadata_patch(DEPLOYMENTS, seen.deployment, {"annotations": {REVISION: revision}})]


def _tidy(seen: View) -> list[Action]:
    """Old, empty ReplicaSets beyond the history limit, lowest revision first."""
    limit = spec_of(seen.deployment).get("revisionHistoryLimit")
    kept = DEFAULT_HISTORY if limit is None else int(limit)
    empty = [
        rs
        for rs in seen.old
        if (size := size_of(rs)).settled and size.wanted == size.replicas == 0 and not is_deleting(rs)
    ]
    empty.sort(key=revision_of)
    return [Delete(REPLICASETS, key_of(rs), uid_of(rs)) for rs in empty[: max(0, len(empty) - kept)]]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


class DeploymentController(Controller):
    """Watches Deployments, their ReplicaSets, and (for Recreate) the end of their pods."""

    name = "deployment"
    component = "deployment-controller"
    resources = (DEPLOYMENTS, REPLICASETS, PODS)
    workers = 2

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._sets_of = kit.caches.index(REPLICASETS, "owner", owned_by)
        self._orphans_in = kit.caches.index(REPLICASETS, "orphans", orphaned_in)
        self._pods_of = kit.caches.index(PODS, "owner", owned_by)
        self._deployments_in = kit.caches.index(DEPLOYMENTS, "namespace", lambda d: (namespace_of(d),))

    def watches(self) -> Mapping[Any, Mapper]:
        """A Deployment itself; a ReplicaSet's owner or possible adopter; the Deployment of a pod that went."""
        return {DEPLOYMENTS: itself, REPLICASETS: self._of_set, PODS: self._of_gone_pod}

    def decide(self, key: ObjectKey) -> Decision:
        """Claims first; the rollout once they are settled."""
        deployment = self.caches[DEPLOYMENTS].get(*key)
        selector = selector_of(deployment) if deployment is not None else None
        if deployment is None or selector is None:
            return Decision()
        candidates = [*self._sets_of.get(uid_of(deployment)), *self._orphans_in.get(key.namespace)]
        claimed = claim(DEPLOYMENTS, deployment, REPLICASETS, selector, candidates)
        if claimed.actions:
            return Decision(claimed.actions)
        pods = [pod for rs in claimed.held for pod in self._pods_of.get(uid_of(rs))]
        return decide_deployment(view(deployment, claimed.held, pods), self.kit.now())

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller; a taken ReplicaSet name is a hash collision, told apart from our own echo."""
        try:
            return await super().reconcile(key)
        except StatusError as error:
            if not is_already_exists(error):
                raise
            await self._collided(key)
            return 0.0

    async def _collided(self, key: ObjectKey) -> None:
        deployment = self.caches[DEPLOYMENTS].get(*key)
        if deployment is None:
            return
        wanted = new_set(deployment, 0, {})
        found = await self.kit.client.get(REPLICASETS, name_of(wanted), key.namespace)
        holder = owner_of(found) or {}
        templates = [bare_template(spec_of(rs).get("template") or {}) for rs in (found, wanted)]
        if holder.get("uid") == uid_of(deployment) and templates[0] == templates[1]:
            return
        count = int(status_of(deployment).get("collisionCount") or 0) + 1
        await self.doer.perform(key, [status_patch(DEPLOYMENTS, deployment, {"collisionCount": count})])

    def _of_set(self, change: Change) -> list[ObjectKey]:
        keys = owner_key(change, DEPLOYMENTS)
        if keys or change.new is None or owner_of(change.new) is not None:
            return keys
        labels = labels_of(change.new)
        return [
            key_of(deployment)
            for deployment in self._deployments_in.get(namespace_of(change.new))
            if (selector := selector_of(deployment)) is not None and selector.matches(labels)
        ]

    def _of_gone_pod(self, change: Change) -> list[ObjectKey]:
        """Recreate waits for the last old pod to be gone; other strategies learn all from ReplicaSet statuses."""
        if change.new is not None and not is_terminal(change.new):
            return []
        keys = []
        for owner in owner_key(change, REPLICASETS):
            rs = self.caches[REPLICASETS].get(*owner)
            holder = owner_of(rs) if rs is not None else None
            if holder is not None and holder.get("kind") == DEPLOYMENTS.kind:
                keys.append(ObjectKey(owner.namespace, str(holder.get("name"))))
        return keys
