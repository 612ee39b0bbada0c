"""ReplicaSets: as many pods as asked for, no more even while the cache lags, and a status that says so.

Source for behaviour: Kubernetes ``pkg/controller/replicaset``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete, status_patch
from controlplane.controllers.facts.owners import (
    claim,
    concerned,
    orphaned_in,
    owned_by,
    selector_of,
)
from controlplane.controllers.facts.pods import (
    is_active,
    is_ready,
    matches_labels,
    seconds_until_available,
    spec_of,
)
from controlplane.controllers.facts.templates import pod_from_template, refusal, told
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.workloads.ranking import first_to_go
from netplane.kube.cache import Change
from netplane.kube.errors import StatusError
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    meta,
    namespace_of,
    owner_of,
    rfc3339,
    set_condition,
    uid_of,
)
from netplane.kube.resources import PODS, REPLICASETS

BURST = 500  # pods created or deleted by one decision


@dataclass(frozen=True, slots=True)
class Counts:
    """What a ReplicaSet's status counts; ``available_in`` is when the next ready pod becomes available."""

    replicas: int
    labelled: int
    ready: int
    available: int
    available_in: float | None


def scale(
    rs: Object, active: Sequence[Object], related: Sequence[Object], suffix: Callable[[], str]
) -> list[Action]:
    """The pods to create or delete so that ``spec.replicas`` are active."""
    missing = int(spec_of(rs).get("replicas", 1)) - len(active)
    if missing > 0:
        return [Create(PODS, pod_for(rs, suffix())) for _ in range(min(missing, BURST))]
    doomed = first_to_go(active, related)[: min(-missing, BURST)]
    return [Delete(PODS, key_of(pod), uid_of(pod)) for pod in doomed]


def pod_for(rs: Object, suffix: str) -> Object:
    """A pod from the template, named after its ReplicaSet."""
    return pod_from_template(REPLICASETS, rs, suffix)


def counts(rs: Object, active: Sequence[Object], now: datetime) -> Counts:
    """Count the active pods as the status wants them counted."""
    labels = meta(spec_of(rs).get("template") or {}).get("labels") or {}
    patience = int(spec_of(rs).get("minReadySeconds") or 0)
    waits = [seconds_until_available(pod, patience, now) for pod in active]
    return Counts(
        replicas=len(active),
        labelled=sum(matches_labels(pod, labels) for pod in active),
        ready=sum(is_ready(pod) for pod in active),
        available=sum(wait == 0 for wait in waits),
        available_in=min((wait for wait in waits if wait), default=None),
    )


def status(rs: Object, found: Counts, failure: str, now: datetime) -> dict[str, Any]:
    """The whole ``status``; ``failure`` says why pods could not be created or deleted, "" when they could."""
    old = rs.get("status") or {}
    conditions = list(old.get("conditions") or [])
    if failure:
        missing = int(spec_of(rs).get("replicas", 1)) - found.replicas
        reason = "FailedCreate" if missing >= 0 else "FailedDelete"
        conditions = set_condition(conditions, "ReplicaFailure", "True", reason, failure, rfc3339(now))
    else:
        conditions = [c for c in conditions if c.get("type") != "ReplicaFailure"]
    return {
        "replicas": found.replicas,
        "fullyLabeledReplicas": found.labelled,
        "readyReplicas": found.ready,
        "availableReplicas": found.available,
        "observedGeneration": meta(rs).get("generation", 0),
        "conditions": conditions,
    }


def status_actions(rs: Object, wanted: dict[str, Any]) -> list[Action]:
    """The status write, where the status is not as wanted already."""
    old = rs.get("status") or {}
    same = all((old.get(field) or None) == (value or None) for field, value in wanted.items())
    return [] if same else [status_patch(REPLICASETS, rs, wanted)]


class ReplicaSetController(Controller):
    """Creates and deletes pods. Several ReplicaSets are worked on at once; each by one worker."""

    name = "replicaset"
    component = "replicaset-controller"
    resources = (REPLICASETS, PODS)
    workers = 4

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._pods_of = kit.caches.index(PODS, "owner", owned_by)
        self._orphans_in = kit.caches.index(PODS, "orphans", orphaned_in)
        self._sets_in = kit.caches.index(REPLICASETS, "namespace", lambda rs: (namespace_of(rs),))
        self._sets_of = kit.caches.index(REPLICASETS, "owner", owned_by)

    def watches(self) -> Mapping[Any, Mapper]:
        """A ReplicaSet itself; a pod's owner; for a pod without owner, whoever might adopt it."""
        return {REPLICASETS: itself, PODS: self._concerned}

    def decide(self, key: ObjectKey) -> Decision:
        """Adoptions and releases first; pods only once claims are settled."""
        rs = self.caches[REPLICASETS].get(*key)
        selector = selector_of(rs) if rs is not None else None
        if rs is None or selector is None:
            return Decision()
        candidates = [*self._pods_of.get(uid_of(rs)), *self._orphans_in.get(key.namespace)]
        claimed = claim(REPLICASETS, rs, PODS, selector, [pod for pod in candidates if is_active(pod)])
        if claimed.actions or is_deleting(rs):
            return Decision(claimed.actions)
        return Decision(scale(rs, claimed.held, self._related(rs), self.kit.suffix))

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Scale, then write the status; a refusal by the API becomes a condition and an Event."""
        rs = self.caches[REPLICASETS].get(*key)
        if rs is None:
            return None
        decision = self.decide(key)
        failure = await self.attempt(key, decision.actions)
        await self._tell(key, rs, decision, failure)
        if failure is not None:
            raise failure
        return self._next_look(rs)

    async def _tell(
        self, key: ObjectKey, rs: Object, decision: Decision, failure: StatusError | None
    ) -> None:
        reports = told(rs, decision.actions) if failure is None else []
        if failure is not None:
            reports.append(refusal(rs, decision.actions, failure))
        # While our own pods are not in the cache the counts would be of the past: the status waits with us.
        if not self.pending.unseen(key, self.caches.by_resource):
            now = self.kit.now()
            why = failure.message if failure is not None else ""
            reports += status_actions(rs, status(rs, counts(rs, self._active(rs), now), why, now))
        await self.doer.perform(key, reports)

    def _next_look(self, rs: Object) -> float | None:
        return counts(rs, self._active(rs), self.kit.now()).available_in

    def _active(self, rs: Object) -> list[Object]:
        return [pod for pod in self._pods_of.get(uid_of(rs)) if is_active(pod)]

    def _related(self, rs: Object) -> list[Object]:
        """Active pods of all ReplicaSets with the same owner: where they pile up, one goes first."""
        holder = owner_of(rs)
        siblings = self._sets_of.get(str(holder.get("uid"))) if holder is not None else [rs]
        return [pod for sibling in siblings for pod in self._active(sibling)]

    def _concerned(self, change: Change) -> list[ObjectKey]:
        return concerned(change, REPLICASETS, self._sets_in.get)
